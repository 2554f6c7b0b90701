"""The networks. `catalog` lists them; one module per paper. Nothing here knows about files or geography."""
