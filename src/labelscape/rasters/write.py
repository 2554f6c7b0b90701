"""Write rasters window by window as Cloud Optimized GeoTIFFs with colours, class names and overviews.

Windows are written to a sparse tiled GeoTIFF beside the target, and overviews to files of their own; at the
end all levels are assembled in a second file, which then takes the target's name. For a moment both need disk
space. Time depends on what was written, not on the size of the grid.
"""

from __future__ import annotations

import contextlib
import os
import xml.etree.ElementTree as xml
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import rasterio

# Raised by copying and closing; rasterio.errors has no public name for it.
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError

from labelscape.errors import BadFile
from labelscape.files import bytes_text, cannot_write, check_new, check_written, private_folder, written_whole
from labelscape.grid import Grid, Window
from labelscape.labels.class_names import NAMES_TAG, names_as_tag
from labelscape.legend import IGNORE, Legend
from labelscape.rasters.cog import TooLarge, assemble
from labelscape.rasters.creation import CreationOptions, Given
from labelscape.rasters.overviews import Level, Overviews, blocks_in, count_values, square
from labelscape.scenes.files import gdal, reason
from labelscape.stages import stage

GDAL_FAILURES = (RasterioError, CPLE_BaseError, OSError)


class MapWriter:
    """Write windows of one uint8 raster in any order; a context manager that leaves a valid COG or nothing.

    With a `legend` it is a class map: colour table, overviews by mode and a raster attribute table beside it
    (`<file>.aux.xml`). `write` then takes class values. A pixel is written at most once; pixels never written
    read as nodata and take no space. `creation_options` are GDAL's, as `creation` reads them. Raises BadFile
    where the file exists and may not be replaced, or cannot be written; BadOption.
    """

    def __init__(
        self,
        path: str | Path,
        grid: Grid,
        count: int,
        nodata: int,
        *,
        legend: Legend | None = None,
        descriptions: Sequence[str] | None = None,
        tags: Mapping[str, str] | None = None,
        overwrite: bool = False,
        creation_options: Given | CreationOptions = None,
    ) -> None:
        self.path, self.grid, self.count, self.legend = Path(path), grid, count, legend
        self._tags, self._descriptions = dict(tags or {}), descriptions
        self._overwrite = overwrite
        self._how = CreationOptions.of(creation_options)
        self._profile = {
            "driver": "GTiff",
            "dtype": "uint8",
            "count": count,
            "nodata": nodata,
            "tiled": True,
            "blockxsize": self._how.block,
            "blockysize": self._how.block,
            # All bands of a block in one piece, as `cog.assemble` copies them.
            "interleave": "pixel",
            **self._how.compression(smooth=legend is None).profile,
            # Otherwise GDAL fills every block that was not written when the file is closed.
            "sparse_ok": True,
            # A compressed file's size is not known beforehand, and a classic TIFF ends at 4 GB, in mid-write.
            "bigtiff": "IF_SAFER",
        }
        # Photographs have neither, and stay without.
        self._place = {}
        if grid.crs is not None or not grid.transform.is_identity:
            self._place = {"crs": grid.crs, "transform": grid.transform}
        self.counts = np.zeros(256, np.int64)
        """Histogram of the values written, all bands together."""
        self._blocks: set[tuple[int, int]] = set()
        self._finished = False

    def __enter__(self) -> MapWriter:
        check_written(self.path)
        check_new(self.path, overwrite=self._overwrite)
        self._folder = contextlib.ExitStack()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._part = self._folder.enter_context(private_folder(self.path.parent)) / "tiles.tif"
            with gdal():
                self._file = self._create(self._part, *self.grid.shape, **self._place)
                self._describe()
            full = Level(self._part, self.grid.shape, self._blocks, self.counts, self._how.block)
            how = {"nodata": self._profile["nodata"], "mode": self.legend is not None}
            how["count"] = self._how.overviews
            self._overviews = Overviews(full, self._file, self._create, **how)
        except GDAL_FAILURES as error:
            refused = self._refused(error)
            self._folder.close()
            raise refused from error
        return self

    @stage("write blocks")
    def write(self, window: Window, values: np.ndarray) -> None:
        """Write values, uint8 (H, W) or (C, H, W), of a window inside the grid. Raises BadFile."""
        values = values[None] if values.ndim == 2 else values
        assert values.shape[1:] == window.shape, f"{values.shape} for {window}"
        touched = blocks_in(window, self._how.block)
        try:
            with gdal():
                if self.count == 1:
                    self._file.write(values, window=window.rio)
                else:
                    self._write_whole_blocks(touched, window, values)
                self.counts += count_values(values)
                # Only these blocks get overviews and are read back: the rest costs nothing.
                self._blocks.update(touched)
                # Now, while the network is at the next tile: at the end nothing else would be done meanwhile.
                self._overviews.add(window)
        except GDAL_FAILURES as error:
            raise self._refused(error) from error

    def _write_whole_blocks(
        self, touched: Sequence[tuple[int, int]], window: Window, values: np.ndarray
    ) -> None:
        """Write a window of many bands, all pixels of every block that it touches.

        Where its cache is full GDAL writes a part of a block before all its bands have come, with zeros for
        the others, and takes these zeros for pixels from then on, unless it is given the whole block (seen
        with 3.10; tests/rasters/test_write.py).
        """
        for block in touched:
            place = square(block, self._how.block) & self.grid.window
            part = place & window
            pixels = values[(slice(None), *part.inset_of(window))]
            if part != place:
                if block in self._blocks:
                    whole = self._file.read(window=place.rio)
                else:
                    whole = np.full((self.count, *place.shape), self._profile["nodata"], np.uint8)
                whole[(slice(None), *part.inset_of(place))] = pixels
                pixels = whole
            self._file.write(pixels, window=place.rio)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and not self._finished:
                self.finish()
        finally:
            with contextlib.suppress(*GDAL_FAILURES), gdal():
                self._overviews.close()
                self._file.close()
            self._folder.close()

    def finish(self) -> None:
        """Make the COG now, not on leaving the context; several writers may do so at once, in threads."""
        self._finished = True
        # Else the folder would be made again, to hold an incomplete map.
        if not self._part.exists():
            raise BadFile(f"{self.path} cannot be written: its folder was removed or renamed meanwhile.")
        with written_whole(self.path, overwrite=self._overwrite) as part:
            try:
                # Closing compresses what GDAL's cache still holds, and reading back decompresses all: on all
                # cores, unless the creation options or, as on workers, GDAL's own setting restrain them.
                threads = self._how.threads or os.environ.get("GDAL_NUM_THREADS", "ALL_CPUS")
                with gdal(GDAL_NUM_THREADS=threads):
                    self._overviews.finish()
                    levels = self._overviews.levels
                    with stage("compress"):
                        self._overviews.close()
                        self._file.close()
                    with stage("COG"):
                        assemble([level.path for level in levels], part, big=self._how.big)
                    with stage("read back"):
                        self._read_back(part, levels)
            except TooLarge as error:
                raise BadFile(
                    f"{self.path} takes {bytes_text(error.size)}, and the creation option BIGTIFF=NO "
                    "allows less than 4 GiB: leave it out."
                ) from error
            except GDAL_FAILURES as error:
                raise self._refused(error) from error
            # The table takes its name first: killed in between, there is no raster yet, and none that looks
            # complete without its class names.
            if self.legend is None:
                self._remove_earlier()
                return
            with written_whole(Path(f"{self.path}.aux.xml"), overwrite=True) as side:
                side.write_bytes(attribute_table(self.legend, self.counts))
                self._remove_earlier()

    def _remove_earlier(self) -> None:
        """Remove an earlier raster of this name with its side files, which GDAL would still use."""
        try:
            for ending in ("", ".aux.xml", ".ovr", ".msk"):
                Path(f"{self.path}{ending}").unlink(missing_ok=True)
        except OSError as error:  # Windows removes no file that a viewer has open
            raise BadFile(f"{error.filename} belongs to an earlier map and cannot be removed.") from error

    def _read_back(self, part: Path, levels: Sequence[Level]) -> None:
        """Read back what was written and compare its histogram: on a full disk GDAL may lose the last blocks
        without an error. Raises OSError.

        Blocks that were never written are not read.
        """
        for number, level in enumerate(levels):
            found, missing = np.zeros(256, np.int64), -level.counts.sum()
            with rasterio.open(part, **({"overview_level": number - 1} if number else {})) as file:
                for block in sorted(level.blocks):
                    values = file.read(window=level.window(block).rio)
                    found += count_values(values)
                    missing += values.size
            expected = level.counts.copy()
            expected[self._profile["nodata"]] += missing
            if (found != expected).any():
                raise OSError("what was read back is not what was written")

    def _refused(self, error: BaseException) -> BadFile:
        return cannot_write(self.path, error, reason(error))

    def _create(self, path: Path, height: int, width: int, **place: object) -> rasterio.io.DatasetWriter:
        """Create a sparse file with these bands and colours. Colours are set before any pixel, so that they
        are part of the directory when GDAL first writes it.
        """
        file = rasterio.open(path, "w+", height=height, width=width, **self._profile, **place)
        if self.legend is not None:
            file.write_colormap(
                1, {IGNORE: (0, 0, 0, 0)} | {c.value: (*c.color, 255) for c in self.legend.classes}
            )
        else:
            # Else GDAL takes three bands for red, green and blue, and a fourth for alpha.
            file.colorinterp = [ColorInterp.gray] * file.count
        return file

    def _describe(self) -> None:
        tags = self._tags
        if self.legend is not None:
            # The side file is lost when someone copies or mails the .tif alone; colours are in it anyway.
            tags = tags | {NAMES_TAG: names_as_tag({c.value: c.name for c in self.legend.classes})}
        self._file.update_tags(**tags)
        for number, text in enumerate(
            ["class"] if self.legend is not None else self._descriptions or (), start=1
        ):
            self._file.set_band_description(number, text)


