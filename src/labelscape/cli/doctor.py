"""labelscape doctor: check the installation."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable

import typer

from labelscape.cli.options import AsJson, print_json
from labelscape.errors import BadFile

NAME = "doctor"


def run(as_json: AsJson = False) -> None:
    """Check the installation: packages, GDAL drivers, coordinate transforms, the device, memory and disk."""
    rows = [(what, *_tried(check)) for what, check in CHECKS.items()]
    if as_json:
        print_json([{"check": w, "ok": ok, "found": found} for w, ok, found in rows])
    else:
        for what, ok, found in rows:
            print(f"{'ok  ' if ok else 'FAIL'}  {what:<22}{found}")
    # All are tried first: one broken package often explains another.
    if not all(ok for _, ok, _ in rows):
        raise typer.Exit(1)


def _tried(check: Callable[[], str]) -> tuple[bool, str]:
    try:
        return True, check()
    except Exception as error:  # whatever is broken is what this verb reports
        return False, str(error).splitlines()[0] if str(error) else type(error).__name__


def _packages() -> str:
    from importlib.metadata import version

    names = (
        "numpy",
        "torch",
        "rasterio",
        "pyogrio",
        "shapely",
        "pyproj",
        "safetensors",
        "lightning-fabric",
        "scikit-learn",
    )
    return ", ".join(f"{name} {version(name)}" for name in names)


def _gdal() -> str:
    import rasterio
    from rasterio.drivers import raster_driver_extensions

    with rasterio.Env() as env:
        # Distributions build GDAL without some drivers, which then fail only when a file is opened.
        missing = {"GTiff", "COG", "VRT", "PNG", "JPEG"} - set(env.drivers())
        if missing:
            raise RuntimeError(
                f"GDAL lacks the drivers {', '.join(sorted(missing))}: reinstall rasterio from its wheel"
            )
        jp2 = (
            "JPEG 2000 too"
            if "jp2" in raster_driver_extensions()
            else "no JPEG 2000: Sentinel-2 .jp2 files cannot be read"
        )
    return f"GDAL {rasterio.__gdal_version__}, {jp2}"


def _vectors() -> str:
    import pyogrio

    missing = {"GPKG", "GeoJSON", "ESRI Shapefile"} - set(pyogrio.list_drivers(write=True))
    if missing:
        raise RuntimeError(
            f"pyogrio cannot write {', '.join(sorted(missing))}: reinstall pyogrio from its wheel"
        )
    return "GPKG, GeoJSON and Shapefile can be read and written"


def _projections() -> str:
    from rasterio.crs import CRS
    from rasterio.warp import transform

    # A point whose coordinates are known: on UTM 33's central meridian the easting is 500 km by definition.
    (x,), _ = transform(CRS.from_epsg(4326), CRS.from_epsg(32633), [15.0], [52.0])
    if abs(x - 500_000) > 1:
        raise RuntimeError(
            "coordinate transforms give wrong answers: another PROJ is in the way (unset PROJ_LIB and "
            "PROJ_DATA)"
        )
    return "coordinate transforms work"


def _device() -> str:
    import torch

    from labelscape.scoring.engines import pick_device

    device = pick_device()
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine()
    )
    # Computed, forward and backward: that the device is listed does not prove that its libraries work.
    conv = torch.nn.Conv2d(3, 4, 3).to(device)
    conv(torch.zeros(1, 3, 8, 8, device=device)).sum().backward()
    return f"{device} ({name}), {torch.get_num_threads()} threads"


def _system() -> str:
    names = {"Darwin": f"macOS {platform.mac_ver()[0]}".strip()}
    name = names.get(platform.system(), f"{platform.system()} {platform.release()}")
    return f"{platform.python_version()} on {name}, {platform.machine()}"


def _memory() -> str:
    total = _memory_bytes()
    return f"{f'{total / 2**30:.1f} GiB' if total else 'unknown'}, {os.cpu_count()} cores"


def _memory_bytes() -> int | None:
    """Memory of the machine in bytes; None where it cannot be read."""
    if platform.system() == "Windows":
        import ctypes

        # MEMORYSTATUSEX: two numbers of 32 bits, then seven of 64; the first of those is the memory in all.
        status = (ctypes.c_uint64 * 8)(64)
        return status[1] if ctypes.windll.kernel32.GlobalMemoryStatusEx(status) else None
    try:
        # Of the machine: a container's limit is lower and is not seen here.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _disk() -> str:
    # Created, not only measured: the folder may be read-only, or belong to somebody else.
    with tempfile.NamedTemporaryFile(prefix="labelscape-"):
        return f"{shutil.disk_usage(tempfile.gettempdir()).free / 2**30:.1f} GiB free for temporary files"


def _demo() -> str:
    from labelscape.demo import install_command, scene_folder

    # Only `labelscape demo` needs it: without it the installation is whole.
    try:
        scene_folder()
    except BadFile:
        return f"not installed; `labelscape demo` needs it: {install_command()}"
    return "the demo's scene is installed"


CHECKS: dict[str, Callable[[], str]] = {
    "python": _system,
    "packages": _packages,
    "raster drivers": _gdal,
    "vector drivers": _vectors,
    "projections": _projections,
    "device": _device,
    "memory": _memory,
    "disk": _disk,
    "demo data": _demo,
}
