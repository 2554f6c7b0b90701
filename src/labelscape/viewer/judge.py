"""Places to judge one after the other: the areas of a review file or the points of a sample, whose answers go
into the GeoPackage at once, in the columns that QGIS would fill; and the blocks of an evaluation, which are
looked at alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from labelscape.assessment.form import ANSWERS, CERTAINTY
from labelscape.assessment.points import POINTS, read_design
from labelscape.assessment.review import LAYER
from labelscape.crs import transformed
from labelscape.errors import BadInput, UnknownName
from labelscape.grid import Grid
from labelscape.legend import Legend
from labelscape.scenes.vectors import layer_facts, layers_of
from labelscape.viewer.geopackage import Changed, geometry_of, opened, place_of, quoted, rings_of, touched

WORDS = {"review": tuple(ANSWERS.values()), "sample": CERTAINTY, "blocks": ()}
"""What may be said beside or instead of a class: the columns `answer` and `certainty`."""


BLOCKS = "blocks"
"""The layer of an evaluation's blocks (`labelscape evaluate --out`)."""
MOST_BLOCKS = 500


@dataclass(frozen=True)
class Judged:
    """A file of places. `kind` is "review", "sample", whose interpreter must not see the map, or "blocks", of
    an evaluation, which take no answers. `edit`: may the file be written?
    """

    path: Path
    kind: str
    grid: Grid
    legend: Legend
    edit: bool = False

    @classmethod
    def of(cls, path: str | Path, grid: Grid, legend: Legend) -> Judged:
        """Raises BadInput where the file is neither, or of another map; BadFile."""
        path = Path(path)
        design = read_design(path)
        if design is not None:
            if not design.grid.matches(grid):
                raise BadInput(f"{path} is a sample of another map: the grids differ.")
            return cls(path, "sample", grid, design.legend)
        layers = [one.name for one in layers_of(path)] if path.suffix.lower() == ".gpkg" else []
        if LAYER in layers:
            return cls(path, "review", grid, legend)._of_this_map()
        if BLOCKS in layers:
            return cls(path, "blocks", grid, legend)
        raise BadInput(
            f"{path} is neither a review file, nor a sample, nor the blocks of an evaluation; make one with "
            "`labelscape review`, `labelscape sample` or `labelscape evaluate --out`."
        )

    def _of_this_map(self) -> Judged:
        """Itself. Raises BadInput where no area lies on the map: answers would be given for another place."""
        places = [item["bounds"] for item in self.items()]
        width, height = self.grid.width, self.grid.height
        if places and not any(
            left < width and right > 0 and top < height and bottom > 0 for left, top, right, bottom in places
        ):
            raise BadInput(
                f"{self.path} is a review of another map: none of its {len(places)} areas lies on this one."
            )
        return self

    def items(self) -> list[dict[str, Any]]:
        """The places in their order, with outlines in pixels (column, row) and answers."""
        layer = {"sample": POINTS, "review": LAYER, "blocks": BLOCKS}[self.kind]
        with opened(self.path, edit=self.edit) as base:
            key, shape, _ = place_of(base, layer)
            # Names of columns cannot be parameters; these come from the file's own table, quoted.
            rows = base.execute(
                f"SELECT {quoted(key)} AS _key, {quoted(shape)} AS _shape, * FROM {layer} ORDER BY 1"
            ).fetchall()
        if self.kind == "sample":
            return [self._point(dict(row)) for row in rows]
        crs = layer_facts(self.path, layer)["crs"]
        if self.kind == "blocks":
            return self._blocks([dict(row) for row in rows if row["_shape"] is not None], crs)
        items = [self._area(dict(row), crs) for row in rows if row["_shape"] is not None]
        return sorted(items, key=lambda item: item["rank"] or 0)

    def _point(self, row: dict[str, Any]) -> dict[str, Any]:
        place = geometry_of(row["_shape"])
        column, line = ~self.grid.transform @ (place.x, place.y)
        left, top = float(np.floor(column)), float(np.floor(line))
        ring = [[left, top], [left + 1, top], [left + 1, top + 1], [left, top + 1]]
        return {
            "id": row["_key"], "title": f"Point {row['point']}", "rings": [[ring]],
            "bounds": [left, top, left + 1, top + 1], **self._answer(row),
        }  # fmt: skip

    def _area(self, row: dict[str, Any], crs: str | None) -> dict[str, Any]:
        shape = geometry_of(row["_shape"])
        flat = shapely.transform(shape, lambda xy: self._pixels(xy, crs))
        size = row.get("area_ha")
        size = f"{row.get('pixels')} pixels" if size is None else f"{size:.3g} ha"
        title = f"{row.get('class')}, {row.get('confidence')} % sure, {size}"
        return {
            "id": row["_key"], "rank": row.get("rank"), "title": title, "rings": rings_of(flat),
            "bounds": list(flat.bounds), "mapped": row.get("class"), **self._answer(row),
        }  # fmt: skip

    def _blocks(self, rows: list[dict[str, Any]], crs: str | None) -> list[dict[str, Any]]:
        """The blocks with errors that lie on this map, most errors first. The file may have other scenes'."""
        items = []
        for row in sorted(rows, key=lambda row: -(row.get("wrong") or 0)):
            if not row.get("wrong") or len(items) == MOST_BLOCKS:
                break
            flat = shapely.transform(geometry_of(row["_shape"]), lambda xy: self._pixels(xy, crs))
            if not flat.intersects(shapely.box(0, 0, self.grid.width, self.grid.height)):
                continue
            title = f"{int(row['wrong']):,} of {int(row.get('labelled') or 0):,} labelled pixels wrong"
            if row.get("miou") is not None:
                title += f", mIoU {100 * row['miou']:.1f} %"
            place = {"rings": rings_of(flat), "bounds": list(flat.bounds)}
            items.append({"id": row["_key"], "title": title, **place, "class": None, "word": None})
        return items

    def _pixels(self, xy: np.ndarray, crs: str | None) -> np.ndarray:
        x, y = xy[:, 0], xy[:, 1]
        if crs and self.grid.crs is not None:
            x, y = transformed(x, y, crs, self.grid.crs)
        return np.column_stack(~self.grid.transform @ (x, y))

    def _answer(self, row: dict[str, Any]) -> dict[str, Any]:
        if self.kind == "review":
            return {"class": row.get("class_right") or None, "word": row.get("answer") or None}
        value = row.get("reference")
        names = {one.value: one.name for one in self.legend.classes}
        return {"class": None if value is None else names.get(value), "word": row.get("certainty") or None}

    def answer(self, number: int, new: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
        """Store an answer, a class, a word, both or neither, in place of the one that the page showed. Raises
        Changed where that is no longer the answer, UnknownName for other classes and words, BadInput for a
        place that is not there.
        """
        name, word = new.get("class"), new.get("word")
        if name is not None and name not in self.legend.names:
            raise UnknownName("class", str(name), self.legend.names)
        if word is not None and word not in WORDS[self.kind]:
            raise UnknownName("answer", str(word), WORDS[self.kind])
        if self.kind == "review" and name is not None and word is not None:
            raise BadInput("An area has either a class or another answer.")
        layer = POINTS if self.kind == "sample" else LAYER
        columns = ("reference", "certainty") if self.kind == "sample" else ("class_right", "answer")
        value = None
        if name is not None:
            value = self.legend.classes[self.legend.index(name)].value if self.kind == "sample" else name
        with opened(self.path, write=True) as base:
            key = quoted(place_of(base, layer)[0])
            row = base.execute(f"SELECT * FROM {layer} WHERE {key} = ?", (number,)).fetchone()
            if row is None:
                raise BadInput(f"{self.path} has no place with the number {number}.")
            now = self._answer(dict(row))
            if now != {"class": before.get("class"), "word": before.get("word")}:
                raise Changed(now)
            base.execute(
                f"UPDATE {layer} SET {columns[0]} = ?, {columns[1]} = ? WHERE {key} = ?",
                (value, word, number),
            )
            touched(base, layer)
        return {"class": name, "word": word}
