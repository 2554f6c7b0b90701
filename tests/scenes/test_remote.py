"""Servers that lead elsewhere: an item is followed to no other host, network or virtual raster unasked."""

import http.server
import json
import threading
from functools import partial

import pytest
import world

from labelscape.errors import BadFile
from labelscape.scenes import remote
from labelscape.scenes.stac import described


class Leading(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; /to/ADDRESS redirects there."""

    def do_GET(self):
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path):
    """A folder and its address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Leading, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield tmp_path, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def item(folder, href):
    feature = {"type": "Feature", "id": "x", "assets": {"a": {"href": href, "roles": ["data"]}}}
    (folder / "item.json").write_text(json.dumps(feature))


def test_a_redirect_of_an_asset_to_another_server_is_refused(served):
    folder, address = served
    elsewhere = "http://localhost:1/secret.tif"
    item(folder, f"{address}/to/{elsewhere}")
    with pytest.raises(BadFile, match=r"leads elsewhere \(localhost:1\).*allow_remote=True"):
        described(f"{address}/item.json")
    assert described(f"{address}/item.json", allow_remote=True)[0].files[0].endswith(elsewhere)


def test_a_virtual_raster_under_another_name_is_refused(served):
    folder, address = served
    world.make(folder, 20, 30)
    world.virtual(folder / "hidden.tif", "/etc/passwd", 20, 30)
    item(folder, "hidden.tif")
    with pytest.raises(BadFile, match=r"hidden.tif is a virtual raster.*allow_remote=True"):
        described(f"{address}/item.json")
    item(folder, f"{address}/to/{address}/scene.tif")
    assert described(f"{address}/item.json")


def test_a_document_is_not_fetched_from_a_private_network_unasked(served, monkeypatch):
    folder, address = served
    item(folder, "scene.tif")
    world.make(folder, 20, 30)
    other = address.replace("127.0.0.1", "localhost")
    with pytest.raises(BadFile, match=r"leads elsewhere .*private network.*allow_remote=True"):
        described(f"{address}/to/{other}/item.json")
    monkeypatch.setattr(remote, "_is_private", lambda url: False)
    assert described(f"{address}/item.json")
    assert b"Feature" in remote.document(f"{address}/to/{other}/item.json", allow_remote=False)


@pytest.mark.parametrize(
    ("address", "private"),
    [
        ("http://127.0.0.1/x", True),
        ("http://10.1.2.3:8000/x", True),
        ("http://169.254.169.254/latest", True),
        ("http://[::1]/x", True),
        ("http://8.8.8.8/x", False),
    ],
)
def test_private_addresses(address, private):
    assert remote._is_private(address) == private
