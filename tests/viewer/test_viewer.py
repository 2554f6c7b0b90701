"""The viewer's server: what it shows, what it refuses, and that it reads nothing else."""

import io
import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import viewed
import world
from PIL import Image
from rasterio import warp
from viewed import HOME, client

pytest.importorskip("fastapi", reason="needs the extra `viewer`")
from labelscape.errors import BadFile, BadInput
from labelscape.legend import IGNORE, Legend
from labelscape.viewer import layers, tiles
from labelscape.viewer.guard import HEADERS, LARGEST_BODY
from labelscape.viewer.pages import page_files
from labelscape.viewer.shown import find


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return viewed.made(tmp_path_factory.mktemp("map"))


@pytest.fixture(scope="module")
def page(folder):
    shown = find(folder)
    yield client(shown)
    shown.close()


def band(folder: Path, name: str) -> np.ndarray:
    with rasterio.open(folder / f"place_{name}.tif") as file:
        return file.read()


def picture(answer) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    image = Image.open(io.BytesIO(answer.content))
    assert image.size == (256, 256)
    return np.array(image.convert("RGBA"))


# ------------------------------------------------------------------------------------------- what it shows


def test_the_page_is_told_what_there_is(page, folder):
    facts = page.get("/api/map").json()
    assert [one["key"] for one in facts["layers"]] == ["class", "confidence", "proba", "scene"]
    assert (facts["height"], facts["width"], facts["levels"]) == (viewed.HEIGHT, viewed.WIDTH, 2)
    assert facts["crs"] == "EPSG:32633" and abs(facts["metres"] - 10) < 0.1 and facts["edit"] is False
    classes = band(folder, "class")[0]
    found = [(one["value"], one["name"], one["pixels"]) for one in facts["layers"][0]["classes"]]
    assert found == [
        (v, n, int((classes == v).sum())) for v, n in zip((1, 4, 9), ("water", "field", "forest"))
    ]


def test_tiles_of_classes_are_the_pixels_of_the_map_in_its_colours(page, folder):
    legend = {one["value"]: one["color"] for one in page.get("/api/map").json()["layers"][0]["classes"]}
    classes = band(folder, "class")[0]
    # The second tile of the second row lies beyond the right and lower edge with a part of it.
    for column, row in ((0, 0), (1, 0), (2, 1)):
        colours = picture(page.get(f"/tiles/class/2/{column}/{row}.png"))
        part = classes[row * 256 : (row + 1) * 256, column * 256 : (column + 1) * 256]
        inside = colours[: part.shape[0], : part.shape[1]]
        assert (inside[..., 3] == np.where(part == IGNORE, 0, 255)).all()
        for value, color in legend.items():
            assert (inside[part == value][:, :3] == color).all()
        assert not colours[part.shape[0] :, :, 3].any() and not colours[:, part.shape[1] :, 3].any()


def test_hidden_classes_are_transparent_and_colours_can_be_tried(page, folder):
    part = band(folder, "class")[0, :256, :256]
    colours = picture(page.get("/tiles/class/2/0/0.png?hide=4,9"))
    assert ((colours[..., 3] == 255) == (part == 1)).all()
    colours = picture(page.get("/tiles/class/2/0/0.png?colors=1-0a0b0c"))
    assert (colours[part == 1][:, :3] == (10, 11, 12)).all()


def test_coarse_tiles_hold_the_whole_map(page, folder):
    colours = picture(page.get("/tiles/class/0/0/0.png"))
    # 300 x 520 pixels in fours.
    assert colours[5:75, :130, 3].all() and not colours[75:, :, 3].any() and not colours[:, 130:, 3].any()


def test_a_ramp_follows_the_values(page, folder):
    sure = band(folder, "confidence")[0, :256, :256]
    colours = picture(page.get("/tiles/confidence/2/0/0.png"))
    assert ((colours[..., 3] == 0) == (sure == IGNORE)).all()
    # Viridis grows lighter.
    light = colours[..., :3].astype(int).sum(axis=-1)
    assert light[sure == 99].min() > light[sure == 60].max() > light[sure == 40].max()
    second = picture(page.get("/tiles/proba/2/0/0.png?bands=1"))
    proba = band(folder, "proba")[1, :256, :256]
    light = second[..., :3].astype(int).sum(axis=-1)
    assert light[proba == proba[proba < 255].max()].min() > light[proba == proba.min()].max()


