"""Labelled scenes: a user's own and, in time, the published sets. Splits, sampling, augmentation."""
