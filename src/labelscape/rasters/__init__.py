"""Rasters that are written: Cloud Optimized GeoTIFFs that open coloured and named."""