def test_imagery_is_stretched_between_percentiles(page, folder):
    with rasterio.open(folder / "place.tif") as file:
        pixels = file.read()
    low, high = page.get("/api/stretch?bands=3").json()[0]
    # Taken from a picture of at most 512 pixels a side: 520 columns are sampled.
    assert np.allclose((low, high), np.percentile(pixels[3], (2, 98)), rtol=0.02)
    colours = picture(page.get(f"/tiles/scene/2/0/0.png?bands=3,3,3&stretch={low},{high}"))
    share = np.clip((pixels[3, :256, :256] - low) / (high - low), 0, 1) * 255
    assert np.abs(colours[..., 0] - share).max() <= 1 and (colours[..., 0] == colours[..., 2]).all()
    one = page.get("/api/stretch?bands=0&top=0&left=0&height=40&width=40").json()[0]
    assert np.allclose(one, np.percentile(pixels[0, :40, :40], (2, 98)))


def test_the_pixel_under_the_cursor(page, folder):
    point = page.get("/api/point?row=100&column=200").json()
    for key in ("class", "confidence", "proba"):
        assert point["values"][key] == band(folder, key)[:, 100, 200].tolist()
    with rasterio.open(folder / "place.tif") as file:
        assert point["values"]["scene"] == file.read()[:, 100, 200].tolist()
        assert point["xy"] == list(file.xy(100, 200))
    lon, lat = point["lonlat"]
    assert 13 < lon < 14 and 52 < lat < 53
    assert page.get("/api/point?row=3&column=3").json()["values"]["class"] is None
    assert page.get("/api/point?row=300&column=0").status_code == 404


def test_maps_without_coordinates_are_shown(tmp_path):
    viewed.made(tmp_path, crs=None, transform=rasterio.Affine.identity())
    page = client(find(tmp_path))
    facts = page.get("/api/map").json()
    assert facts["metres"] is None and facts["crs"] == "no CRS"
    assert page.get("/api/point?row=100&column=200").json()["lonlat"] is None
    picture(page.get("/tiles/class/2/0/0.png"))


@pytest.mark.parametrize(("transform", "north"), [(world.NORTH_UP, 0), (world.ROTATED, 17)])
def test_north_is_where_the_crs_has_it(tmp_path, transform, north):
    viewed.made(tmp_path, transform=transform)
    assert client(find(tmp_path)).get("/api/map").json()["north"] == pytest.approx(north)


def test_another_map_is_laid_on_the_first(folder, tmp_path):
    # The same pixels, 40 columns and 24 rows further.
    classes = band(folder, "class")[0]
    shifted = world.NORTH_UP @ rasterio.Affine.translation(40, 24)
    legend = find(folder).layers[0].legend
    other = viewed.raster(
        tmp_path / "other_class.tif", classes[24:200, 40:300][None], legend=legend, transform=shifted
    )
    page = client(find(folder, other))
    first, second = (picture(page.get(f"/tiles/{key}/2/0/0.png")) for key in ("class", "2-class"))
    assert (first[24:200, 40:] == second[24:200, 40:]).all() and not second[:24, :, 3].any()
    assert page.get("/api/point?row=100&column=200").json()["values"]["2-class"] == [float(classes[100, 200])]


