"""Exact fast forms of the papers' sums, each tested against the plain form in value and in gradient."""
