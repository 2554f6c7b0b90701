"""MSWBN's table 7: patches chosen by the class shares of its table 6, before a row is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labelscape.datasets.published.catalog import open_published
from labelscape.datasets.published.prepare import write_lists
from labelscape.datasets.resample import TABLE_6, table_6
from labelscape.datasets.split import PARTS
from labelscape.errors import BadInput, BadOption

WITH_LISTS = ("gid-mtl5", "prepared")
"""Data sets that read which patch belongs to which part from lists in another folder."""


def resampled_lists(data: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The data with lists of patches resampled to table 6, written into `folder`, and what was reached.

    Lists that the data names already are kept: they were resampled before, with other settings. Raises
    BadOption for data that has no patches, BadInput where it has not the classes of GID.
    """
    data, options = dict(data), dict(data.get("dataset_options", {}))
    if data.get("dataset") not in WITH_LISTS:
        raise BadOption(
            "mswbn-7 is measured on resampled patches, and only patches can be chosen one by one: cut the "
            "scenes first, labelscape data prepare gid-5 GID --out gid512 --size 512, and pass gid512 "
            "with `dataset='prepared'`."
        )
    if "lists" in options:
        return data, (f"patches are those of the lists in {options['lists']}",)
    with open_published(data["dataset"], data["images"][0], **options) as dataset:
        missing = [name for name in TABLE_6["resampled test"] if name not in dataset.legend.names]
        if missing:
            raise BadInput(
                f"mswbn-7 resamples the classes of GID; the data has no class {missing[0]} (its classes: "
                f"{', '.join(dataset.legend.names)})."
            )
        found = table_6(dataset)
        # What resampling adds to the report; the rest is said when the data is opened for training.
        told = found.report[len(dataset.report) :]
    names = {p: [s.name for s, own in zip(found.scenes, found.part_of) if own == p] for p in PARTS}
    write_lists({part: listed for part, listed in names.items() if listed}, folder, overwrite=True)
    return {**data, "dataset_options": {**options, "lists": str(folder)}}, tuple(told)