def test_the_version_of_a_layer_changes_with_its_tiles(tmp_path):
    """Browsers keep tiles by their address, and another map may be served at the same one."""
    first, second = viewed.made(tmp_path / "a"), viewed.made(tmp_path / "b", seed=3)
    part = tmp_path / "part_class.tif"
    with rasterio.open(first / "place_class.tif") as file:
        pixels, grid = file.read()[:, 100:, 60:], find(first).grid
    legend = find(first).layers[0].legend
    viewed.raster(
        part, pixels, legend=legend, transform=grid.transform @ rasterio.Affine.translation(60, 100)
    )

    def versions(*what, **how):
        shown = find(*what, **how)
        return {one.key: shown.version(one) for one in shown.layers}

    whole, cut = (versions(one, second, scene=first / "place.tif") for one in (first, part))
    assert whole == versions(first, second, scene=first / "place.tif")
    # The same files, laid on another grid.
    assert whole["scene"] != cut["scene"] and whole["2-class"] != cut["2-class"]
    # Of files elsewhere nothing but the name is known.
    names = [SimpleNamespace(files=(f"/vsicurl/http://a/{one}.tif",)) for one in "xy"]
    assert layers._stamps(names[0])() != layers._stamps(names[1])()
    shown = find(first)
    before = shown.version(shown.layers[0])
    shown.recolour("class", Legend.of_names(legend.names, values=legend.values, colors=[(1, 2, 3)] * 3))
    assert shown.version(shown.layers[0]) != before


