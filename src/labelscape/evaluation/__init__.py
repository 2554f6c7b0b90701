"""How good is a map? Integer counts first, every score from them, each with its definition."""
