"""What a model knows of its imagery (bands, values, units, pixel size, colours), and whether a scene fits
it.
"""
