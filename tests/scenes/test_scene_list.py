"""What a user may mean by scenes: every way to list them, in order, once, under names that stay."""

import gc
import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import world

from labelscape.errors import BadFile, BadInput, BadOption
from labelscape.scenes import scene_tables
from labelscape.scenes.mosaic import open_scene
from labelscape.scenes.scene_list import find_scenes, unique_names
from labelscape.scenes.stac_many import PIECE, document_of, items_in, read_items
from labelscape.scenes.vectors import layers_of

COG = "image/tiff; application=geotiff; profile=cloud-optimized"


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """Three scenes in two folders, two of them of one name."""
    folder = tmp_path_factory.mktemp("tiles")
    for place, name, seed in (("north", "b", 0), ("north", "a", 1), ("south", "a", 2)):
        (folder / place).mkdir(exist_ok=True)
        world.make(folder / place, 20, 30, name=name, seed=seed)
    return folder


def item(key, href, *, collection=None, **more):
    made = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": key,
        "geometry": None,
        "properties": {},
        "links": [],
        "assets": {
            "data": {"href": href, "type": COG, "roles": ["data"]},
            "visual": {"href": href, "type": COG, "roles": ["visual"]},
        },
    }
    return {**made, **({"collection": collection} if collection else {}), **more}


def search(path, items, **more):
    path.write_text(json.dumps({"type": "FeatureCollection", **more, "features": items}, ensure_ascii=False))
    return str(path)


def sources(given, **options):
    return [scene.source for scene in find_scenes(given, **options)]


def names(given, **options):
    return [scene.name for scene in find_scenes(given, **options)]


def test_files_globs_and_folders(tiles):
    b, a, other = (str(tiles / p) for p in ("north/b.tif", "north/a.tif", "south/a.tif"))
    # As they are named, and those of a glob sorted.
    assert sources([b, a]) == [b, a] and sources(f"{tiles}/north/*.tif") == [a, b]
    assert sources(f"{tiles}/**/*.tif") == [a, b, other]
    # A folder is one scene, as `open_scene` takes it, unless its files are asked for.
    assert sources(str(tiles / "north")) == [str(tiles / "north")] and names(tiles / "north") == ["north"]
    assert sources(tiles, each=True) == [a, b, other]
    assert sources([(a, b), other]) == [(a, b), other] and sources(f"{a},{b}") == [(a, b)]


def test_what_lies_beside_rasters_is_not_taken_for_one(tiles, tmp_path):
    world.make(tmp_path, 20, 30, name="x")
    for ending in (".aux.xml", ".ovr", ".msk"):
        (tmp_path / f"x.tif{ending}").write_text("")
    assert sources(f"{tmp_path}/*") == [str(tmp_path / "x.tif")]
    # A name with the characters of a glob is a file where there is one.
    odd = world.make(tmp_path, 20, 30, name="y[1]").scene
    assert sources(str(odd)) == [str(odd)]


def test_a_text_list_is_relative_to_itself(tiles, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tiles / "list.txt").write_text("\ufeff# north first\nnorth/b.tif\n\n  north/a.tif  \r\nsouth/*.tif\n")
    found = find_scenes(tiles / "list.txt")
    assert [s.source for s in found] == [
        str(tiles / p) for p in ("north/b.tif", "north/a.tif", "south/a.tif")
    ]
    # Scenes of one name have that of their folder, the others their own.
    assert [s.name for s in found] == ["b", "north_a", "south_a"] and found.notes == ()
    (tiles / "stack.txt").write_text("north/a.tif,north/b.tif\n")
    assert sources(tiles / "stack.txt") == [(str(tiles / "north/a.tif"), str(tiles / "north/b.tif"))]
    (tiles / "own.txt").write_text("north/a.tif\nown.txt\n")
    with pytest.raises(BadInput, match="a list that names itself"):
        find_scenes(tiles / "own.txt")
    (tiles / "empty.txt").write_text("# nothing\n")
    with pytest.raises(BadInput, match="lists no scenes"):
        find_scenes(tiles / "empty.txt")


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".csv", "id,Path,cloud\n1,north/b.tif,3\n2,south/a.tif,\n"),
        (".csv", 'cloud;"location"\n3;north/b.tif\n;south/a.tif\n'),
        (".tsv", "url\thref\nx\tnorth/b.tif\ny\tsouth/a.tif\n"),
    ],
)
def test_tables_of_text(tiles, suffix, text):
    table = tiles / f"table{suffix}"
    table.write_text(text)
    assert sources(table) == [str(tiles / "north/b.tif"), str(tiles / "south/a.tif")]
    table.write_text("id,scenes\n1,a\n".replace(",", "\t" if suffix == ".tsv" else ","))
    with pytest.raises(BadInput, match="its columns are id, scenes; one called href, path or location"):
        find_scenes(table)


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb", ".shp", ".parquet"])
def test_tile_indexes(tiles, tmp_path, suffix, monkeypatch):
    import pyogrio
    import shapely

    index, paths = tmp_path / f"index{suffix}", ["north/b.tif", "south/a.tif"]
    if suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"location": paths, "n": [1, 2]}), index)
    else:
        boxes = np.array([shapely.to_wkb(shapely.box(0, 0, 1, 1))] * 2, object)
        pyogrio.raw.write(
            index, boxes, [np.array(paths, object)], ["location"], geometry_type="Polygon", crs="EPSG:4326"
        )
    # gdaltindex writes the paths that it was given: relative to the folder in which it ran.
    monkeypatch.chdir(tiles)
    looked = []
    monkeypatch.setattr(scene_tables, "layers_of", lambda file: looked.append(file) or layers_of(file))
    assert sources(index) == paths
    assert len(looked) == (suffix != ".parquet"), "columns are looked for once"
    for path in paths:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        world.make((tmp_path / path).parent, 20, 30, name=Path(path).stem)
    assert sources(index) == [str(tmp_path / path) for path in paths]


