"""STAC items as scenes: which files, which bands, what the item adds, and what is said where an item holds
no scene. No network.
"""

from __future__ import annotations

import http.server
import json
import threading
import tracemalloc
from functools import partial

import numpy as np
import pytest
import world
from affine import Affine
from pyproj import Transformer
from rasterio.crs import CRS

from labelscape.errors import BadFile, BadInput, UnknownName
from labelscape.scenes.mosaic import open_scene
from labelscape.scenes.placing import declares
from labelscape.scenes.scene_list import find_scenes
from labelscape.scenes.stac import described, is_stac
from labelscape.scenes.stac_many import items_in

COG = "image/tiff; application=geotiff; profile=cloud-optimized"
SENTINEL = {"B02": "blue", "B03": "green", "B04": "red"}


def item(path, assets, **fields):
    """A STAC item with these assets, {key: (href, fields)}."""
    listed = {
        key: {"href": href, "type": COG, "roles": ["data"], **more} for key, (href, more) in assets.items()
    }
    base = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "made",
        "geometry": None,
        "properties": {},
        "links": [],
        "assets": listed,
    }
    path.write_text(json.dumps({**base, **fields}))
    return path


def band(name, common=None, **more):
    return {"eo:bands": [{"name": name, **({"common_name": common} if common else {})}], **more}


@pytest.fixture
def sentinel(tmp_path):
    """A small Sentinel-2 as catalogues describe it: single bands at two resolutions, pictures, masks and
    texts beside them.
    """
    made = world.make(tmp_path, 40, 60)
    for name, pixels in zip(SENTINEL, made.pixels):
        world.write(tmp_path / f"{name}.tif", pixels)
    world.write(tmp_path / "B11.tif", made.pixels[0, ::2, ::2], transform=world.NORTH_UP @ Affine.scale(2))
    assets = {name: (f"./{name}.tif", band(name, common)) for name, common in SENTINEL.items()}
    assets |= {
        "visual": ("./gone.tif", {"eo:bands": [{"name": b} for b in SENTINEL]}),
        "SCL": ("./gone.tif", {"classification:classes": [{"value": 1, "name": "dark"}]}),
        "AOT": ("./gone.tif", {}),
        "swir": ("./B11.tif", band("B11", "swir16", gsd=20)),
        "thumbnail": ("./gone.jpg", {"type": "image/jpeg", "roles": ["thumbnail"]}),
        "granule": ("./gone.xml", {"type": "application/xml", "roles": ["metadata"]}),
    }
    return made, item(tmp_path / "item.json", assets, id="S2A_33UUU")


def test_data_assets_are_the_scene(sentinel):
    made, file = sentinel
    with open_scene(str(file)) as scene:
        assert scene.name == "S2A_33UUU" and scene.bands == ("B02", "B03", "B04", "B11")
        patch = scene.read(None, ["B04", "B02"])
        assert patch.valid.all() and np.array_equal(patch.pixels, made.pixels[[2, 0]])
        assert scene.grid.shape == (40, 60) and scene.read(None, ["B11"]).pixels.shape == (1, 40, 60)
        with scene.for_thread() as other:
            assert np.array_equal(other.read(None, ["B03"]).pixels, made.pixels[[1]])
        assert {f.rsplit("/", 1)[1] for f in scene.files} == {
            "item.json",
            "B02.tif",
            "B03.tif",
            "B04.tif",
            "B11.tif",
        }


@pytest.mark.parametrize(
    ("wanted", "bands"),
    [(("B04", "B02"), (2, 0)), (("red", "blue"), (2, 0)), (("green",), (1,)), (("swir", "B03"), (None, 1))],
)
def test_only_what_is_wanted_is_opened(sentinel, wanted, bands):
    """By name, by common name, by asset key; the files of the other bands need not even be there."""
    made, file = sentinel
    for name, number in zip(("B02", "B03", "B04", "B11"), (0, 1, 2, None)):
        if number not in bands:
            (file.parent / f"{name}.tif").unlink()
    with open_scene(file, wanted=wanted) as scene:
        assert scene.bands == wanted
        for name, number in zip(wanted, bands):
            assert number is None or np.array_equal(scene.read(None, [name]).pixels[0], made.pixels[number])
    with open_scene(file, bands=wanted) as scene:
        assert scene.bands == wanted


def test_a_wanted_band_that_is_not_there_leaves_all(sentinel):
    _, file = sentinel
    with open_scene(file, wanted=["B02", "nir"]) as scene:
        assert scene.bands == ("B02", "B03", "B04", "B11")
    with pytest.raises(UnknownName, match="B12.*B11"):
        open_scene(file, bands=["B12"])