def test_a_file_of_the_page_that_the_browser_has_is_not_sent_again(page):
    first = page.get("/static/main.js")
    again = page.get("/static/main.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"") and HEADERS.items() <= dict(again.headers).items()
    other = page.get("/static/map.js", headers={"if-none-match": first.headers["etag"]})
    assert other.status_code == 200 and other.headers["cache-control"] == "no-cache"


def turned(path: Path, source: Path, *, crs: str, resolution: float) -> Path:
    """A raster in another CRS by the nearest pixel, smaller than its source on all sides; its own edges are
    those of its data.
    """
    with rasterio.open(source) as file:
        left, bottom, right, top = file.bounds
        wide, high = (right - left) / 5, (top - bottom) / 5
        box = warp.transform_bounds(file.crs, crs, left + wide, bottom + high, right - wide, top - high)
        columns, rows = (round((b - a) / resolution) for a, b in ((box[0], box[2]), (box[1], box[3])))
        place = rasterio.Affine(resolution, 0, box[0], 0, -resolution, box[3])
        facts = file.profile | {"driver": "GTiff", "crs": crs, "transform": place}
        with rasterio.open(path, "w", **(facts | {"width": columns, "height": rows, "nodata": None})) as made:
            for band in range(1, file.count + 1):
                onto = np.zeros((rows, columns), file.dtypes[0])
                how = {"src_crs": file.crs, "dst_crs": crs, "src_transform": file.transform}
                warp.reproject(file.read(band), onto, dst_transform=place, **how)
                made.write(onto, band)
    return path


def test_rasters_in_another_crs_end_where_their_data_do(tmp_path):
    crs, resolution = "EPSG:4326", 1.1e-4
    folder = viewed.made(tmp_path / "map")
    scene = turned(tmp_path / "scene.tif", folder / "place.tif", crs=crs, resolution=resolution)
    other = turned(tmp_path / "other.tif", folder / "place_class.tif", crs=crs, resolution=resolution)
    page = client(find(folder, other, scene=scene))
    grid = find(folder).grid
    with rasterio.open(scene) as file:
        rows, columns = np.mgrid[: grid.height, : grid.width] + 0.5
        x, y = grid.transform @ (columns, rows)
        xy = warp.transform(grid.crs, crs, x.ravel(), y.ravel())
        across, down = (np.reshape(one, grid.shape) for one in ~file.transform @ tuple(map(np.array, xy)))
        height, width = file.shape

    def inside(by: float) -> np.ndarray:
        """Pixels of the map that lie so many pixels inside of the raster."""
        return (down > by) & (down < height - by) & (across > by) & (across < width - by)

    addresses = ("/tiles/scene/{}/{}/{}.png?bands=0,1,2&stretch=0,9000", "/tiles/2-class/{}/{}/{}.png")
    for address in addresses:
        seen = np.concatenate(
            [
                np.concatenate([picture(page.get(address.format(2, c, r))) for c in range(3)], axis=1)
                for r in range(2)
            ]
        )[: grid.height, : grid.width]
        # Within a pixel of the edge it may be either.
        assert (seen[..., 3][inside(1)] == 255).all() and not seen[..., 3][~inside(-1)].any()
        assert inside(1).any() and (~inside(-1)).any()
        # A coarse view ends there, too.
        coarse = picture(page.get(address.format(0, 0, 0)))[: grid.height // 4, : grid.width // 4, 3]
        near = inside(-6)[2::4, 2::4][: coarse.shape[0], : coarse.shape[1]]
        far = inside(6)[2::4, 2::4][: coarse.shape[0], : coarse.shape[1]]
        assert (coarse[far] == 255).all() and not coarse[~near].any()
    # What is seen there are the classes of the map itself, but for pixels at the edges of areas.
    classes = band(folder, "class")[0]
    (second,) = [one for one in page.get("/api/map").json()["layers"] if one["key"] == "2-class"]
    legend = {one["value"]: one["color"] for one in second["classes"]}
    right = np.zeros(grid.shape, bool)
    for value, color in legend.items():
        right |= (classes == value) & (seen[..., :3] == color).all(axis=-1)
    assert right[inside(1) & (classes != IGNORE)].mean() > 0.9
    assert page.get("/api/point?row=2&column=500").json()["values"]["2-class"] is None


def test_a_replaced_file_is_read_anew(tmp_path):
    viewed.made(tmp_path)
    page = client(find(tmp_path))
    before = page.get("/api/map").json()["layers"][0]["version"]
    first = page.get("/tiles/class/2/0/0.png").content
    viewed.made(tmp_path, seed=5)
    assert page.get("/tiles/class/2/0/0.png").content != first
    assert page.get("/api/map").json()["layers"][0]["version"] != before


def test_colours_are_stored_in_the_file_with_edit_alone(tmp_path):
    path = viewed.made(tmp_path) / "place_class.tif"
    reader, writer = client(find(tmp_path)), client(find(tmp_path), edit=True)
    home, pixels = {"origin": HOME}, band(tmp_path, "class")
    layer = writer.get("/api/map").json()["layers"][0]
    old = {one["value"]: one["color"] for one in layer["classes"]}
    body = {"colors": [{"value": 9, "color": [1, 2, 3], "before": old[9]}]}
    assert layer["recolour"] and not reader.get("/api/map").json()["layers"][0]["recolour"]
    assert reader.post("/api/colors/class", json=body, headers=home).status_code in (404, 405)
    for key in ("confidence", "proba", "scene", "nothing", "..%2fclass"):
        assert writer.post(f"/api/colors/{key}", json=body, headers=home).status_code in (404, 405)
    for strange in ({"value": 255}, {"value": 2}, {"color": [1, 2]}, {"color": [1, 2, 256]}, {"path": "x"}):
        told = {"colors": [{**body["colors"][0], **strange}]}
        assert writer.post("/api/colors/class", json=told, headers=home).status_code == 422
    stored = writer.post("/api/colors/class", json=body, headers=home).json()
    assert stored["colors"] == {"1": old[1], "4": old[4], "9": [1, 2, 3]}
    assert stored["version"] != layer["version"] and (band(tmp_path, "class") == pixels).all()
    colours = picture(writer.get("/tiles/class/2/0/0.png"))
    assert (colours[pixels[0, :256, :256] == 9][:, :3] == (1, 2, 3)).all()
    # A page that still shows the old colour is told the new one first.
    body["colors"][0]["color"] = [4, 5, 6]
    late = writer.post("/api/colors/class", json=body, headers=home)
    assert late.status_code == 409 and late.json()["now"]["colors"]["9"] == [1, 2, 3]
    with rasterio.open(path) as file:
        assert file.colormap(1)[9] == (1, 2, 3, 255)


# ------------------------------------------------------------------------------------------ what it refuses


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:8765"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "192.168.0.9:8765"},
        {"host": ""},
        {"host": "127.0.0.1:x"},
        {"host": "[::1"},
        {"host": "[::1]x"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "https://127.0.0.1:8765"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"},
    ],
)
def test_other_hosts_and_sites_are_refused(page, headers):
    for address in ("/api/map", "/tiles/class/0/0/0.png", "/static/main.js"):
        answer = page.get(address, headers=headers)
        assert answer.status_code == 403 and "error" in answer.json()


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:1", "LOCALHOST", "[::1]:8765"])
def test_this_machines_own_names_are_answered(page, host):
    assert page.get("/api/map", headers={"host": host}).status_code == 200


def test_a_link_from_elsewhere_opens_the_page_and_nothing_else(page):
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert page.get("/", headers=link).status_code == 200
    assert page.get("/api/map", headers=link).status_code == 403


def test_a_server_for_others_is_asked_by_number_or_its_own_name(folder):
    page = client(find(folder), host="0.0.0.0")
    assert page.get("/api/map", headers={"host": "192.168.0.9:8765"}).status_code == 200
    assert page.get("/api/map", headers={"host": "evil.example"}).status_code == 403


@pytest.mark.parametrize(
    "address",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e%2f%2e%2e%2fapp.py",
        "/static/..%5capp.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/index.html%00.js",
        "/../place_run.json",
        "/place_run.json",
        "/tiles/..%2fplace/0/0/0.png",
        "/tiles/%2e%2e/0/0/0.png",
        "/docs",
        "/openapi.json",
    ],
)
def test_no_address_leads_to_another_file(page, address):
    answer = page.get(address)
    assert answer.status_code == 404
    assert "root:" not in answer.text and "software" not in answer.text and "import" not in answer.text