def test_a_geopackage_of_pixels_is_a_scene(tmp_path):
    file = world.write(tmp_path / "a.gpkg", np.full((3, 20, 30), 7, np.uint8), driver="GPKG")
    assert sources(file) == [str(file)]


def test_all_that_is_missing_is_said_at_once(tiles):
    (tiles / "gone.txt").write_text("north/a.tif\nx.tif\nnorth/b.tif\ny.tif\n")
    with pytest.raises(BadFile) as told:
        find_scenes([tiles / "gone.txt", "z.tif"])
    said = str(told.value)
    assert said.startswith("3 of 5 scenes are missing:") and "gone.txt, line 2" in said
    assert all(f"{name}.tif" in said for name in "xyz")
    with pytest.raises(BadFile, match=r"^z\.tif does not exist\.$"):
        find_scenes("z.tif")
    with pytest.raises(BadFile, match=r"No file matches z\*\.tif"):
        find_scenes("z*.tif")
    with pytest.raises(BadOption, match="is a checkpoint"):
        find_scenes("m.safetensors")


def test_duplicates_are_taken_once_and_said(tiles, tmp_path):
    (tmp_path / "link.tif").symlink_to(tiles / "north/a.tif")
    a, b = str(tiles / "north/a.tif"), str(tiles / "north/b.tif")
    found = find_scenes([a, b, f"{tiles}/south/../north/a.tif", str(tmp_path / "link.tif")])
    assert [s.source for s in found] == [a, b]
    assert found.notes == (f"listed more than once, and taken once: {a} (3 times)",)


def test_names_do_not_depend_on_order_or_case():
    scenes = [("/x/north/a.tif", "a"), ("/x/south/A.tif", "A"), ("/y/north/a.tif", "a"), ("/x/b.tif", "b")]
    made = unique_names(scenes)
    assert made == ["x_north_a", "x_south_A", "y_north_a", "b"]
    order = [2, 0, 3, 1]
    assert unique_names([scenes[n] for n in order]) == [made[n] for n in order]
    # Nothing tells these apart but what they are; and a made name may be another's own.
    same = unique_names([("/x/a.tif", "a"), ("/x/a.jp2", "a"), ("/q/x_a.tif", "x_a")])
    assert len(set(same)) == 3 and same[2] == "x_a" and all(n.startswith("a_") for n in same[:2])
    taken = unique_names([("/x/a.tif", "a"), ("/y/a.tif", "a"), ("/q/x_a.tif", "x_a")])
    assert len(set(taken)) == 3 and taken[1] == "y_a"


def test_addresses_in_lists_are_not_asked_unasked(tiles, monkeypatch):
    monkeypatch.delenv("LABELSCAPE_ALLOW_REMOTE", raising=False)
    for name, text in (
        ("remote.txt", "north/a.tif\ns3://bucket/a.tif\n"),
        ("remote.csv", "href\n/vsicurl/http://x/a.tif\n"),
    ):
        (tiles / name).write_text(text)
        with pytest.raises(BadFile, match=r"line 2 names an address \(.*`allow_remote=True`"):
            find_scenes(tiles / name)
        assert sources(tiles / name, allow_remote=True)[-1] == text.split()[-1]
    # What the user typed is what the user wants.
    assert sources("s3://bucket/a.tif") == ["s3://bucket/a.tif"]


# ----------------------------------------------------------------------------------------------------- STAC


