"""A training run watched in the browser: what is read from its files, and when the page changes."""

import asyncio
import json
import math
from pathlib import Path

import browser
import pytest
import torch
import viewed
from PIL import Image

pytest.importorskip("fastapi", reason="needs the extra `viewer`")
from fastapi.testclient import TestClient

from labelscape.files import locked
from labelscape.training.state import Progress, save_state
from labelscape.viewer import training
from labelscape.viewer.training import events, is_run, runs_in
from labelscape.viewer.watch import create_watch

HOME = "http://127.0.0.1:8765"


def saved(folder: Path, losses: list[float], name: str = "mlp") -> None:
    """The state of a run that is not finished, written by the training's own function."""
    history = [{"step": 10 * (i + 1), "loss": loss, "rate": 0.01} for i, loss in enumerate(losses)]
    history[-1]["val_miou"] = 0.5
    net = torch.nn.Linear(2, 2)
    save_state(
        folder / f"{name}.state.safetensors",
        {"steps": 100},
        Progress(step=10 * len(losses), history=history),
        net,
        torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9),
    )


def test_a_running_training_is_read_from_its_state(tmp_path):
    saved(tmp_path, [1.5, math.nan, 0.7])
    (run,) = runs_in(tmp_path)
    assert (run["name"], run["running"], run["step"], run["steps"]) == ("mlp", True, 30, 100)
    assert run["rows"] == [
        {"step": 10, "loss": 1.5, "rate": 0.01},
        {"step": 20, "rate": 0.01},
        {"step": 30, "loss": 0.7, "val_miou": 0.5, "rate": 0.01},
    ]
    assert is_run(tmp_path)


def test_damaged_files_are_left_out(tmp_path):
    saved(tmp_path, [1.0])
    (tmp_path / "a.state.safetensors").write_bytes(b"\xff" * 100)
    (tmp_path / "b.safetensors").write_bytes(b"")
    (tmp_path / "c.state.safetensors").write_bytes((3).to_bytes(8, "little") + b"{}}")
    (tmp_path / "d.state.safetensors").symlink_to(tmp_path / "mlp.state.safetensors")
    assert [run["name"] for run in runs_in(tmp_path)] == ["mlp"]


def test_an_event_comes_when_a_file_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "POLLED", 0.02)
    monkeypatch.setattr(training, "BEAT", 0.06)

    async def watched() -> list[str]:
        stream = events(tmp_path)
        saved(tmp_path, [1.5])
        found = [await anext(stream), await anext(stream)]
        saved(tmp_path, [1.5, 0.9])
        found.append(await anext(stream))
        await stream.aclose()
        return found

    first, beat, second = asyncio.run(watched())
    assert beat == ": still here\n\n"
    steps = [json.loads(text.removeprefix("data: "))[0]["step"] for text in (first, second)]
    assert steps == [10, 20]


def test_the_newest_map_of_the_validation_blocks_is_sent(tmp_path):
    saved(tmp_path, [1.0], "a b")
    page = TestClient(create_watch(tmp_path), base_url=HOME)
    assert runs_in(tmp_path)[0]["picture"] is None
    picture = tmp_path / "a b.val.png"
    Image.new("RGB", (9, 5)).save(picture)
    address = runs_in(tmp_path)[0]["picture"]
    assert page.get(f"/{address}").content == picture.read_bytes()
    (tmp_path / "secret.png").write_bytes(b"secret")
    for strange in ("secret", "..%2fsecret", "%2e%2e/secret", "a%20b.val"):
        assert page.get(f"/pictures/{strange}.png").status_code == 404
    # Another address when the file is another one; a link is not followed.
    Image.new("RGB", (19, 15)).save(picture)
    assert runs_in(tmp_path)[0]["picture"] != address
    picture.rename(tmp_path / "other")
    picture.symlink_to(tmp_path / "other")
    assert runs_in(tmp_path)[0]["picture"] is None and page.get(f"/{address}").status_code == 404


def test_the_server_of_a_run_is_as_careful(tmp_path):
    saved(tmp_path, [1.0])
    page = TestClient(create_watch(tmp_path), base_url=HOME)
    assert page.get("/api/runs").json()["runs"][0]["step"] == 10
    assert page.get("/api/runs", headers={"host": "evil.example"}).status_code == 403
    assert page.get("/api/stream", headers={"origin": "http://evil.example"}).status_code == 403
    assert page.get("/static/..%2fwatch.py").status_code == 404


def test_the_page_follows_the_training(tmp_path):
    saved(tmp_path, [1.5, 1.1])
    Image.new("RGB", (300, 90)).save(tmp_path / "mlp.val.png")

    class Nothing:
        def close(self) -> None: ...

    with viewed.server(Nothing(), app=create_watch(tmp_path)) as home, browser.opened(home, 400) as page:
        page.wait_for_selector("body[data-ready]")
        assert "20 of 100" in page.inner_text("#rows")
        # Loss and rate as lines, the only validation score as a dot.
        assert len(page.query_selector_all("#charts polyline")) == 2
        assert len(page.query_selector_all("#charts circle")) == 1
        assert "labels of the validation blocks" in page.inner_text("#pictures")
        saved(tmp_path, [1.5, 1.1, 0.8])
        page.wait_for_selector("#rows:has-text('30 of 100')")
        assert "0.8" in page.get_attribute("figure svg", "aria-label")
        assert page.seen == [] and page.evaluate(browser.FAULTS) == [] and browser.unreadable(page) == []


def test_a_training_that_has_just_begun_can_be_watched(tmp_path):
    assert not is_run(tmp_path)
    with locked(tmp_path / "mlp.safetensors"):
        assert is_run(tmp_path) and runs_in(tmp_path) == []
        (tmp_path / "notes.txt").touch()
        # Of another program's folder nothing says that a training writes there.
        assert not is_run(tmp_path)
