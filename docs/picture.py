"""Paint docs/havel.png from what `make demo` left in demo-out: python docs/picture.py"""

from pathlib import Path

import matplotlib.patches as patches
import numpy as np
import rasterio
from matplotlib.figure import Figure

import labelscape as ls
from labelscape.demo import BANDS, scene_folder

HERE, OUT = Path(__file__).parent, Path("demo-out")

checkpoint = ls.load(OUT / "mlp.safetensors")
legend = checkpoint.legend
with ls.Scene(scene_folder() / "IMG_DATA", bands=BANDS) as scene:
    picture = scene.thumbnail(1000)
with rasterio.open(OUT / "map" / "havel_class.tif") as file:
    values = file.read(1, out_shape=picture.shape[:2])
with rasterio.open(OUT / "map" / "havel_confidence.tif") as file:
    confidence = file.read(1, out_shape=picture.shape[:2])

figure = Figure(figsize=(15, 3.2), dpi=110, layout="constrained")
axes = figure.subplots(1, 3)
axes[0].imshow(picture)
axes[0].set_title("Sentinel-2 scene, 16 February 2017", fontsize=11)
axes[1].imshow(legend.paint(np.searchsorted(legend.values, values).astype(np.uint8)))
axes[1].set_title("map", fontsize=11)
shown = axes[2].imshow(confidence, vmin=20, vmax=100, cmap="viridis")
axes[2].set_title("confidence, %", fontsize=11)
figure.colorbar(shown, ax=axes[2], fraction=0.025, pad=0.01)
for place in axes:
    place.set_axis_off()
handles = [patches.Patch(color=np.array(c.color) / 255, label=c.name) for c in legend.classes]
figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=10)
figure.savefig(HERE / "havel.png")
