"""A map shown from a process that goes on, and in a notebook that a real kernel executes."""

import json
import re
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import browser
import pytest
import viewed
import world
from processes import until

pytest.importorskip("uvicorn", reason="needs the extra `viewer`")
import labelscape as ls
from labelscape.maps.result import MapResult
from labelscape.viewer.app import create_app
from labelscape.viewer.guard import FRAMED, HEADERS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return viewed.made(tmp_path_factory.mktemp("map"))


def test_a_result_shows_its_map(folder):
    scene = str(folder / "place.tif")
    result = MapResult({"class": folder / "place_class.tif"}, (), 0, (), 1.0, 1, 1.0, facts={"scene": scene})
    with result.show(height=300) as view:
        assert f'src="{view.address}"' in view._repr_html_() and 'height="300"' in view._repr_html_()
        facts = json.load(urllib.request.urlopen(f"{view.address}api/map"))
        assert [one["key"] for one in facts["layers"]] == ["class", "confidence", "proba", "scene"]
        assert facts["edit"] is False and facts["notes"] == []
        # A cell that is run again does not start another server.
        assert result.show(height=200) is view and 'height="200"' in view._repr_html_()
    assert repr(view) == "<MapView place: closed>" and "iframe" not in view._repr_html_()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{view.address}api/map")
    with pytest.raises(ls.LabelscapeError, match="100 pixels or more"):
        result.show(height=20)


def test_frames_of_other_machines_stay_forbidden():
    assert "frame-ancestors 'none'" in HEADERS["content-security-policy"]
    allowed = FRAMED["content-security-policy"].split("frame-ancestors ")[1].split()
    assert {one.split("//")[-1] for one in allowed} == {"127.0.0.1:*", "localhost:*", "vscode-webview:"}
    assert HEADERS["x-frame-options"] == "DENY" and "x-frame-options" not in FRAMED


class Notebook(BaseHTTPRequestHandler):
    """A page of another port of this machine, as a notebook server's is."""

    frames = ""

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(f"<!doctype html><title>Notebook</title>{self.frames}".encode())

    def log_message(self, *_): ...


def refusals(page):
    return [one for one in page.seen if not one.startswith("request:")]


def test_the_frame_works_in_a_page_of_another_port(folder):
    """By another name too: a notebook at localhost is another site than 127.0.0.1."""
    other = ThreadingHTTPServer(("127.0.0.1", 0), Notebook)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    with ls.show_map(folder) as view, viewed.server(view._shown, app=create_app(view._shown)) as closed:
        Notebook.frames = view._repr_html_() + f'<iframe id="closed" src="{closed}"></iframe>'
        with browser.opened(f"http://localhost:{other.server_port}/", 1000) as page:
            inside = page.frame_locator("iframe >> nth=0")
            inside.locator("body[data-ready]").wait_for()
            assert "forest" in inside.locator("#legend").inner_text()
            inside.locator("#map .leaflet-tile-loaded").first.wait_for()
            # What `serve` serves refuses to be framed, and nothing else is in the console. Messages come
            # while the page is asked.
            until(lambda: page.wait_for_timeout(20) or refusals(page))
            assert all("frame-ancestors" in one or "frame" in one for one in refusals(page))
    other.shutdown()
    other.server_close()


CELLS = (
    "import labelscape as ls\ncheckpoint = ls.load('a.safetensors')\ncheckpoint",
    "rules = ls.LabelRules(legend=checkpoint.legend)\n"
    "with ls.open_dataset(['scene.tif'], ['labels.tif'], spec=rules) as dataset:\n"
    "    evaluation = ls.evaluate(checkpoint, dataset)\nevaluation",
    "result = ls.map_scene(checkpoint, 'scene.tif', 'map', report=False, force=True)\nresult",
    "result.show()",
)


@pytest.mark.long
def test_a_notebook_shows_checkpoint_evaluation_result_and_map(tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="needs nbclient and ipykernel: make install")
    pytest.importorskip("ipykernel", reason="needs nbclient and ipykernel: make install")
    from nbclient import NotebookClient

    w = world.make(tmp_path)
    world.label_raster(w, tmp_path / "labels.tif")
    ls.save(world.tiny_checkpoint(like=w.scene), tmp_path / "a.safetensors")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(one) for one in CELLS])
    client = NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    with client.setup_kernel():
        for number, cell in enumerate(book.cells):
            client.execute_cell(cell, number)
        shown = [one.data for cell in book.cells for one in cell.outputs if one.output_type != "stream"]
        assert len(shown) == len(CELLS) and all("text/html" in one for one in shown)
        for one, text in zip(shown, ("skip", "mIoU", "scene_class.tif", "<iframe")):
            assert text in one["text/html"]
        # The kernel's own server shows the scene that was mapped, too.
        address = re.search(r'src="([^"]+)"', shown[-1]["text/html"])[1]
        with browser.opened(address, 800) as page:
            page.wait_for_selector("body[data-ready]")
            page.wait_for_selector("#map .leaflet-tile-loaded")
            assert page.is_visible("#imagery") and page.seen == []
