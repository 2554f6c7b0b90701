import contextlib
import json
import resource
import shutil
import subprocess
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

import numpy as np
import pytest
import rasterio
import world
from affine import Affine
from rasterio.crs import CRS
from rio_cogeo import cog_validate

from labelscape.errors import BadFile
from labelscape.files import written_whole
from labelscape.grid import Grid, Window
from labelscape.legend import IGNORE, Legend
from labelscape.rasters.class_names import legend_of
from labelscape.rasters.write import MapWriter

LEGEND = Legend.of_names(["water", "field & <meadow>", "forest"], values=[3, 0, 7])


def write_classes(path, grid, values, **options):
    with MapWriter(path, grid, 1, IGNORE, legend=LEGEND, **options) as writer:
        for window in reversed(list(grid.window.blocks(300))):  # any order, not on block borders
            writer.write(window, values[window.inset_of(grid.window)])
    return writer


@pytest.mark.parametrize("size", [(1, 1), (37, 1), (700, 513), (1030, 600)])
@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        (world.UTM, world.NORTH_UP),
        (world.UTM, world.ROTATED),
        (CRS.from_epsg(4326), world.DEGREES),
        (None, Affine.identity()),
    ],
)
def test_a_class_map_is_a_valid_coloured_cog_on_its_own_grid(tmp_path, size, crs, transform, recwarn):
    grid = Grid(crs, transform, *size)
    values = np.random.default_rng(0).choice(np.array([0, 3, 7, 255], np.uint8), size)
    path = tmp_path / "map_class.tif"
    write_classes(path, grid, values, tags={"labelscape_version": "x"})
    valid, errors, _ = cog_validate(path)
    assert valid, errors
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(1), values)
        assert file.crs == crs
        assert file.transform.almost_equals(transform)
        assert file.nodata == 255
        assert file.colormap(1)[7][:3] == tuple(LEGEND.colors[2])
        assert file.tags()["labelscape_version"] == "x"
        assert file.descriptions == ("class",)
        if max(size) > 1024:
            assert file.overviews(1)
            coarse = file.read(1, out_shape=(size[0] // 2, size[1] // 2))
            assert set(np.unique(coarse)) <= {0, 3, 7, 255}
    assert not [w for w in recwarn if "georeference" in str(w.message).lower() and crs is not None]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map_class.tif", "map_class.tif.aux.xml"]


def test_the_attribute_table_names_counts_and_colours_classes(tmp_path):
    grid = Grid(world.UTM, world.NORTH_UP, 40, 50)
    values = np.zeros((40, 50), np.uint8)
    values[:10] = 7
    write_classes(tmp_path / "m.tif", grid, values)
    table = xml.parse(tmp_path / "m.tif.aux.xml").getroot().find(".//GDALRasterAttributeTable")
    names = [f.findtext("Name") for f in table.findall("FieldDefn")]
    rows = [dict(zip(names, (f.text for f in row.findall("F")))) for row in table.findall("Row")]
    assert [(r["Value"], r["Class"], r["Count"]) for r in rows] == [
        ("0", "field & <meadow>", "1500"),
        ("3", "water", "0"),
        ("7", "forest", "500"),
    ]
    assert [int(rows[2][c]) for c in ("Red", "Green", "Blue")] == LEGEND.colors[2].tolist()


def test_a_raster_copied_without_its_side_file_keeps_names_and_colours(tmp_path):
    legend = Legend.of_names(["Wald, naß", 'eau "vive"'], values=[3, 7], colors=[(1, 2, 3), (250, 0, 9)])
    grid = Grid(world.UTM, world.NORTH_UP, 70, 90)
    with MapWriter(tmp_path / "a.tif", grid, 1, IGNORE, legend=legend) as writer:
        writer.write(grid.window, np.full(grid.shape, 7, np.uint8))
    shutil.copy(tmp_path / "a.tif", tmp_path / "alone.tif")
    found, _ = legend_of(tmp_path / "alone.tif")
    assert [(c.value, c.name, tuple(c.color)) for c in found.classes] == [
        (3, "Wald, naß", (1, 2, 3)),
        (7, 'eau "vive"', (250, 0, 9)),
    ]
    with rasterio.open(tmp_path / "alone.tif", "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.update_tags(class_names="no JSON of ours")
    assert [c.name for c in legend_of(tmp_path / "alone.tif")[0].classes] == ["class 7"]


def test_what_was_never_written_is_nodata_and_costs_nothing(tmp_path):
    grid = Grid(world.UTM, world.NORTH_UP, 20_000, 20_000)
    with MapWriter(tmp_path / "m.tif", grid, 1, IGNORE, legend=LEGEND) as writer:
        writer.write(Window(5000, 7000, 300, 200), np.full((300, 200), 3, np.uint8))
    assert (tmp_path / "m.tif").stat().st_size < 2_000_000
    with rasterio.open(tmp_path / "m.tif") as file:
        assert (file.read(1, window=Window(5000, 7000, 300, 200).rio) == 3).all()
        assert (file.read(1, window=Window(0, 0, 600, 600).rio) == IGNORE).all()


def test_several_bands_keep_their_names(tmp_path):
    grid = Grid(world.UTM, world.NORTH_UP, 600, 700)
    values = np.random.default_rng(1).integers(0, 251, (3, 600, 700), np.uint8)
    with MapWriter(tmp_path / "p.tif", grid, 3, IGNORE, descriptions=["a", "b", "c"]) as writer:
        writer.write(grid.window, values)
    with rasterio.open(tmp_path / "p.tif") as file:
        np.testing.assert_array_equal(file.read(), values)
        assert file.descriptions == ("a", "b", "c")
    assert cog_validate(tmp_path / "p.tif")[0]


def test_many_bands_are_what_was_written_however_small_the_cache_of_gdal(tmp_path):
    grid = Grid(world.UTM, world.NORTH_UP, 1500, 1700)
    # Blocks of two windows, of one, of none, at the edge; and nodata in a window.
    windows = Window(200, 300, 700, 900), Window(900, 300, 10, 900), Window(1100, 1400, 400, 300)
    values = np.random.default_rng(0).integers(0, 200, (6, *grid.shape)).astype(np.uint8)
    values[:, 850:905] = IGNORE
    wanted = np.full_like(values, IGNORE)
    for window in windows:
        inside = (slice(None), *window.inset_of(grid.window))
        wanted[inside] = values[inside]
    for cache in (2**20, 2**22, 2**28):
        with (
            rasterio.Env(GDAL_CACHEMAX=cache),
            MapWriter(tmp_path / f"{cache}.tif", grid, 6, IGNORE) as writer,
        ):
            for window in windows:
                writer.write(window, values[(slice(None), *window.inset_of(grid.window))])
        with rasterio.open(tmp_path / f"{cache}.tif") as file:
            np.testing.assert_array_equal(file.read(), wanted)
    assert len({path.read_bytes() for path in tmp_path.glob("*.tif")}) == 1


def test_nothing_is_left_when_the_work_breaks_off(tmp_path):
    grid = Grid(world.UTM, world.NORTH_UP, 40, 50)
    with (
        pytest.raises(RuntimeError, match="half way"),
        MapWriter(tmp_path / "m.tif", grid, 1, IGNORE, legend=LEGEND),
    ):
        raise RuntimeError("half way")
    assert not list(tmp_path.iterdir())
    write_classes(tmp_path / "m.tif", grid, np.zeros((40, 50), np.uint8))
    before = (tmp_path / "m.tif").read_bytes()
    with pytest.raises(BadFile, match="overwrite=True"):
        write_classes(tmp_path / "m.tif", grid, np.full((40, 50), 3, np.uint8))
    with (
        pytest.raises(RuntimeError),
        MapWriter(tmp_path / "m.tif", grid, 1, IGNORE, legend=LEGEND, overwrite=True),
    ):
        raise RuntimeError
    assert (tmp_path / "m.tif").read_bytes() == before


def test_a_full_disk_ends_in_a_sentence_and_leaves_nothing(tmp_path):
    script = f"""
import json, resource, signal, sys
import numpy as np
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)   # writing beyond the limit then fails as a full disk does
from labelscape.errors import BadFile
from labelscape.files import written_whole
from labelscape.grid import Grid
from labelscape.rasters.class_names import legend_of
from labelscape.rasters.write import MapWriter
from rasterio.crs import CRS
from affine import Affine
grid = Grid(CRS.from_epsg(32633), Affine(10, 0, 4e5, 0, -10, 5e6), 3000, 3000)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
noise = np.random.default_rng(0).integers(0, 251, (3000, 3000), np.uint8)
try:
    with MapWriter({str(tmp_path / "m.tif")!r}, grid, 1, 255) as writer:
        for window in grid.window.blocks(512):
            writer.write(window, noise[window.inset_of(grid.window)])
    print(json.dumps("finished"))
except BadFile as error:
    print(json.dumps(str(error)))
"""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] != 300_000
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    said = json.loads(done.stdout.strip().splitlines()[-1])
    assert "m.tif cannot be written" in said, done.stderr
    assert not list(tmp_path.iterdir())


def test_side_files_of_an_earlier_map_that_stay_are_said(tmp_path):
    """As where a viewer on Windows has them open: the new map would be shown with the old overviews."""
    (tmp_path / "m.tif.ovr" / "held").mkdir(parents=True)
    grid = Grid(world.UTM, world.NORTH_UP, 8, 8)
    with pytest.raises(BadFile, match=r"m\.tif\.ovr.* belongs to an earlier map and cannot be removed"):
        with MapWriter(tmp_path / "m.tif", grid, 1, IGNORE, legend=LEGEND) as writer:
            writer.write(grid.window, np.zeros((8, 8), np.uint8))


@pytest.mark.parametrize(("system", "hint"), [("win32", True), ("linux", False)])
def test_a_file_in_use_is_a_likely_cause_on_windows(tmp_path, monkeypatch, system, hint):
    monkeypatch.setattr("labelscape.files.sys.platform", system)
    (tmp_path / "report.html").touch()
    with pytest.raises(BadFile, match="cannot be written") as told:
        with written_whole(tmp_path / "report.html", overwrite=True):
            raise PermissionError(13, "The process cannot access the file")
    assert ("open in another program" in str(told.value)) == hint


def test_a_class_raster_never_stands_there_without_its_names(tmp_path, monkeypatch):
    """Stopped between the two names, there is no raster that looks complete, nor an earlier one with the
    names of this.
    """
    grid = Grid(world.UTM, world.NORTH_UP, 8, 8)
    real, named = Path.replace, []

    def stopping(self, target):
        if len(named) == stop:
            raise KeyboardInterrupt
        named.append(Path(target).name)
        return real(self, target)

    for stop in (0, 1, 2):
        named.clear()
        (tmp_path / "m.tif").write_text("an earlier map")
        with contextlib.suppress(KeyboardInterrupt), monkeypatch.context() as patched:
            patched.setattr(Path, "replace", stopping)
            with MapWriter(tmp_path / "m.tif", grid, 1, IGNORE, legend=LEGEND, overwrite=True) as writer:
                writer.write(grid.window, np.zeros((8, 8), np.uint8))
        assert named == ["m.tif.aux.xml", "m.tif"][:stop]
        assert (tmp_path / "m.tif").exists() == (stop == 2)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