def attribute_table(legend: Legend, counts: np.ndarray) -> bytes:
    """GDAL's side file (.aux.xml) with category names and a raster attribute table, as QGIS and ArcGIS read
    it; counts (256,) are pixels per value.
    """
    root = xml.Element("PAMDataset")
    band = xml.SubElement(root, "PAMRasterBand", band="1")
    names = xml.SubElement(band, "CategoryNames")
    by_value = {c.value: c for c in legend.classes}
    # Category names go by position: values without a class need an empty one.
    for value in range(max(by_value) + 1):
        xml.SubElement(names, "Category").text = by_value[value].name if value in by_value else ""
    table = xml.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    # (name, GDALRATFieldType, GDALRATFieldUsage). Type: 0 integer, 1 real (counts beyond 2^31 need it), 2
    # text. Usage: 5 minimum and maximum (the value), 2 name, 6-9 red green blue alpha, 1 pixel count.
    fields = (
        ("Value", 0, 5),
        ("Count", 1, 1),
        ("Class", 2, 2),
        ("Red", 0, 6),
        ("Green", 0, 7),
        ("Blue", 0, 8),
        ("Alpha", 0, 9),
    )
    for index, (name, kind, usage) in enumerate(fields):
        definition = xml.SubElement(table, "FieldDefn", index=str(index))
        for tag, text in (("Name", name), ("Type", kind), ("Usage", usage)):
            xml.SubElement(definition, tag).text = str(text)
    for index, c in enumerate(sorted(legend.classes, key=lambda c: c.value)):
        row = xml.SubElement(table, "Row", index=str(index))
        for value in (c.value, int(counts[c.value]), c.name, *c.color, 255):
            xml.SubElement(row, "F").text = str(value)
    return xml.tostring(root, encoding="utf-8", xml_declaration=False)
