"""Labelled scenes: a user's own and published data sets; train, val and test splits; checks."""