@pytest.mark.parametrize(
    "address",
    [
        "/tiles/class/3/0/0.png",
        "/tiles/class/-1/0/0.png",
        "/tiles/class/2/9/0.png",
        "/tiles/class/2/-1/0.png",
        "/tiles/class/99999999999/0/0.png",
        "/tiles/class/x/0/0.png",
        "/tiles/class/2/0/0.png?bands=1",
        "/tiles/class/2/0/0.png?bands=-1",
        "/tiles/class/2/0/0.png?bands=" + "0," * 300 + "0",
        "/tiles/class/2/0/0.png?colors=1-red",
        "/tiles/scene/2/0/0.png?bands=0,1,2&stretch=nan,1",
        "/tiles/scene/2/0/0.png?bands=0,1,2&stretch=a",
        "/tiles/scene/2/0/0.png?bands=0,1,2&stretch=-1e300,1e300",
        "/tiles/scene/2/0/0.png?bands=0&stretch=0,1",
        "/tiles/scene/2/0/0.png?bands=0,1,2",
        "/api/point?row=-1&column=0",
        "/api/stretch?bands=7",
        "/api/stretch?bands=0&top=9999",
    ],
)
def test_strange_numbers_are_refused(page, address):
    assert page.get(address).status_code in (404, 422)


def test_long_addresses_and_large_bodies_are_refused(page):
    assert page.get("/api/map?" + "x" * 5000).status_code == 414
    home = {"origin": HOME}
    assert page.post("/api/map", content=b"x" * (LARGEST_BODY + 1), headers=home).status_code == 413
    assert page.post("/api/map", content=iter([b"x"]), headers=home).status_code == 411
    assert page.post("/api/map", content=b"{}").status_code == 403
    # Nothing takes one without --edit.
    assert page.post("/api/map", content=b"{}", headers=home).status_code == 405


def test_every_answer_carries_the_policy(page):
    for answer in (page.get("/"), page.get("/nowhere"), page.get("/api/map", headers={"host": "a.b"})):
        assert HEADERS.items() <= dict(answer.headers).items()
    policy = HEADERS["content-security-policy"]
    assert "unsafe" not in policy and "default-src 'none'" in policy and "http" not in policy


def test_the_page_loads_nothing_from_elsewhere_and_holds_no_script_of_its_own(page):
    html = page.get("/").text
    assert "http:" not in html and "https:" not in html and "style=" not in html and "onclick" not in html
    assert html.count("<script") == 1 and "innerHTML" not in html
    own = [name for name, file in page_files().items() if name.endswith(".js") and file.parent.name == "page"]
    assert {"main.js", "polygon-worker.js", "picture-legend.js"} <= {*own}
    for name in own:
        # The name of SVG is no address.
        code = page.get(f"/static/{name}").text.replace("http://www.w3.org/2000/svg", "")
        assert "innerHTML" not in code and "eval(" not in code and "http:" not in code


