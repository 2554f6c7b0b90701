"""Evaluation: confusion counts, accuracy metrics computed from them, calibration, figures and reports."""
