"""GDAL's creation options (`gdal_translate -co KEY=VALUE`) of the rasters that are written: which are
honoured, by which values, and why the others are not.

Each is honoured or refused, none is ignored: GDAL's own drivers warn of an option that they do not know and
go on, so that a misspelt one is noticed only in the finished file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from labelscape.errors import BadOption, UnknownName, WrongType
from labelscape.files import check_folder
from labelscape.rasters import compression
from labelscape.rasters.compression import CODECS, LEVELS, PREDICTED, Compression
from labelscape.rasters.overviews import BLOCK

Given = Mapping[str, object] | Sequence[str] | None
"""Creation options as they are given: {"COMPRESS": "LZW"}, or ["COMPRESS=LZW"] as on a command line."""

LEAST_BLOCK, LARGEST_BLOCK, BLOCK_STEP = 128, 1024, 16
"""Sides of blocks in pixels. TIFF wants multiples of 16; below 128 a raster has so many blocks that their
directory is larger than they are; above 1024 the memory for overviews of many bands grows (ours).
"""
MOST_OVERVIEWS = 30
"""Halved so often, 2^30 pixels are one (ours)."""

PREDICTORS = {"NO": 1, "1": 1, "YES": 2, "STANDARD": 2, "2": 2}
BIGTIFF = {"YES": True, "NO": False, "IF_NEEDED": None, "IF_SAFER": None}
"""Of COGs the size is known when they are assembled: what GDAL decides by a guess needs none here."""
ALWAYS = {"TILED": ("YES", "TRUE", "ON"), "SPARSE_OK": ("YES", "TRUE", "ON"), "INTERLEAVE": ("PIXEL",)}
"""What holds of every raster written here; other values are refused."""
KNOWN = (
    *("COMPRESS", "LEVEL", "ZLEVEL", "ZSTD_LEVEL", "LZMA_PRESET", "PREDICTOR"),
    *("BLOCKSIZE", "BIGTIFF", "OVERVIEWS", "OVERVIEW_COUNT", "NUM_THREADS", *ALWAYS),
)
LOSES = "it changes values, and a class value that is changed is another class"
WHY_NOT = {
    key: why
    for why, keys in {
        "blocks are square: use BLOCKSIZE": "BLOCKXSIZE BLOCKYSIZE",
        LOSES: "QUALITY JPEG_QUALITY JPEGTABLESMODE MAX_Z_ERROR MAX_Z_ERROR_OVERVIEW WEBP_LEVEL "
        "WEBP_LOSSLESS JXL_LOSSLESS JXL_EFFORT JXL_DISTANCE JXL_ALPHA_DISTANCE DISCARD_LSB NBITS",
        "overviews are made by mode of classes, by mean of other values": "RESAMPLING OVERVIEW_RESAMPLING",
        "overviews are compressed as the raster itself": "OVERVIEW_COMPRESS OVERVIEW_QUALITY "
        "OVERVIEW_PREDICTOR",
        "rasters have the pixels of their scene; reproject the finished file with gdalwarp": "TARGET_SRS "
        "TILING_SCHEME ZOOM_LEVEL ZOOM_LEVEL_STRATEGY RES EXTENT ALIGNED_LEVELS WARP_RESAMPLING",
        "nodata is the value 255, not a mask or an alpha band": "ADD_ALPHA ALPHA",
        "place, colours and names are stored as TIFF tags that QGIS, ArcGIS and GDAL read": "PROFILE TFW "
        "WORLDFILE RPB RPCTXT PHOTOMETRIC GEOTIFF_VERSION GEOTIFF_KEYS_FLAVOR STATISTICS",
        "the layout is that of Cloud Optimized GeoTIFFs": "COPY_SRC_OVERVIEWS STREAMABLE_OUTPUT ENDIANNESS "
        "SPLIT INTERNAL_MASK PIXELTYPE",
    }.items()
    for key in keys.split()
}
"""Options of GDAL's GTiff and COG drivers that cannot be honoured."""
LOSSY = ("JPEG", "WEBP", "JXL", "JXL_DNG_1_7")