@pytest.mark.parametrize("key", ["eo:bands", "bands"])
def test_one_asset_of_several_bands(tmp_path, key):
    made = world.make(tmp_path, 20, 30)
    named = [{"name": "Red", "common_name": "red"}, {"eo:common_name": "green"}, {}]
    file = item(tmp_path / "item.json", {"image": ("scene.tif", {key: named})})
    with open_scene(file) as scene:
        assert scene.bands == ("Red", "green", "image_3") and np.array_equal(scene.read().pixels, made.pixels)
    with open_scene(file, wanted=["green", "red"]) as scene:
        assert scene.bands == ("green", "red") and np.array_equal(scene.read().pixels, made.pixels[[1, 0]])


def test_what_the_item_says_counts_where_the_files_say_nothing(tmp_path):
    pixels = np.full((1, 10, 10), 500, np.uint16)
    pixels[0, :3] = 7
    world.write(tmp_path / "a.tif", pixels)
    says = {"raster:bands": [{"nodata": 7, "scale": 0.0001, "offset": -0.1}]}
    with open_scene(item(tmp_path / "item.json", {"B02": ("a.tif", {**band("B02"), **says})})) as scene:
        patch = scene.read()
        assert not patch.valid[:3].any() and patch.valid[3:].all()
        assert (
            scene.units == ((0.0001, -0.1),)
            and declares(scene.units)
            and patch.pixels.dtype == np.uint16
            and patch.pixels[0, 5, 5] == 500
        )
    newer = {"nodata": 7, "raster:scale": 0.0001, "raster:offset": -0.1, "bands": [{"name": "B02"}]}
    with open_scene(item(tmp_path / "item.json", {"B02": ("a.tif", newer)})) as scene:
        assert scene.units == ((0.0001, -0.1),) and not scene.read().valid[:3].any()
    with open_scene(
        item(tmp_path / "item.json", {"B02": ("a.tif", {**band("B02"), **says})}), nodata=500
    ) as scene:
        assert scene.read().valid[:3].all() and not scene.read().valid[3:].any()
    world.write(tmp_path / "a.tif", pixels, nodata=500)
    with open_scene(item(tmp_path / "item.json", {"B02": ("a.tif", {**band("B02"), **says})})) as scene:
        assert scene.read().valid[:3].all() and not scene.read().valid[3:].any()


def test_no_roles_at_all(tmp_path):
    made = world.make(tmp_path, 20, 30)
    assets = {
        "image": ("scene.tif", {"roles": None}),
        "pdf": ("x.pdf", {"roles": None, "type": "application/pdf"}),
        "preview": ("x.png", {"roles": None, "type": "image/png"}),
    }
    with open_scene(item(tmp_path / "item.json", assets)) as scene:
        assert scene.bands == ("1", "2", "3") and np.array_equal(scene.read().pixels, made.pixels)


def test_the_same_band_twice_counts_once_and_names_that_say_nothing_give_way_to_keys(tmp_path):
    made = world.make(tmp_path, 20, 30)
    for name, pixels in zip("ab", made.pixels):
        world.write(tmp_path / f"{name}.tif", pixels)
    formats = {
        "blue": ("a.tif", band("B02", gsd=10)),
        "blue-jp2": ("gone.jp2", band("B02", gsd=10, type="image/jp2")),
        "B02_60m": ("gone.tif", band("B02", gsd=60)),
    }
    with open_scene(item(tmp_path / "item.json", formats)) as scene:
        assert scene.bands == ("B02",) and np.array_equal(scene.read().pixels, made.pixels[:1])
    nameless = item(tmp_path / "item.json", {"vv": ("a.tif", band("b1")), "vh": ("b.tif", band("b1"))})
    with open_scene(nameless) as scene:
        assert scene.bands == ("vv", "vh") and np.array_equal(scene.read().pixels, made.pixels[:2])
    with open_scene(nameless, wanted=["vh"]) as scene:
        assert scene.bands == ("vh",) and np.array_equal(scene.read().pixels, made.pixels[1:2])


def two_zones(folder):
    """Two items beside each other, the second in another UTM zone, with bands stacked from files of two
    sizes.
    """
    grids = {"a": (world.UTM, world.NORTH_UP)}
    x, y = Transformer.from_crs(32633, 32632, always_xy=True).transform(*(world.NORTH_UP @ (58, 5)))
    grids["b"] = CRS.from_epsg(32632), Affine(10, 0, x, 0, -10, y)
    items = []
    for name, (crs, place) in grids.items():
        fine, coarse = (
            np.full((60, 60), {"a": 100, "b": 200}[name], np.uint16),
            np.full((30, 30), {"a": 10, "b": 20}[name], np.uint16),
        )
        world.write(folder / f"{name}_B04.tif", fine, crs=crs, transform=place)
        world.write(folder / f"{name}_B11.tif", coarse, crs=crs, transform=place @ Affine.scale(2))
        assets = {
            "B04": (f"{name}_B04.tif", band("B04")),
            "B11": (f"{name}_B11.tif", band("B11")),
            "SCL": ("gone.tif", {}),
        }
        items.append(item(folder / f"{name}.json", assets, id=name))
    both = folder / "both.json"
    both.write_text(
        json.dumps({"type": "FeatureCollection", "features": [json.loads(i.read_text()) for i in items]})
    )
    return items, both


