"""Checks of images and labels before training."""
