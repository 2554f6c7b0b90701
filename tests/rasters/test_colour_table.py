"""Other colours for a finished map: GDAL reads them, no pixel is written again, the COG stays one."""

import numpy as np
import pytest
import rasterio
import world
from rio_cogeo import cog_validate

from labelscape.errors import BadInput
from labelscape.grid import Grid
from labelscape.labels.class_names import named_values
from labelscape.legend import IGNORE, Legend
from labelscape.rasters.class_names import legend_of
from labelscape.rasters.colour_table import colour_tables, colours_of, recolour
from labelscape.rasters.write import MapWriter

LEGEND = Legend.of_names(("water", "field", "forest"), values=(1, 4, 9))
SIZE = 1100, 700


def written(path, legend=LEGEND):
    classes = LEGEND.decode(world.paint(*SIZE))
    with MapWriter(path, Grid(world.UTM, world.NORTH_UP, *SIZE), 1, IGNORE, legend=legend) as writer:
        writer.write(writer.grid.window, classes[None])
    return path


def test_colours_change_and_nothing_else(tmp_path):
    path = written(tmp_path / "a_class.tif")
    before = path.read_bytes()
    tables = colour_tables(path)
    with rasterio.open(path) as file:
        assert len(tables) == 1 + len(file.overviews(1)) > 1
    now = recolour(path, {4: (1, 2, 3), 9: (255, 0, 128)})
    assert now[4] == (1, 2, 3) and now[1] == LEGEND.classes[0].color
    # Outside of the tables every byte is where it was; inside only entries 4 and 9 of the three sides differ.
    after = np.frombuffer(path.read_bytes(), np.uint8)
    changed = np.flatnonzero(after != np.frombuffer(before, np.uint8))
    inside = {
        t + 2 * (256 * side + value) + byte
        for t in tables
        for side in range(3)
        for value in (4, 9)
        for byte in (0, 1)
    }
    assert set(changed.tolist()) <= inside and len(after) == len(before)
    assert cog_validate(path, strict=True)[0]
    for level in range(len(tables) - 1):
        with rasterio.open(path, overview_level=level) as file:
            assert file.colormap(1)[9] == (255, 0, 128, 255) and file.colormap(1)[IGNORE][3] == 0
    # The attribute table says the same, and the names are there.
    legend, _ = legend_of(path)
    assert [one.color for one in legend.classes] == [LEGEND.classes[0].color, (1, 2, 3), (255, 0, 128)]
    side = (tmp_path / "a_class.tif.aux.xml").read_text()
    assert "<F>forest</F><F>255</F><F>0</F><F>128</F><F>255</F>" in side
    assert named_values(tmp_path / "a_class.tif.aux.xml") == {1: "water", 4: "field", 9: "forest"}


@pytest.mark.parametrize(
    "options", [{"BIGTIFF": "YES"}, {"ENDIANNESS": "BIG"}, {"BIGTIFF": "YES", "ENDIANNESS": "BIG"}]
)
def test_files_of_other_software(tmp_path, options):
    path = tmp_path / "other.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=90, height=80, count=1, dtype="uint8", **options
    ) as file:
        file.write(np.ones((1, 80, 90), np.uint8))
        file.write_colormap(1, {1: (10, 20, 30), 2: (40, 50, 60)})
    assert recolour(path, {2: (7, 8, 9)})[1] == (10, 20, 30)
    with rasterio.open(path) as file:
        assert (file.colormap(1)[2], file.colormap(1)[1]) == ((7, 8, 9, 255), (10, 20, 30, 255))
        assert (file.read() == 1).all()


def test_colours_that_somebody_changed_are_not_overwritten(tmp_path):
    path = written(tmp_path / "a_class.tif")
    old = LEGEND.classes[1].color
    recolour(path, {4: (1, 2, 3)})
    before = path.read_bytes()
    assert recolour(path, {4: (9, 9, 9), 1: (8, 8, 8)}, before={4: old, 1: LEGEND.classes[0].color})[4] == (
        1,
        2,
        3,
    )
    assert path.read_bytes() == before
    assert recolour(path, {4: (9, 9, 9)}, before={4: (1, 2, 3)})[4] == colours_of(path)[4] == (9, 9, 9)


def test_files_without_a_table_are_refused(tmp_path):
    grey = world.write(tmp_path / "grey.tif", np.zeros((20, 20), np.uint8))
    (tmp_path / "text.tif").write_text("II no TIFF")
    (tmp_path / "circle.tif").write_bytes(b"II*\x00\x08\x00\x00\x00\x00\x00\x08\x00\x00\x00")
    for path in (grey, tmp_path / "text.tif", tmp_path / "circle.tif", tmp_path / "none.tif"):
        assert colour_tables(path) == []
        with pytest.raises(BadInput, match="no GeoTIFF with a colour table"):
            recolour(path, {1: (0, 0, 0)})
    (tmp_path / "link.tif").symlink_to(written(tmp_path / "a_class.tif"))
    with pytest.raises(BadInput, match="is a link"):
        recolour(tmp_path / "link.tif", {1: (0, 0, 0)})
