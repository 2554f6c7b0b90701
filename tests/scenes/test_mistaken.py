"""Files that are something else than their name says: the message says what, and what to do."""

import gzip
import io
import tarfile
import unicodedata
import zipfile

import numpy as np
import pyogrio
import pytest
import world

from labelscape.checkpoint import load
from labelscape.errors import BadFile, BadInput
from labelscape.mistaken import no_such_file
from labelscape.scenes.files import open_raster
from labelscape.scenes.vectors import VectorSource, layers_of, read_features

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
NUMPY = io.BytesIO()
np.save(NUMPY, np.zeros((4, 4)))
PAGE = b"\xef\xbb\xbf\n<!DOCTYPE html><html><title>Sign in</title></html>"


def zipped(path, *members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (POINTER, "pointer that Git LFS puts .*git lfs pull"),
        (PAGE, "web page"),
        (b"", "is empty"),
        (gzip.compress(b"data"), "compressed with gzip"),
        ('{"type": "FeatureCollection"}'.encode("utf-16"), "UTF-16"),
        (b"7z\xbc\xaf\x27\x1c\x00\x04", "an archive .7z.: unpack it"),
        (b"\x0e\x03\x13\x01" + 40 * b"\0", "is HDF4, which the GDAL .* with another GDAL"),
        (b"Rar!\x1a\x07\x01\x00", "an archive .rar.: unpack it"),
        (NUMPY.getvalue(), "an array of NumPy, which has no coordinates: write it as GeoTIFF"),
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF: export what it shows as GeoTIFF"),
        (
            b"PK\x03\x04" + b"cut short" * 9,
            "a damaged zip archive, cut short perhaps: download or copy it again",
        ),
    ],
)
@pytest.mark.parametrize(
    ("name", "read"),
    [("a.tif", open_raster), ("a.gpkg", read_features), ("a.geojson", layers_of), ("a.safetensors", load)],
)
def test_what_came_instead_of_a_file_is_said(tmp_path, content, said, name, read):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadFile, match=f"{name} .*{said}"):
        read(tmp_path / name)


def test_members_of_archives_have_names_that_open(tmp_path):
    scene = world.write(tmp_path / "s.tif", world.paint(20, 20))
    zipped(tmp_path / "a.zip", ("__MACOSX/x/._s.tif", b"0"), ("x/s.tif", scene.read_bytes()))
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(scene, "x/s.tif")
    for name in ("a.zip", "a.tar.gz"):
        with pytest.raises(BadFile, match="is an archive: unpack it, or name a file in it") as told:
            open_raster(tmp_path / name)
        assert "MACOSX" not in str(told.value)
        with open_raster(str(told.value).partition("(")[2].rpartition(")")[0]) as file:
            assert file.shape == (20, 20)
    with pytest.raises(BadFile, match="is an empty archive"):
        open_raster(zipped(tmp_path / "none.zip"))


def test_weights_of_torch_save_are_no_archive_to_unpack(tmp_path):
    with pytest.raises(BadFile, match="torch.save, which can hold code"):
        load(zipped(tmp_path / "w.safetensors", ("archive/data.pkl", b"")))


def test_a_layer_that_qgis_gives_by_its_number(tmp_path):
    w = world.make(tmp_path)
    path = world.label_polygons(w, tmp_path / "a.gpkg", only=(0,))
    for name, only in (("b", (1, 2)), ("c", (2,))):
        other = world.label_polygons(w, tmp_path / f"{name}.gpkg", only=only)
        meta, _, shapes, fields = pyogrio.raw.read(other)
        how = {"geometry_type": "Polygon", "crs": meta["crs"], "layer": name, "append": True}
        pyogrio.raw.write(path, shapes, fields, meta["fields"], **how)
    assert [VectorSource.of(f"{path}|layerid={n}").layer for n in range(3)] == ["a", "b", "c"]
    found = set(read_features(f"{path}|layerid=1").columns["kind"])
    assert found == {"field", "forest"}
    for wrong in ("3", "-1", "x"):
        with pytest.raises(BadInput, match=f"no layer of the number {wrong}: it has the layers a, b, c"):
            VectorSource.of(f"{path}|layerid={wrong}")


def test_a_file_whose_accents_are_stored_in_another_way_is_named(tmp_path):
    (tmp_path / unicodedata.normalize("NFD", "\u00e9t\u00e9.tif")).write_bytes(b"x")
    text = no_such_file(tmp_path / "\u00e9t\u00e9.tif")
    assert "does, whose accents are stored in another way" in text
    assert unicodedata.normalize("NFD", "\u00e9t\u00e9.tif does") in text
    assert no_such_file("") == "An empty path was given, which is no file."
