# Labelscape with PyTorch for CPUs, and Dask for clusters:
#
#   docker build -t labelscape .
#   docker run --rm -v "$PWD:/work" labelscape labelscape map run/mlp.safetensors scene.tif --out map
#
# The pages have the same commands (docs/how-to/machines.md, clusters.md); tests/test_manifests.py compares them.
FROM python:3.12-slim
# The GDAL in rasterio's wheel takes expat from the system, which slim images may lack.
RUN apt-get update && apt-get install -y --no-install-recommends libexpat1 && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN pip install --no-cache-dir '/src[cluster]' -c /src/constraints.txt --extra-index-url https://download.pytorch.org/whl/cpu
WORKDIR /work
CMD ["labelscape", "--help"]
