"""Published data sets in the layouts they are distributed in, with the splits the papers use."""
