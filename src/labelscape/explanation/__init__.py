"""What happens inside a trained network on your own scenes: the analyses that the five papers argue with, on
a page and as numbers.

One module per family of networks; `general` holds what every network can be asked, `windows` what is looked
at, `run` the table of analyses.
"""