@dataclass(frozen=True)
class CreationOptions:
    """Creation options that were read; the defaults are those of files without any.

    codec      of the blocks; None for the fastest that this GDAL has
    level      of the codec
    predictor  1 for none, 2 for horizontal differences; None by what a raster holds
    block      side of the blocks in pixels
    big        BigTIFF always or never; None where it is needed
    overviews  their number; None until one fits into a block
    threads    that compress, as GDAL_NUM_THREADS; None for all cores, or what the environment says
    """

    codec: str | None = None
    level: int | None = None
    predictor: int | None = None
    block: int = BLOCK
    big: bool | None = None
    overviews: int | None = None
    threads: str | None = None

    @classmethod
    def of(cls, given: Given | CreationOptions) -> CreationOptions:
        """Read creation options. Raises BadOption for one that is unknown, cannot be honoured, or has a wrong
        value, naming the right ones; WrongType for what is no list of them.
        """
        if isinstance(given, CreationOptions):
            return given
        said = dict(_pairs(given))
        for key, value in said.items():
            if key in WHY_NOT:
                raise BadOption(
                    f"The creation option {key}={value} cannot be honoured: {WHY_NOT[key]}. Known: "
                    f"{', '.join(KNOWN)}."
                )
            if key in ALWAYS and value not in ALWAYS[key]:
                raise _wrong(key, value, f"{ALWAYS[key][0]}, as every raster is written here")
        codec = _codec(said.get("COMPRESS"))
        threads = said.get("NUM_THREADS")
        if threads not in (None, "ALL_CPUS"):
            _number("NUM_THREADS", str(threads), 1, 1024, "or ALL_CPUS")
        return cls(
            codec,
            _level(said, codec),
            _predictor(said.get("PREDICTOR"), codec),
            _block(said.get("BLOCKSIZE")),
            _one_of("BIGTIFF", said, BIGTIFF),
            _overviews(said),
            threads,
        )

    def compression(self, *, smooth: bool) -> Compression:
        """How blocks are compressed, of classes or of smooth values."""
        return compression.chosen(self.codec, self.level, self.predictor, smooth=smooth)


def as_texts(given: Given) -> tuple[str, ...]:
    """The options as KEY=VALUE in upper case, by their names. Raises as `CreationOptions.of`."""
    CreationOptions.of(given)
    return tuple(f"{key}={value}" for key, value in sorted(_pairs(given)))


def of_folder(given: Given, out: object, what: str) -> CreationOptions:
    """The options of rasters (`what`) that are written where a folder `out` is given. Raises BadOption where
    none is: they would do nothing; and as `check_folder`.
    """
    if out is not None:
        check_folder(out, f"The folder of the {what} (out)")
    if out is None and (options := as_texts(given)):
        raise BadOption(
            f"The creation option {options[0]} is for {what}, which are written with `out`: pass it."
        )
    return CreationOptions.of(given)


def _pairs(given: Given) -> Iterator[tuple[str, str]]:
    """Keys and values in upper case, each key once."""
    if given is None:
        return
    if isinstance(given, Mapping):
        items = [(str(key), value) for key, value in given.items()]
    elif isinstance(given, (list, tuple)) and all(isinstance(one, str) for one in given):
        items = [_split(one) for one in given]
    else:
        raise WrongType(
            f"`creation_options` must be a mapping such as {{'COMPRESS': 'LZW'}}, or a list of KEY=VALUE; "
            f"found {given!r:.80}."
        )
    seen: dict[str, str] = {}
    for key, value in items:
        name = key.strip().upper()
        if name not in KNOWN and name not in WHY_NOT:
            raise UnknownName("creation option", key, KNOWN)
        # As GDAL reads them: True is YES there.
        text = {True: "YES", False: "NO"}[value] if isinstance(value, bool) else str(value).strip().upper()
        if seen.setdefault(name, text) != text:
            raise BadOption(f"The creation option {name} is given twice, as {seen[name]} and {text}.")
    yield from seen.items()


