"""Published data sets, read in the folder layouts they are distributed in, with the papers' splits."""
