"""Label rasters and polygons, read on a scene's grid as classes of a legend."""
