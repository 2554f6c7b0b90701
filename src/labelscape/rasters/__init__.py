"""Write rasters: Cloud Optimized GeoTIFFs with colour tables, class names and overviews."""