# ------------------------------------------------------------------------------- folders of somebody else


def test_links_out_of_the_folder_are_not_followed(folder, tmp_path):
    inside = tmp_path / "map"
    shutil.copytree(folder, inside)
    secret = tmp_path / "secret_proba.tif"
    (inside / "place_proba.tif").rename(secret)
    (inside / "place_proba.tif").symlink_to(secret)
    assert [one.key for one in find(inside).layers] == ["class", "confidence", "scene"]
    (inside / "place_class.tif").rename(tmp_path / "secret_class.tif")
    (inside / "place_class.tif").symlink_to(tmp_path / "secret_class.tif")
    with pytest.raises(BadInput, match="link to a file outside"):
        find(inside)


@pytest.mark.parametrize("place", ["../secret.tif", "{folder}/../secret.tif", "/etc/passwd", "link.tif"])
def test_a_scene_elsewhere_is_opened_only_if_the_user_names_it(folder, tmp_path, place):
    inside = tmp_path / "map"
    shutil.copytree(folder, inside)
    shutil.copy(inside / "place.tif", tmp_path / "secret.tif")
    (inside / "link.tif").symlink_to(tmp_path / "secret.tif")
    run = json.loads((inside / "place_run.json").read_text())
    run["scene"] = place.format(folder=inside)
    (inside / "place_run.json").write_text(json.dumps(run))
    shown = find(inside)
    assert shown.layer("scene") is None and "--scene" in shown.notes[0]
    assert find(inside, scene=tmp_path / "secret.tif").layer("scene") is not None


def test_a_scene_on_a_server_is_not_asked_for(folder, tmp_path):
    inside = tmp_path / "map"
    shutil.copytree(folder, inside)
    for place in ("http://127.0.0.1:9/a.tif", "/vsicurl/http://127.0.0.1:9/a.tif", "s3://a/b.tif"):
        (inside / "place_run.json").write_text(json.dumps({"scene": place}))
        shown = find(inside)
        assert shown.layer("scene") is None and place in shown.notes[0]


def referring(path: Path, to: Path) -> None:
    """A VRT, under any name, of a raster elsewhere."""
    bands = "".join(
        f'<VRTRasterBand dataType="UInt16" band="{i}"><SimpleSource><SourceFilename relativeToVRT="0">{to}'
        f"</SourceFilename><SourceBand>{i}</SourceBand></SimpleSource></VRTRasterBand>"
        for i in (1, 2, 3, 4)
    )
    size = f'rasterXSize="{viewed.WIDTH}" rasterYSize="{viewed.HEIGHT}"'
    path.unlink(missing_ok=True)
    path.write_text(f"<VRTDataset {size}>{bands}</VRTDataset>")


def test_rasters_that_name_other_files_are_not_followed(folder, tmp_path):
    """Nothing outside of a folder is read because a file in it says so, nor a server asked."""
    inside = Path(shutil.copytree(folder, tmp_path / "map"))
    secret = tmp_path / "secret"
    secret.mkdir()
    for name in ("place.tif", "place_class.tif"):
        shutil.copy(inside / name, secret)
    item = {"type": "Feature", "stac_version": "1.0.0", "id": "x", "geometry": None, "links": []}
    item |= {"properties": {"datetime": "2020-01-01T00:00:00Z"}}
    (inside / "scenes").mkdir()
    (inside / "scenes" / "a.tif").symlink_to(secret / "place.tif")
    referring(inside / "place.vrt", secret / "place.tif")
    (inside / "web.tif").write_text(
        '<GDAL_WMS><Service name="TMS"><ServerUrl>http://127.0.0.1:9/${z}</ServerUrl></Service></GDAL_WMS>'
    )
    shutil.copy(inside / "place.tif", inside / "overview.tif")
    (inside / "overview.tif.ovr").symlink_to(secret / "place.tif")
    for href in (str(secret / "place.tif"), "../secret/place.tif", f"file://{secret}/place.tif", "a.tif"):
        item["assets"] = {"data": {"href": href, "type": "image/tiff; application=geotiff"}}
        (inside / "item.json").write_text(json.dumps(item))
        for scene in ("item.json", "scenes", "place.vrt", "web.tif", "overview.tif"):
            (inside / "place_run.json").write_text(json.dumps({"scene": scene}))
            shown = find(inside)
            assert shown.layer("scene") is None and "--scene" in shown.notes[0]
    referring(inside / "place_confidence.tif", secret / "place_class.tif")
    assert [one.key for one in find(inside).layers] == ["class", "proba"]
    # Text that GDAL opens under the name of a GeoPackage.
    (inside / "place_polygons.gpkg").write_text(
        f'<OGRVRTDataSource><OGRVRTLayer name="a"><SrcDataSource>{secret}</SrcDataSource></OGRVRTLayer>'
        "</OGRVRTDataSource>"
    )
    assert find(inside).outlines is None
    referring(inside / "place_class.tif", secret / "place_class.tif")
    with pytest.raises(BadFile, match="such as a VRT"):
        find(inside)


