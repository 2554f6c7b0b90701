"""A finished class raster as areas: minimum mapping unit, polygons, styles. No network, no scene."""