def test_items_in_two_zones_are_a_mosaic(tmp_path):
    items, both = two_zones(tmp_path)
    with open_scene(both) as mosaic, open_scene(items) as listed:
        assert (mosaic.name, listed.name) == ("both", "a_mosaic") and mosaic.bands == ("B04", "B11")
        assert mosaic.grid.matches(listed.grid) and mosaic.grid.crs == world.UTM and mosaic.grid.width > 110
        patch = mosaic.read()
        column = round((~mosaic.grid.transform @ (world.NORTH_UP @ (0, 0)))[0])
        row = round((~mosaic.grid.transform @ (world.NORTH_UP @ (0, 0)))[1])
        left = patch.pixels[:, row + 30, column + 5 : column + 55]
        right = patch.pixels[:, row + 30, column + 70 : column + 110]
        assert patch.valid[row + 30, column + 5 : column + 110].all()
        assert (left == np.array([[100], [10]])).all() and (right == np.array([[200], [20]])).all()
        assert np.array_equal(patch.pixels, listed.read().pixels)


def test_items_that_do_not_fit_are_named_by_a_file(tmp_path):
    items, _ = two_zones(tmp_path)
    other = item(tmp_path / "c.json", {"B04": ("b_B04.tif", band("B04"))}, id="c")
    with pytest.raises(
        BadInput,
        match=(
            r"b_B04.tif and .*a_B04.tif and 1 more lie beside each other .* the bands are B04 and B04 "
            r"B11"
        ),
    ):
        open_scene([items[0], other])


def test_hrefs(tmp_path, sentinel):
    _, file = sentinel
    assets = {
        "a": ("s3://bucket/a.tif", band("a")),
        "b": ("https://there/b.tif", band("b")),
        "c": ("./c.tif", band("c")),
        "d": (f"file://{file.parent}/B02.tif", band("d")),
    }
    saved = item(
        tmp_path / "saved.json", assets, links=[{"rel": "self", "href": "https://there/items/x.json"}]
    )
    assert described(saved, allow_remote=True)[0].files == (
        "s3://bucket/a.tif",
        "https://there/b.tif",
        "https://there/items/c.tif",
        f"{file.parent}/B02.tif",
    )
    assert (
        is_stac("https://there/collections/c/items/S2A_1")
        and is_stac("https://there/search?bbox=1,2,3,4.tif")
        and is_stac("a.GeoJSON")
    )
    assert not is_stac("https://there/a.tif?x=.json") and not is_stac("a.tif") and not is_stac("folder")


def test_an_item_from_a_server(sentinel):
    _, file = sentinel
    serve = partial(http.server.SimpleHTTPRequestHandler, directory=file.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        try:
            assert described(f"{address}/item.json", ["red"])[0].files == (f"{address}/B04.tif",)
            with pytest.raises(BadFile, match=r"gone.json cannot be read: (File )?[Nn]ot found"):
                described(f"{address}/gone.json")
        finally:
            server.shutdown()


@pytest.mark.parametrize(
    ("assets", "error", "says"),
    [
        (
            {"B02": ("gone.tif", {})},
            BadFile,
            r"names gone.tif as its asset 'B02', but .*gone.tif does not exist",
        ),
        ({}, BadInput, r"\(item made\) has no raster asset with the role data; its assets are none"),
        (
            {"report": ("a.html", {"type": "text/html"})},
            BadInput,
            r"assets are report \(text/html\). Is the scene in another item",
        ),
        ({"B02": ("gone.tif", {"eo:bands": ["B02"]})}, BadFile, "its bands cannot be read"),
        ({"B02": ("gone.tif", {"raster:bands": [{"nodata": "none"}]})}, BadFile, "its bands cannot be read"),
    ],
)
def test_items_without_a_scene(tmp_path, assets, error, says):
    with pytest.raises(error, match=says):
        open_scene(item(tmp_path / "item.json", assets))


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("no json", BadFile, "is not JSON, so it is not a STAC item"),
        ("[1]", BadInput, "is not a STAC item: a GeoJSON feature with assets was expected"),
        ('{"type": "Feature", "geometry": null}', BadInput, "is not a STAC item"),
        ('{"type": "Collection"}', BadInput, "is a STAC Collection, not an item"),
        ('{"type": "FeatureCollection", "features": []}', BadInput, "without items"),
        (
            '{"type": "FeatureCollection", "features": [{"type": "Feature"}]}',
            BadInput,
            "1 features, 0 of them STAC items.*Pass polygons with `labels`",
        ),
        (
            '{"type": "FeatureCollection", "features": [], "links": [{"rel": "next"}]}',
            BadInput,
            "one page of several",
        ),
        (None, BadFile, "item.json does not exist"),
    ],
)
def test_documents_that_are_no_items(tmp_path, text, error, says):
    if text is not None:
        (tmp_path / "item.json").write_text(text)
    with pytest.raises(error, match=says):
        open_scene(tmp_path / "item.json")
    with pytest.raises(BadFile, match="s3://b/item.json cannot be read"):
        open_scene("s3://b/item.json")


