"""Share the work of a verb among processes of this machine or of a Dask cluster."""
