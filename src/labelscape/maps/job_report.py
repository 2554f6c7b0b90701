"""What was mapped where: the report of a job of many scenes, written while they finish.

`job.json` holds every record; `job.gpkg` a footprint for each, a layer that QGIS opens coloured by state and
a tile index of the class maps by its column `location`; `job.html` is a page. Each is replaced as a whole, so
that a job that is killed leaves those of a moment before. A job that is started again goes on with them:
scenes keep the time and the seam score of the run that mapped them. Jobs that map into one folder at the same
time have one report: what the other has written is taken over before each writing.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from labelscape.areas.style import category_style, store_style
from labelscape.errors import BadFile, LabelscapeError
from labelscape.files import locked, written_whole
from labelscape.grid import Grid
from labelscape.maps.job import PATIENCE, SceneRecord
from labelscape.maps.job_page import STATES, job_page
from labelscape.maps.stac import footprint
from labelscape.progress import print_line
from labelscape.scenes.files import READ_FAILURES, gdal, is_local
from labelscape.scenes.stac_many import read_items
from labelscape.scenes.vectors import write_layer, writing
from labelscape.version import __version__

LAYER = "scenes"
SHARE = 0.05
"""Of a job's time that writing its report may take (ours): the more scenes, the rarer it is written."""


class JobReport:
    """The report of a job in the folder `out`; a context manager. A report that cannot be written is said,
    and does not stop the job.

    total  scenes of this job
    page   write the page too

    Raises BadFile where the folder has files of these names that no job wrote, unless `overwrite`.
    """

    def __init__(self, out: str | Path, total: int, *, page: bool = True, overwrite: bool = False) -> None:
        self.out, self.total, self.page = Path(out), total, page
        _check_ours(self.out, overwrite)
        self.begun = _now()
        self.records: dict[str, dict[str, Any]] = {r["scene"]: r for r in _earlier(self.out / "job.json")}
        """By scene, in JSON values: those of earlier jobs in this folder too."""
        self._of_this: set[str] = set()
        self._last, self._cost = -math.inf, 0.0
        self._failed = False

    def __enter__(self) -> JobReport:
        return self

    def __exit__(self, *_: object) -> None:
        # Also where the job ended early: what is finished is worth the most then.
        if self._of_this:
            self.write()

    def add(self, record: SceneRecord) -> None:
        """Add what became of a scene; the files are written anew if the last time is long enough ago."""
        before = self.records.get(record.scene, {})
        found = {**record.to_dict(), "files": self._beside(record.files), "when": _now()}
        found["seconds"] = round(record.seconds, 2)
        if record.state == "skipped" and before.get("state") == "done":
            # What an earlier run knows of it: a skipped scene has no time of its own.
            kept = {name: before[name] for name in ("state", "seconds", "seam", "when") if name in before}
            found |= kept
            found["geometry"] = before["geometry"]
        else:
            found["geometry"] = _where(record)
        self.records[record.scene] = found
        self._of_this.add(record.scene)
        if time.monotonic() - self._last > self._cost / SHARE:
            self.write()

    def write(self) -> None:
        """Write the three files. Each is whole at any time."""
        start = time.monotonic()
        try:
            # All three under one lock: they show the same scenes.
            with locked(self.out / "job.json", patience=PATIENCE, of="report", tidy=False):
                self._take_over()
                self._write_json()
                self._write_footprints()
                if self.page:
                    self._write_page()
        except (LabelscapeError, OSError) as error:
            # Once: the maps are what matters, and a full disk will stop them soon enough.
            if not self._failed:
                print_line(f"the report of the job cannot be written: {error}")
            self._failed = True
        self._last = time.monotonic()
        self._cost = self._last - start

    def _take_over(self) -> None:
        """What other jobs have written into this folder since. Of a scene that two jobs have it is the later
        record: the one that was held off by the other's lock has failed before that one ends.
        """
        for record in _earlier(self.out / "job.json"):
            scene = record["scene"]
            if scene not in self._of_this or record["when"] > self.records[scene]["when"]:
                self.records[scene] = record

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        states = Counter(record["state"] for record in self.records.values())
        waiting = self.total - len(self._of_this)
        return {
            "software": f"labelscape {__version__}",
            "begun": self.begun,
            "written": _now(),
            "finished": waiting == 0,
            "counts": {state: states[state] for state in STATES if states[state]}
            | ({"waiting": waiting} if waiting else {}),
            "pixels": sum(record["pixels"] for record in self.records.values()),
            "seconds": round(sum(record["seconds"] for record in self.records.values()), 2),
            "scenes": list(self.records.values()),
        }

    def _beside(self, files: Mapping[str, str]) -> dict[str, str]:
        """Paths relative to the report where that is possible, so that a folder may be moved as a whole."""
        found = {}
        for kind, path in files.items():
            with contextlib.suppress(ValueError):  # on another drive of Windows
                path = os.path.relpath(path, self.out)
            found[kind] = Path(path).as_posix()
        return found

    def _write_json(self) -> None:
        with written_whole(self.out / "job.json", overwrite=True) as part:
            report = self.to_dict()
            records = report.pop("scenes")
            # A line for each scene: people read it, and footprints have many numbers.
            lines = ",\n".join(json.dumps(r, ensure_ascii=False, allow_nan=False) for r in records)
            text = f'{json.dumps(report, indent=1)[:-2]},\n "scenes": [\n{lines}\n ]\n}}\n'
            part.write_bytes(text.encode("utf-8", errors="replace"))

    def _write_page(self) -> None:
        with written_whole(self.out / "job.html", overwrite=True) as part:
            part.write_bytes(job_page(self.to_dict()).encode("utf-8", errors="replace"))

    def _write_footprints(self) -> None:
        records = list(self.records.values())
        shapes = [_as_wkb(record["geometry"]) for record in records]
        columns = {
            "scene": _texts(record["scene"] for record in records),
            "state": _texts(record["state"] for record in records),
            "seconds": np.array([record["seconds"] for record in records], float),
            "pixels": np.array([record["pixels"] for record in records], np.int64),
            "seam_score": _numbers(record["seam"] for record in records),
            "cause": _texts(record["cause"] for record in records),
            # The name that GDAL and MapServer read as a tile index.
            "location": _texts(record["files"].get("class", "") for record in records),
            "report": _texts(record["files"].get("report", "") for record in records),
            "when": _texts(record["when"] for record in records),
        }
        with written_whole(self.out / "job.gpkg", overwrite=True) as part:
            with writing(part) as plain:
                write_layer(
                    plain,
                    np.array(shapes, object),
                    columns,
                    layer=LAYER,
                    geometry="MultiPolygon",
                    crs="EPSG:4326",
                )
            categories = [(state, about.label, about.color) for state, about in STATES.items()]
            style = category_style("state", categories, "string", alpha=90, outline=True)
            store_style(part, LAYER, style, "state", "what became of each scene")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _read(path: Path) -> dict[str, Any] | None:
    """The report that an earlier job left; None where there is none of ours."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        ours = str(report["software"]).startswith("labelscape ") and isinstance(report["scenes"], list)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return report if ours else None


def _earlier(path: Path) -> list[dict[str, Any]]:
    """The records of the report that an earlier job left, of this or another list of scenes."""
    found = (_read(path) or {"scenes": []})["scenes"]
    # One record that was changed by hand would end the job of all other scenes.
    return [r for r in found if isinstance(r, dict) and _is_record(r)]


def _is_record(fields: Mapping[str, Any]) -> bool:
    kinds = {"scene": str, "state": str, "seconds": (int, float), "pixels": int, "files": dict}
    kinds |= {"seam": (int, float, type(None)), "cause": str, "when": str}
    return (
        kinds.keys() | {"geometry"} <= fields.keys()
        and all(isinstance(fields[name], kind) for name, kind in kinds.items())
        and math.isfinite(fields["seconds"])
        and fields["state"] in STATES
    )


def _check_ours(out: Path, overwrite: bool) -> None:
    """Raises BadFile where files would be replaced that no job wrote."""
    if overwrite or _read(out / "job.json") is not None:
        return
    for path in (out / f"job.{kind}" for kind in ("json", "gpkg", "html")):
        if path.exists():
            raise BadFile(
                f"{path} exists and is not the report of a job. Map into another folder (`out`), or pass "
                "`overwrite=True` to replace it."
            )


def _where(record: SceneRecord) -> dict[str, Any] | None:
    """The footprint of a scene in longitude and latitude: of its map, else of its file; None where neither
    says it.
    """
    try:
        if "stac" in record.files:
            return json.loads(Path(record.files["stac"]).read_text(encoding="utf-8"))["geometry"]
        place = record.files.get("class") or record.scene
        if is_local(place) and Path(place).is_file() and Path(place).suffix.lower() != ".json":
            with gdal(), rasterio.open(place) as file:
                grid = Grid(file.crs, file.transform, file.height, file.width)
            return footprint(grid)[0] if grid.is_on_earth else None
        if is_local(place) and ".json" in place:
            (item,) = read_items(place)
            return item.get("geometry")
    except (*READ_FAILURES, LabelscapeError, ValueError, KeyError, TypeError):
        pass  # a scene that cannot be opened has its cause in the report already
    return None


def _as_wkb(geometry: Mapping[str, Any] | None) -> bytes | None:
    """A geometry as a multipolygon, of which the layer is."""
    import shapely

    if geometry is None:
        return None
    try:
        shape = shapely.geometry.shape(geometry)
        parts = [part for part in shapely.get_parts(shape) if part.geom_type == "Polygon"]
    except (shapely.errors.ShapelyError, ValueError, TypeError, AttributeError, KeyError):
        return None  # of a stranger's item
    return shapely.to_wkb(shapely.MultiPolygon(parts)) if parts else None


def _texts(values: Any) -> np.ndarray:
    """Texts of any length; empty ones are null."""
    found = np.array([str(value).encode("utf-8", "replace").decode() for value in values], object)
    return np.array([value or None for value in found], object)


def _numbers(values: Any) -> np.ndarray:
    numbers = [math.nan if value is None else float(value) for value in values]
    return np.ma.masked_invalid(np.array(numbers, float))
