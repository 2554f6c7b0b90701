"""From labelled scenes to a checkpoint."""