def _split(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip() or not value.strip():
        raise BadOption(f"The creation option {text!r} must read KEY=VALUE, such as COMPRESS=LZW.")
    return key, value


def _wrong(key: str, value: str, right: str) -> BadOption:
    return BadOption(f"The creation option {key}={value} is not possible; right is: {right}.")


def _number(key: str, text: str, least: int, most: int, more: str = "") -> int:
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise _wrong(key, text, f"a whole number from {least} to {most}{' ' * bool(more)}{more}")
    return int(text)


def _one_of(key: str, said: Mapping[str, str], known: Mapping[str, bool | None]) -> bool | None:
    if key not in said:
        return None
    if said[key] not in known:
        raise _wrong(key, said[key], ", ".join(known))
    return known[said[key]]


def _codec(name: str | None) -> str | None:
    if name is None:
        return None
    there = ", ".join(one for one in CODECS if compression.has(one))
    if name in LOSSY:
        raise _wrong("COMPRESS", name, f"{there} ({name}: {LOSES})")
    if name.startswith("LERC"):
        raise _wrong("COMPRESS", name, f"{there} (LERC is for floating-point values; these are bytes)")
    if name not in CODECS:
        raise _wrong("COMPRESS", name, there)
    if not compression.has(name):
        raise _wrong("COMPRESS", name, f"{there} (this GDAL was built without {name})")
    return name


def _level(said: Mapping[str, str], codec: str | None) -> int | None:
    """The level under GDAL's general name, or that of the codec."""
    used = codec or compression.fastest()
    own = {name: one for one, (name, _, _) in LEVELS.items()}
    given = [key for key in ("LEVEL", *own) if key in said]
    if not given:
        return None
    key = given[0]
    if len(given) > 1:
        raise BadOption(f"The creation options {' and '.join(given)} set the same thing; give one of them.")
    if key != "LEVEL" and own[key] != used:
        raise BadOption(
            f"The creation option {key}={said[key]} is for COMPRESS={own[key]}, and {used} is used: add "
            f"COMPRESS={own[key]}, or use LEVEL."
        )
    if used not in LEVELS:
        raise BadOption(
            f"The creation option {key}={said[key]} cannot be honoured: {used} has no levels; "
            f"{', '.join(LEVELS)} have."
        )
    _, least, most = LEVELS[used]
    return _number(key, said[key], least, most, f"for {used}")


def _predictor(text: str | None, codec: str | None) -> int | None:
    if text is None:
        return None
    if text in ("3", "FLOATING_POINT"):
        raise _wrong("PREDICTOR", text, "YES (2) or NO (1); 3 is for floating-point values, these are bytes")
    if text not in PREDICTORS:
        raise _wrong("PREDICTOR", text, "YES (2) or NO (1)")
    if PREDICTORS[text] != 1 and codec is not None and codec not in PREDICTED:
        raise BadOption(
            f"The creation option PREDICTOR={text} cannot be honoured: {codec} has no predictor; "
            f"{', '.join(PREDICTED)} have one."
        )
    return PREDICTORS[text]


def _block(text: str | None) -> int:
    if text is None:
        return BLOCK
    more = f"that {BLOCK_STEP} divides"
    side = _number("BLOCKSIZE", text, LEAST_BLOCK, LARGEST_BLOCK, more)
    if side % BLOCK_STEP:
        raise _wrong("BLOCKSIZE", text, f"a whole number from {LEAST_BLOCK} to {LARGEST_BLOCK} {more}")
    return side


def _overviews(said: Mapping[str, str]) -> int | None:
    named, count = said.get("OVERVIEWS"), said.get("OVERVIEW_COUNT")
    if named not in (None, "AUTO", "NONE"):
        raise _wrong("OVERVIEWS", str(named), "AUTO or NONE; rasters are new, so that there are none to keep")
    if count is None:
        return 0 if named == "NONE" else None
    number = _number("OVERVIEW_COUNT", count, 0, MOST_OVERVIEWS)
    if named == "NONE" and number:
        raise BadOption(
            f"The creation options OVERVIEWS=NONE and OVERVIEW_COUNT={number} contradict each other; give "
            "one of them."
        )
    return number
