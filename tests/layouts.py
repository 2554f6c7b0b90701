"""Ways in which a scene lies in files: each function writes pixels (B, H, W) at a place into a folder and
returns the scene's path.
"""

import numpy as np
import rasterio
import rasterio.shutil
import world
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp

PLACES = {
    "north up": (world.UTM, world.NORTH_UP),
    "rotated": (world.UTM, world.ROTATED),
    "degrees": (CRS.from_epsg(4326), world.DEGREES),
    "south up": (world.UTM, Affine(10, 0, 400_000, 0, 10, 5_800_000)),
    "oblong": (world.UTM, Affine(3, 0, 400_000, 0, -7, 5_800_000)),
    "no crs": (None, None),
}


def plain(folder, pixels, place, rng):
    return write(folder / "scene.tif", pixels, place, nodata=rng.choice([None, 0]))


def tiled(folder, pixels, place, rng):
    compress, interleave = (
        str(rng.choice(["none", "deflate", "lzw", "zstd"])),
        str(rng.choice(["band", "pixel"])),
    )
    return write(
        folder / "scene.tif",
        pixels,
        place,
        tiled=True,
        blockxsize=16,
        blockysize=16,
        compress=compress,
        interleave=interleave,
    )


def with_nodata(folder, pixels, place, rng):
    value = float("nan") if pixels.dtype.kind == "f" else rng.choice([0, np.iinfo(pixels.dtype).max])
    height, width = pixels.shape[1:]
    pixels[:, : rng.integers(0, height + 1), : rng.integers(0, width)] = value
    return write(folder / "scene.tif", pixels, place, nodata=value)


def jpeg_with_mask(folder, pixels, place, rng):
    pixels = np.repeat(pixels[:1], 3, axis=0) if len(pixels) < 3 else pixels[:3]
    pixels = (pixels.astype(np.float64) / max(1e-9, pixels.max()) * 250).astype(np.uint8)
    path = write(
        folder / "scene.tif",
        pixels,
        place,
        compress="jpeg",
        photometric="ycbcr",
        tiled=True,
        blockxsize=64,
        blockysize=64,
    )
    mask = np.ones(pixels.shape[1:], bool)
    mask[: rng.integers(0, mask.shape[0]), : rng.integers(0, mask.shape[1])] = False
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.write_mask(mask)
    return path


def cog(folder, pixels, place, rng):
    rasterio.shutil.copy(tiled(folder, pixels, place, rng), folder / "cog.tif", driver="COG", BLOCKSIZE=128)
    return folder / "cog.tif"


def sparse(folder, pixels, place, rng):
    """Only some of its blocks exist."""
    path, (_, height, width) = folder / "scene.tif", pixels.shape
    profile = profile_of(pixels, place) | {
        "tiled": True,
        "blockxsize": 64,
        "blockysize": 64,
        "sparse_ok": True,
        "nodata": 0,
    }
    with rasterio.open(path, "w", **profile) as file:
        for top in range(0, height, 64):
            for left in range(0, width, 64):
                if rng.random() < 0.5 or top == left == 0:
                    part = pixels[:, top : top + 64, left : left + 64]
                    file.write(part, window=((top, top + part.shape[1]), (left, left + part.shape[2])))
    return path


def alpha(folder, pixels, place, rng):
    seen = np.full(
        pixels.shape[1:], np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 1, pixels.dtype
    )
    seen[:, : rng.integers(0, seen.shape[1])] = 0
    path = write(folder / "scene.tif", np.concatenate([pixels, seen[None]]), place)
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [ColorInterp.gray] * len(pixels) + [ColorInterp.alpha]
    return path


def virtual(folder, pixels, place, rng, *, most=12):
    """A VRT of up to `most` files that meet, without some of them."""
    _, height, width = pixels.shape
    side = max(1, int(np.ceil(np.sqrt(height * width / most))))
    sources = {band: [] for band in range(1, len(pixels) + 1)}
    for top in range(0, height, side):
        for left in range(0, width, side):
            if rng.random() < 0.2 and (top or left):
                continue
            part = pixels[:, top : top + side, left : left + side]
            name = f"part_{top}_{left}.tif"
            world.write(folder / name, part, crs=None)
            h, w = part.shape[1:]
            for band in sources:
                sources[band].append(
                    "<SimpleSource><SourceFilename "
                    f'relativeToVRT="1">{name}</SourceFilename><SourceBand>{band}</SourceBand>'
                    f'<SrcRect xOff="0" yOff="0" xSize="{w}" ySize="{h}"/><DstRect xOff="{left}" '
                    f'yOff="{top}" xSize="{w}" ySize="{h}"/></SimpleSource>'
                )
    kind = {"uint8": "Byte", "int16": "Int16", "uint16": "UInt16", "float32": "Float32"}[pixels.dtype.name]
    bands = "".join(
        (
            f'<VRTRasterBand dataType="{kind}" '
            f'band="{band}"><NoDataValue>0</NoDataValue>{"".join(parts)}</VRTRasterBand>'
        )
        for band, parts in sources.items()
    )
    crs, transform = place
    where = ""
    if crs:  # a picture without coordinates has no transform either
        numbers = ", ".join(str(v) for v in transform.to_gdal())
        where = f"<SRS>{crs.to_string()}</SRS><GeoTransform>{numbers}</GeoTransform>"
    (folder / "scene.vrt").write_text(
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">{where}{bands}</VRTDataset>'
    )
    return folder / "scene.vrt"


def profile_of(pixels, place):
    crs, transform = place
    profile = {
        "driver": "GTiff",
        "count": len(pixels),
        "height": pixels.shape[1],
        "width": pixels.shape[2],
        "dtype": pixels.dtype.name,
    }
    return profile if crs is None else profile | {"crs": crs, "transform": transform}


def write(path, pixels, place, **options):
    with rasterio.open(path, "w", **profile_of(pixels, place), **options) as file:
        file.write(pixels)
    return path


LAYOUTS = (plain, tiled, with_nodata, jpeg_with_mask, cog, sparse, alpha, virtual)