def test_the_item_of_a_map_is_no_scene(tmp_path):
    from labelscape.grid import Grid
    from labelscape.maps.stac import write_item

    world.write(tmp_path / "scene_class.tif", np.zeros((10, 10), np.uint8))
    grid, out = Grid(world.UTM, world.NORTH_UP, 10, 10), tmp_path / "scene_stac.json"
    write_item(
        out,
        grid,
        world.LEGEND,
        {"class": tmp_path / "scene_class.tif"},
        "2026-01-01T00:00:00+00:00",
        software="labelscape 1.0",
    )
    with pytest.raises(BadInput, match="describes a map that Labelscape made, not a scene"):
        open_scene(out)


# ------------------------------------------------------------------- files elsewhere are not opened unasked


@pytest.mark.parametrize(
    "href",
    [
        "/etc/hostname.tif",
        "../outside.tif",
        "file:///etc/hostname.tif",
        "link.tif",
        "/vsicurl/http://nowhere.invalid/a.tif",
        "/vsisubfile/0_9,/etc/passwd",
        "http://nowhere.invalid/a.tif",
        "ftp://nowhere.invalid/a.tif",
        "s3://bucket/a.tif",
        "virtual.tif",
    ],
)
def test_an_item_does_not_decide_which_files_and_servers_are_asked(tmp_path, monkeypatch, href):
    def refused(*given):
        raise AssertionError(f"opened {given}")

    monkeypatch.setattr("labelscape.scenes.raster.open_raster", refused)
    folder = tmp_path / "item"
    folder.mkdir()
    world.make(tmp_path, 20, 30, name="outside")
    (folder / "link.tif").symlink_to(tmp_path / "outside.tif")
    world.virtual(folder / "virtual.tif", "../outside.tif")
    if href == "/etc/hostname.tif":
        href = str(tmp_path / "outside.tif")
    if href.startswith("file:"):
        href = f"file://{tmp_path}/outside.tif"
    file = item(folder / "item.json", {"a\x1b[2J": (href, {})})
    with pytest.raises(BadFile, match=r"is (elsewhere|a virtual raster).*allow_remote=True") as told:
        open_scene(file)
    assert "\x1b" not in str(told.value)
    assert described(file, allow_remote=True)
    monkeypatch.setenv("LABELSCAPE_ALLOW_REMOTE", "1")
    assert described(file)


@pytest.mark.parametrize("features", [False, True])
@pytest.mark.parametrize("closed", [False, True])
def test_a_value_without_end_of_a_local_document_is_not_read(tmp_path, monkeypatch, features, closed):
    import labelscape.scenes.remote as remote

    monkeypatch.setattr(remote, "MOST_BYTES", 2**20)
    big, long = tmp_path / "big.json", '"' + "a" * 2**24
    with open(big, "w") as file:
        file.write('{"type": "FeatureCollection", "features": [{"id": ' if features else '{"x": ')
        file.write(long + ('"' + ("}]}" if features else "}")) * closed)
    tracemalloc.start()
    try:
        with pytest.raises(
            BadFile, match=r"big\.json has one value of more than 1 MiB, at byte \d+, so it is no"
        ):
            find_scenes(big)
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20  # a half of the file
    finally:
        tracemalloc.stop()


def test_a_document_of_many_items_may_be_longer_than_one_of_them(tmp_path, monkeypatch):
    import labelscape.scenes.remote as remote

    monkeypatch.setattr(remote, "MOST_BYTES", 2**17)
    items = [{"type": "Feature", "id": str(n), "assets": {}, "pad": "a" * 2**14} for n in range(20)]
    (tmp_path / "many.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    assert [listed.item for listed in items_in(str(tmp_path / "many.json"))] == items


def test_a_document_without_end_or_too_slow_is_refused(tmp_path, monkeypatch):
    import labelscape.scenes.remote as stac

    big = tmp_path / "big.json"
    big.write_text("[" * 5000)
    monkeypatch.setattr(stac, "MOST_BYTES", 4000)
    with pytest.raises(BadFile, match="more than 0 MiB"):
        open_scene(big)
    monkeypatch.undo()
    monkeypatch.setattr(stac, "SECONDS", -1)
    with pytest.raises(BadFile, match="was not read within"):
        open_scene(big)
