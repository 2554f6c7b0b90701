"""From a map to areas with intervals: draw a sample of pixels, have it interpreted, estimate."""
