"""What happens inside a trained network on your own scenes: the analyses that the five papers argue with, on
a page and as numbers.

One module per family of networks; `general` and `bands` hold what every network can be asked, `choosing` and
`windows` what is looked at, `reference` the labels it is compared with, `run` the table of analyses.
"""