def test_names_from_files_go_out_as_text(tmp_path):
    viewed.made(tmp_path, names=(viewed.HOSTILE, "a</script>", "\"'&"))
    answer = client(find(tmp_path)).get("/api/map")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["layers"][0]["classes"][0]["name"] == viewed.HOSTILE


# --------------------------------------------------------------------------------------- what is no map


def test_what_cannot_be_shown_gets_a_sentence(tmp_path, run_cli):
    with pytest.raises(BadFile, match="does not exist"):
        find(tmp_path / "none")
    with pytest.raises(BadInput, match="holds no map"):
        find(tmp_path)
    (tmp_path / "a_class.tif").write_bytes(b"no raster")
    with pytest.raises(BadFile, match="cannot be opened"):
        find(tmp_path)
    (tmp_path / "a_class.tif").write_bytes(b"II*\0 cut off")
    with pytest.raises(BadFile, match="cannot be opened"):
        find(tmp_path)
    (tmp_path / "b_class.tif").write_bytes(b"no raster")
    with pytest.raises(BadInput, match="holds 2 maps"):
        find(tmp_path)
    code, out, err = run_cli("serve", tmp_path, "--port", "0")
    assert code == 1 and out == "" and "holds 2 maps" in err


def test_a_missing_extra_is_one_sentence(monkeypatch, run_cli):
    monkeypatch.setattr("labelscape.viewer.serve.find_spec", lambda name: None if name == "uvicorn" else True)
    code, out, err = run_cli("serve", "nowhere")
    assert (code, out) == (1, "") and "(uvicorn): pip install 'labelscape[viewer]'" in err


def test_a_port_that_is_taken_is_named(folder, run_cli):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, err = run_cli("serve", folder, "--port", port)
    assert (code, out) == (1, "") and f"127.0.0.1:{port} cannot be listened at" in err


def test_the_viewer_runs_without_torch(folder):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from labelscape.viewer.shown import find; from labelscape.viewer.app import create_app\n"
        f"create_app(find({str(folder)!r}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_levels_end_where_the_map_is_one_tile():
    def of(height, width):
        return tiles.levels(tiles.Grid(None, rasterio.Affine.identity(), height, width))

    assert [of(1, 1), of(256, 256), of(257, 3), of(512, 512), of(513, 1), of(100_000, 100_000)] == [
        0,
        0,
        1,
        1,
        2,
        9,
    ]


def test_the_page_asks_for_all_its_modules_at_once(page):
    whole = page.get("/").text
    early = re.findall(r'<link rel="modulepreload" href="static/([^"]+)">', whole)
    assert "$" not in whole and len(set(early)) == len(early)
    reached = {"main.js"}
    for name in [*reached, *early]:
        # The worker's own imports are another thread's.
        reached |= set(re.findall(r' from "\./([^"]+)"', page.get(f"/static/{name}").text))
    assert set(early) == reached - {"main.js"} and "leaflet.js" in early and "vector.js" in early
