"""Times of maps as papers print them."""

import json

import pytest
import world

from labelscape.maps import run as maps_run
from labelscape.maps.run import map_scene
from labelscape.maps.speed import INCLUDES, Speed, in_words


def test_rates_by_hand():
    """Two megapixels of 0.5 m, 50 hectares, in 8 s."""
    speed = Speed(8.0, 2_000_000, 50.0, "cpu", "32")
    assert speed.megapixels_per_second == 0.25 and speed.seconds_per_hectare == 0.16
    assert str(speed) == f"8.0 s, 0.16 s a hectare, 0.25 megapixels a second on cpu (includes {INCLUDES})"
    assert Speed(8.0, 2_000_000, None, "cpu", "32").to_dict()["seconds_per_hectare"] is None
    assert "hectare" not in str(Speed(8.0, 2_000_000, None, "cpu", "32"))
    # Metadata that another program shortened.
    assert in_words({"device": "cuda"}).endswith("on cuda (includes None)")


def test_a_map_tells_its_speed_where_it_was_made_at_once(tmp_path, monkeypatch):
    w = world.make(tmp_path, 64, 96, nodata=0)
    model = world.tiny_checkpoint(like=w.scene)
    how = {"device": "cpu", "polygons": False, "tile_size": 32, "overlap": 0, "blend": "none"}
    done = map_scene(model, w.scene, tmp_path / "a", **how)
    pixels = sum(area.pixels for area in done.areas)
    assert done.speed.pixels == pixels < 64 * 96 and done.speed.hectares == pytest.approx(
        pixels / 100, rel=0.01
    )
    stored = json.loads(done.paths["run"].read_text())
    assert stored["speed"] == done.speed.to_dict() and stored["speed"]["device"] == "cpu"
    assert stored["speed"]["megapixels_per_second"] == pytest.approx(pixels / 1e6 / done.seconds, rel=1e-3)
    assert "s a hectare" in done.paths["report"].read_text()
    # Interrupted before its report: the tiles are kept, and the second run made none of them.
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(maps_run, "_write_report", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        map_scene(model, w.scene, tmp_path / "b", **how)
    again = map_scene(model, w.scene, tmp_path / "b", **how)
    assert again.resumed and again.speed is None
    assert json.loads(again.paths["run"].read_text())["speed"] is None
