"""Ways in and out: other people's weights, other people's formats."""
