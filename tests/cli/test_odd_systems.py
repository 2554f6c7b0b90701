"""Systems in odd states: no folder for temporary files, results below a file, a time that is none, a
terminal without letters.
"""

import io
import shutil
import sys
import tempfile

import pytest
import world

from labelscape.areas.polygonize import polygonize
from labelscape.cli import streams
from labelscape.errors import BadFile, BadOption
from labelscape.evaluation.compare import _targets
from labelscape.files import make_folder, temporary_folder
from labelscape.scenes.vectors import layers_of


def test_no_folder_for_temporary_files(tmp_path, monkeypatch):
    w = world.make(tmp_path, 40, 40)
    odd = shutil.copy(world.label_polygons(w, tmp_path / "a.gpkg"), tmp_path / "a!b.gpkg")
    (tmp_path / "file").write_text("")
    for place in ("/nonexistent", str(tmp_path / "file")):
        monkeypatch.setattr(tempfile, "tempdir", place)
        with (
            pytest.raises(BadFile, match="No temporary file can be written .*set TMPDIR"),
            temporary_folder(),
        ):
            pass
        with pytest.raises(BadFile, match="set TMPDIR"):
            layers_of(odd)


def test_results_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(BadFile, match="cannot be created"):
            make_folder(place / "x")
        with pytest.raises(BadFile, match="cannot be created"):
            _targets(place / "x", [], [], overwrite=False)


@pytest.mark.parametrize("given", ["99999999999999999999", "abc", "-5", ""])
def test_a_time_of_writing_that_is_none(tmp_path, monkeypatch, given):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", given)
    raster = world.write(tmp_path / "m.tif", world.paint(20, 20))
    if len(given) < 10:
        assert polygonize(raster, tmp_path / "p.gpkg").written
        return
    with pytest.raises(BadOption, match=f"SOURCE_DATE_EPOCH={given} is no time"):
        polygonize(raster, tmp_path / "p.gpkg")
    assert not (tmp_path / "p.gpkg").exists()


def test_a_terminal_without_letters_shows_their_codes(monkeypatch):
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii"))
    with streams.usable():
        print("Äcker")
        sys.stdout.flush()
    assert shown.getvalue() == b"\\xc4cker\n"
