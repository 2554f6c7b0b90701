"""The only road from pixels to class probabilities: normalise, tile, run the network, average, blend."""
