"""A published Caffe network converted to a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from labelscape.checkpoint import Checkpoint, save
from labelscape.contract.contract import Contract
from labelscape.errors import BadOption
from labelscape.export.caffe import read_caffe
from labelscape.files import check_new, check_not_read
from labelscape.legend import Legend

CLASSES = {2: ("other", "building"), 5: ("impervious surface", "building", "low vegetation", "tree", "car")}
"""The classes of the published networks: Inria (one sigmoid, here two classes) and Vaihingen, in their
order.
"""

PIXEL_SIZES = {2: 0.3, 5: 0.09}
"""Metres per pixel of Inria and Vaihingen."""

ISPRS_COLORS = ((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0))


def import_caffe(
    source: str | Path,
    out: str | Path,
    *,
    classes: Sequence[str] | None = None,
    bands: Sequence[str] | None = None,
    pixel_size: float | None = None,
    overwrite: bool = False,
) -> tuple[Checkpoint, list[str]]:
    """Read a `.caffemodel` of Maggiori et al. and write it as a checkpoint for 8-bit scenes; returns it and
    what was changed on the way.

    `classes` and `bands` name outputs and inputs where the published ones do not apply. Raises BadFile for a
    file that is none of the published networks, BadOption where the number of names does not fit.
    """
    out = Path(out)
    # Asked here, because `save` replaces a file without asking.
    check_not_read(out, [source])
    check_new(out, overwrite=overwrite)
    if out.suffix != ".safetensors":
        raise BadOption(f"{out.name}: a checkpoint's name ends in .safetensors.")
    found = read_caffe(source)
    names = (
        tuple(classes)
        if classes
        else CLASSES.get(found.classes, tuple(f"class {i}" for i in range(found.classes)))
    )
    band_names = tuple(bands) if bands else found.bands
    for what, given, needed in (("classes", names, found.classes), ("bands", band_names, found.in_channels)):
        if len(given) != needed:
            raise BadOption(
                f"{Path(source).name} has {needed} {what}; {len(given)} names were given: {', '.join(given)}."
            )
    checkpoint = Checkpoint(
        network=found.name,
        options=dict(found.options),
        weights={key: value.numpy() for key, value in found.weights.items()},
        # The benchmark's colours belong to its own classes in their order; other names get ours.
        legend=Legend.of_names(names, colors=ISPRS_COLORS if names == CLASSES[5] else None),
        recipe={
            "imported_from": Path(source).name,
            "paper": "Maggiori et al. 2017",
            "notes": list(found.notes),
        },
        contract=Contract(
            bands=band_names,
            dtype="uint8",
            # Raw values 0..255, as the networks were trained: mean 0, deviation 1.
            normalisation=((0.0, 1.0),) * found.in_channels,
            pixel_size=pixel_size or PIXEL_SIZES.get(found.classes),
            crs_kind="projected",
        ),
    )
    save(checkpoint, out)
    return checkpoint, list(found.notes)