def test_a_saved_search_is_a_mosaic_or_a_scene_an_item(tiles):
    file = search(
        tiles / "search.json",
        [item("Zürich", "north/a.tif"), item("south", "south/a.tif"), item("Zürich", "north/a.tif")],
    )
    assert sources(file) == [file] and names(file) == ["search"]
    assert find_scenes(file).notes == (f"{file}: its 3 items are one mosaic; `each=True` makes each a scene",)
    found = find_scenes(file, each=True)
    assert [s.source for s in found] == [f"{file}#Zürich", f"{file}#south"]
    assert [s.name for s in found] == ["Zürich", "south"] and "2 times" in found.notes[0]
    for scene, path in zip(found, ("north/a.tif", "south/a.tif")):
        with open_scene(scene.source) as opened, open_scene(tiles / path) as direct:
            assert opened.name == scene.name and opened.grid == direct.grid
            assert np.array_equal(opened.read().pixels, direct.read().pixels)
            # Whether the search file has changed is watched, not a file of that odd name.
            assert set(opened.files) == {file, str(tiles / path)}
    assert sources(f"{file}#south") == [f"{file}#south"]
    with pytest.raises(BadFile, match="has no item 'west'"):
        find_scenes(f"{file}#west")
    with pytest.raises(BadInput, match="one page of several"):
        find_scenes(search(tiles / "page.json", [], links=[{"rel": "next"}]), each=True)


def test_ids_are_unique_within_a_collection_only(tiles):
    file = search(
        tiles / "two.json",
        [item("1", "north/a.tif", collection="n"), item("1", "south/a.tif", collection="s/s")],
    )
    found = find_scenes(file, each=True)
    assert [s.source for s in found] == [f"{file}#n/1", f"{file}#s/s/1"]
    with open_scene(found[1].source) as opened:
        assert str(tiles / "south/a.tif") in opened.files
    assert found[0].name != found[1].name


def test_the_asset_is_chosen_by_key_or_role(tiles):
    file = tiles / "assets.json"
    made = item("x", "north/a.tif")
    made["assets"]["other"] = {"href": "south/a.tif", "type": "image/png", "roles": ["overview"]}
    file.write_text(json.dumps(made))
    for asset, path in (
        ("other", "south/a.tif"),
        ("overview", "south/a.tif"),
        ("data", "north/a.tif"),
        ("visual", "north/a.tif"),
    ):
        assert sources(file, asset=asset) == [str(file)]
        with open_scene(file, asset=asset) as opened:
            assert set(opened.files) == {str(file), str(tiles / path)}
    said = (
        r"no asset of the key or role 'nir'; its assets are data \(image/tiff; .*\), visual \(.*\), other \("
    )
    for asset in ("nir", "data,nir"):
        with pytest.raises(BadInput, match=said):
            find_scenes(file, asset=asset)
        with pytest.raises(BadInput, match=said):
            open_scene(file, asset=asset)
    with pytest.raises(BadOption, match="there is no item"):
        find_scenes(tiles / "north/a.tif", asset="visual")


def test_missing_assets_are_said_before_the_first_scene(tiles):
    file = search(tiles / "lost.json", [item("1", "x.tif"), item("2", "north/a.tif"), item("3", "y.tif")])
    with pytest.raises(BadFile, match=r"(?s)2 of 3 scenes are missing.*x\.tif.*y\.tif"):
        find_scenes(file, each=True)
    far = search(tiles / "far.json", [item("1", "https://elsewhere.invalid/a.tif")])
    with pytest.raises(BadFile, match="allow_remote=True"):
        find_scenes(far, each=True)
    assert len(find_scenes(far, each=True, allow_remote=True)) == 1


def catalogue(folder, links, kind="Catalog", **more):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{kind.lower()}.json"
    file.write_text(
        json.dumps({"type": kind, "id": folder.name, "links": [dict(zip(("rel", "href"), x)) for x in links]})
    )
    return file


