"""Open anything GDAL opens and read windows of it: pixels with their validity and place."""
