"""Reading pictures of the ground. Nothing here imports torch."""