def test_a_static_catalogue(tiles, tmp_path):
    inside = tmp_path / "cat"
    for number, place in enumerate(("", "2020", "2021")):
        where = inside / place
        where.mkdir(parents=True, exist_ok=True)
        world.make(where, 20, 30, name="data", seed=number)
        (where / "item.json").write_text(json.dumps(item(f"i{number}", "./data.tif")))
    for year in ("2020", "2021"):
        # Up to the parent again, as all catalogues link: without end unless it is noticed.
        catalogue(
            inside / year,
            [("item", "./item.json"), ("child", "../catalog.json"), ("root", "../catalog.json")],
        )
    root = catalogue(
        inside,
        [
            ("self", "x"),
            ("child", "2021/catalog.json"),
            ("item", "item.json"),
            ("child", "2020/catalog.json"),
        ],
    )
    # A document's own items come before those of its children.
    assert names(root) == ["i0", "i2", "i1"]
    assert sources(root)[1] == str(inside / "2021" / "item.json")
    # The folder of a catalogue stands for it where it holds no rasters itself.
    (inside / "data.tif").rename(tmp_path / "data.tif")
    (inside / "item.json").write_text(json.dumps(item("i0", "../data.tif")))
    with pytest.raises(BadFile, match="elsewhere"):
        find_scenes(inside)
    assert names(inside, allow_remote=True) == ["i0", "i2", "i1"]
    outside = catalogue(tmp_path / "b" / "c", [("item", "../../cat/item.json")], "Collection")
    with pytest.raises(BadFile, match="links to a document elsewhere"):
        find_scenes(outside)
    gone = catalogue(tmp_path / "d", [("item", "gone.json"), ("item", "lost.json")])
    with pytest.raises(BadFile, match=r"(?s)2 of 2 scenes are missing.*gone\.json.*lost\.json"):
        find_scenes(gone)
    with pytest.raises(BadInput, match="without items"):
        find_scenes(catalogue(tmp_path / "e", []))
    with pytest.raises(BadInput, match=r"STAC API, .*item_collection\(\)"):
        find_scenes(catalogue(tmp_path / "f", [("items", "https://x.invalid/items")], "Collection"))


def test_stac_geoparquet(tiles):
    import pyarrow as pa
    import pyarrow.parquet as pq

    one, two = item("n/1", "north/a.tif"), item("s", "south/a.tif")
    two["assets"]["extra"] = {"href": "south/x.tif", "type": "text/plain", "roles": ["metadata"]}
    file = tiles / "items.parquet"
    pq.write_table(pa.Table.from_pylist([{k: i[k] for k in ("id", "assets")} for i in (one, two)]), file)
    found = find_scenes(file)
    assert [s.source for s in found] == [f"{file}#n/1", f"{file}#s"]
    assert read_items(found[0].source)[0]["assets"].keys() == {"data", "visual"}
    with open_scene(found[1].source) as opened:
        assert set(opened.files) == {str(file), str(tiles / "south/a.tif")} and opened.name == "s"
    with pytest.raises(BadInput, match="no asset of the key or role 'B04'"):
        find_scenes(file, asset="B04")
    with pytest.raises(BadFile, match="has no item 'x'"):
        read_items(f"{file}#x")


# --------------------------------------------------------------------------------------- files of many items


@pytest.mark.parametrize("indent", [None, 1])
def test_items_are_read_one_by_one_wherever_a_piece_ends(tmp_path, indent):
    """Items from a few bytes to several pieces, with characters of several bytes across every border."""
    items = [
        {"id": str(n), "assets": {}, "text": 'ü€𝄞\\"]}' * k} for n, k in enumerate((0, 1, 9000, 3, 40000))
    ]
    file = tmp_path / "many.json"
    document = {"a": [1, {"features": 2}], "type": "FeatureCollection", "features": items, "n": 12}
    for ascii_only in (True, False):
        file.write_text(json.dumps(document, indent=indent, ensure_ascii=ascii_only))
        assert file.stat().st_size > 3 * PIECE
        assert [listed.item for listed in items_in(str(file))] == items
        os.utime(
            file, ns=(1, ascii_only)
        )  # another time of the last change: what was remembered is forgotten
        assert [read_items(f"{file}#{n}")[0] for n in (4, 0, 2)] == [items[n] for n in (4, 0, 2)]
    for broken in (file.read_text()[:-9], "[1]", "", '{"type": "x", "features": [1, ]}'):
        file.write_text(broken)
        with pytest.raises((BadFile, BadInput), match=r"is not JSON|not a STAC item"):
            list(items_in(str(file)))


def test_a_file_whose_name_has_the_sign_of_an_item(tmp_path):
    odd = tmp_path / "a#b"
    odd.mkdir()
    file = search(odd / "s#1.json", [item("x", "a.tif")])
    assert document_of(file) == (file, None) and document_of(f"{file}#x") == (file, "x")
    assert document_of("gone.json#x") == ("gone.json#x", None)
    assert document_of("https://h/a.json#x") == ("https://h/a.json#x", None)


def test_memory_does_not_grow_with_the_items(tiles):
    """What is kept of an item is its path and name, not what else it says."""
    made = item("x", "north/a.tif")
    made["properties"] = {f"key{n}": "some text of a catalogue" for n in range(100)}
    count = 1000
    file = tiles / "large.json"
    with file.open("w") as text:
        text.write('{"type": "FeatureCollection", "features": [')
        text.write(",".join(json.dumps({**made, "id": f"S2A_{n:05}"}) for n in range(count)))
        text.write("]}")
    assert file.stat().st_size > 3.5e6
    gc.collect()
    tracemalloc.start()
    found = find_scenes(file, each=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == count and found[-1].name == "S2A_00999"
    assert peak < 1.5e6
