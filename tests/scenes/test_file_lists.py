import pytest

from labelscape.errors import BadFile, BadInput
from labelscape.scenes.file_lists import listed_files


@pytest.fixture
def folder(tmp_path):
    for name in ("b.tif", "a.tif", "a.tif.aux.xml", "odd[1].tif", "c,d.gpkg"):
        (tmp_path / name).touch()
    return tmp_path


def test_globs_and_lists_are_in_order_and_keep_what_is_named_twice(folder):
    (folder / "labels.txt").write_text("# fields\nb.tif\n\na.tif\nb.tif\nc,d.gpkg\n")
    (folder / "labels.csv").write_text("name;path\nx;a.tif\ny;b.tif\n")
    a, b, odd = (str(folder / name) for name in ("a.tif", "b.tif", "odd[1].tif"))
    assert listed_files([f"{folder}/[ab]*.tif*"]) == [a, b]
    assert listed_files([str(folder / "labels.txt")]) == [b, a, b, str(folder / "c,d.gpkg")]
    assert listed_files([str(folder / "labels.csv"), odd]) == [a, b, odd]
    # What is no list stays as it was typed, there or not.
    for text in (odd, "B02.jp2,B03.jp2", "gone.gpkg", "gone.txt", "https://host/x.txt", "PG:dbname=x"):
        assert listed_files([text]) == [text]


def test_lists_that_cannot_be_followed(folder):
    (folder / "far.txt").write_text("https://host/a.tif\n")
    (folder / "none.txt").write_text("# nothing\n")
    (folder / "rows.csv").write_text("id,area\n1,2\n")
    with pytest.raises(BadFile, match="far.txt, line 1 names an address"):
        listed_files([str(folder / "far.txt")])
    assert listed_files([str(folder / "far.txt")], allow_remote=True) == ["https://host/a.tif"]
    with pytest.raises(BadInput, match="none.txt lists no files"):
        listed_files([str(folder / "none.txt")])
    with pytest.raises(BadInput, match="rows.csv has no column of paths"):
        listed_files([str(folder / "rows.csv")])
    with pytest.raises(BadFile, match="No file matches"):
        listed_files([f"{folder}/*.jp2"])


@pytest.mark.parametrize(
    ("header", "cure"),
    [
        ("x,y,class", "Points are no labels"),
        ("Class;Lat;Lon", "Points are no labels"),
        ("geometry,class", r"ogr2ogr -oo GEOM_POSSIBLE_NAMES=geometry -a_srs EPSG:CODE rows.gpkg"),
        ("class,year", "was expected.$"),
    ],
)
def test_tables_of_labels_that_are_no_lists_of_files(tmp_path, header, cure):
    mark = ";" if ";" in header else ","
    (tmp_path / "rows.csv").write_text(f"{header}\n{mark.join('123'[: header.count(mark) + 1])}\n")
    with pytest.raises(BadInput, match=f"rows.csv has no column of paths.*{cure}"):
        listed_files([str(tmp_path / "rows.csv")])
