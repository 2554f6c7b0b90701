"""Every fault is injected for real: files are cut, labels moved, colours painted, pictures encoded again."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import world
from affine import Affine
from rasterio.crs import CRS
from scipy.ndimage import gaussian_filter

from labelscape.datasets.doctor import shift as doctor_shift
from labelscape.datasets.doctor.check import check_data
from labelscape.datasets.doctor.twins import Sketch, Sketcher, check_twins
from labelscape.datasets.own import open_dataset
from labelscape.errors import BadInput
from labelscape.grid import Grid
from labelscape.labels.labels import open_labels
from labelscape.labels.polygons import column_report
from labelscape.labels.rules import LabelRules
from labelscape.legend import Legend
from labelscape.scenes.raster import Scene

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
pytestmark = pytest.mark.filterwarnings(
    "ignore::rasterio.errors.NotGeoreferencedWarning"
)  # pictures without coordinates are made on purpose
LEGEND = LabelRules(legend=Legend.of_names(["water", "field", "forest"]))


def kinds(findings, *severities):
    return {f.kind for f in findings if f.severity in (severities or ("error", "warning"))}


def only(findings, kind):
    (found,) = [f for f in findings if f.kind == kind]
    return found


def real(name):
    folder = DATA / name
    return folder if folder.exists() else pytest.skip(f"{folder} is not here")


def one(tmp_path, labels, *, spec=LabelRules(), **options):
    """Findings of a painted scene of 96 x 128 with these label pixels."""
    w = world.make(tmp_path)
    return check_data([w.scene], [world.write(tmp_path / "labels.tif", labels, **options)], spec=spec)


def test_good_data_has_no_faults_and_every_value_is_told(tmp_path):
    w = world.make(tmp_path)
    findings = check_data([w.scene], [world.label_raster(w, tmp_path / "labels.tif")], spec=LEGEND)
    assert not kinds(findings)
    said = only(findings, "values").text
    for value, name in enumerate(LEGEND.legend.names):
        assert f"{value} {name} {100 * (w.classes == value).mean():.1f} %" in said


def test_one_class_is_no_data_to_train_on(tmp_path):
    """The same rule, and the same words, as training has."""
    findings = one(tmp_path, np.full((96, 128), 1, np.uint8))
    found = only(findings, "one-class")
    assert found.severity == "error"
    assert found.text == "The labels have one class only, class 1; a network needs at least two."
    assert "`background=" in found.cure


def test_what_lies_outside_a_mask_is_not_counted(tmp_path):
    """A mask of half the scene, all white: with the other half counted there would be two classes."""
    white = np.full((96, 64), 255, np.uint8)
    findings = one(tmp_path, white, spec=LabelRules(threshold=128, classes={"other": 0, "road": 1}))
    assert "1 labelled pixels" not in only(findings, "classes").text
    assert f"{96 * 64:,} labelled pixels: road 100.0 %" in only(findings, "classes").text
    classes = np.where(np.arange(64) < 32, 0, 7).astype(np.uint8)[None].repeat(96, axis=0)
    text = only(one(tmp_path, classes), "classes").text
    assert f"{96 * 64:,} labelled pixels: class 0 50.0 %, class 7 50.0 %" in text


def test_merged_classes_are_shown(tmp_path):
    w = world.make(tmp_path)
    file = world.label_raster(w, tmp_path / "labels.tif", values=(3, 7, 9))
    land = LabelRules(merge={"land": ("class 7", "class 9")})
    findings = check_data([w.scene], [file], spec=land)
    assert kinds(findings) == {"one-class"}
    pixels = int((w.classes > 0).sum())
    assert only(findings, "classes").text == f"1 class, {pixels:,} labelled pixels: land 100.0 %."
    said = only(findings, "values").text
    assert "3 (not used)" in said and "7 land" in said and "9 land" in said and "class" not in said
    absent = only(check_data([w.scene], [file], spec=LabelRules(merge={"a": ("class 4",)})), "merge")
    assert absent.severity == "error" and "class 4" in absent.text


def test_values_without_a_class(tmp_path):
    labels = world.paint(96, 128)
    labels[:6, :64], labels[50, :50] = 37, 99
    found = only(one(tmp_path, labels, spec=LEGEND), "no-class")
    assert (
        found.severity == "error"
        and "37, 99" in found.text
        and "3.5 %" in found.text
        and "`ignore_values=[37]`" in found.cure
    )
    assert "no-class" not in kinds(
        one(tmp_path, labels, spec=LabelRules(legend=LEGEND.legend, ignore_values=(37, 99)))
    )
    assert "no-class" in kinds(
        one(tmp_path, labels.astype(np.int16) - 5)
    )  # without a legend: values no class can have


def test_masks_of_0_and_255(tmp_path):
    mask = (world.paint(96, 128) == 1).astype(np.uint8) * 255
    assert "{'other': 0, 'building': 255}" in only(one(tmp_path, mask), "mask").cure
    assert not kinds(
        one(
            tmp_path,
            mask,
            spec=LabelRules(legend=Legend.of_names(["other", "field"]), classes={"other": 0, "field": 255}),
        )
    )
    assert kinds(one(tmp_path, mask, spec=LabelRules(ignore_values=(255,)))) == {"one-class"}
    soft = gaussian_filter(mask.astype(float), 1).astype(np.uint8)
    assert "128" in only(one(tmp_path, soft), "grey-mask").cure
    assert "mask" not in kinds(one(tmp_path, soft))


def test_colours_and_palettes(tmp_path):
    classes = world.paint(96, 128)
    table = np.array([(0, 0, 255), (255, 255, 0), (0, 128, 0)], np.uint8)
    found = only(one(tmp_path, table[classes].transpose(2, 0, 1)), "colours")
    assert found.severity == "error" and f"(255, 255, 0) {100 * (classes == 1).mean():.1f} %" in found.text
    findings = one(tmp_path, np.stack([classes] * 3))
    assert not kinds(findings) and "read as one" in only(findings, "grey-bands").text
    w = world.make(tmp_path)
    palette = tmp_path / "palette.png"
    with rasterio.open(palette, "w", driver="PNG", count=1, height=96, width=128, dtype="uint8") as file:
        file.write_colormap(1, {i: (*map(int, c), 255) for i, c in enumerate(table)})
        file.write(classes, 1)
    findings = check_data([w.scene], [palette])
    assert not kinds(findings) and "1 is (255, 255, 0)" in only(findings, "palette").text
    assert "Name the values" in only(findings, "palette").cure
    named = check_data([w.scene], [palette], spec=LabelRules(classes={"a": 0, "b": 1, "c": 2}))
    assert only(named, "palette").cure == ""  # they are named already
    noise = np.random.default_rng(0).integers(0, 255, (3, 96, 128), dtype=np.uint8)
    assert "picture" in kinds(one(tmp_path, noise))
    assert "fractions" in kinds(one(tmp_path, np.full((96, 128), 0.3, np.float32)))


def test_broken_files_are_findings(tmp_path):
    w = world.make(tmp_path, 256, 256)
    labels = world.label_raster(w, tmp_path / "labels.tif")
    assert not kinds(check_data([w.scene], [labels]))
    for file, other in ((w.scene, labels), (labels, w.scene)):
        cut = tmp_path / f"cut_{file.name}"
        cut.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        pair = ([cut], [other]) if file is w.scene else ([other], [cut])
        found = only(check_data(*pair), "unreadable")
        assert (
            found.severity == "error"
            and "truncated" in found.text
            and cut.name.split(".")[0] in found.text + found.where
        )
    empty = tmp_path / "empty.tif"
    empty.touch()
    assert "empty (0 bytes)" in only(check_data([w.scene], [empty]), "unreadable").text
    assert "does not exist" in only(check_data([tmp_path / "none.tif"], [labels]), "unreadable").text
    with pytest.raises(BadInput, match="3 label files"):
        check_data([w.scene, w.scene], [labels] * 3)


def test_classes_are_counted_over_all_files(tmp_path):
    """A file of one class and unlabelled pixels, 0 and 255, is no mask where other files hold more
    classes.
    """
    partly = np.zeros((96, 128), np.uint8)
    partly[:, :32] = 255
    scenes = [
        world.make(tmp_path, seed=i, name=n, transform=world.NORTH_UP @ Affine.translation(200 * i, 0))
        for i, n in enumerate("ab")
    ]
    labels = [
        world.write(tmp_path / f"l{i}.tif", c, transform=w.transform)
        for i, (w, c) in enumerate(zip(scenes, (partly, scenes[1].classes)))
    ]
    findings = check_data([w.scene for w in scenes], labels, spec=LEGEND, part_of=["train", "test"])
    water = 96 * 96 + (scenes[1].classes == 0).sum()
    total = 96 * 96 + 96 * 128
    assert f"{total:,} labelled pixels: water {100 * water / total:.1f} %" in only(findings, "classes").text
    absent = only(findings, "absent-class")
    assert (
        absent.severity == "error"
        and "field, forest: no pixel in the train split" in absent.text
        and not kinds(findings, "warning")
    )


def test_labels_that_label_nothing(tmp_path):
    w = world.make(tmp_path)
    empty, full = (
        world.write(tmp_path / "e.tif", np.full((96, 128), 255, np.uint8)),
        world.label_raster(w, tmp_path / "labels.tif"),
    )
    other = world.make(tmp_path, seed=4, name="other", transform=world.NORTH_UP @ Affine.translation(500, 0))
    spec = LabelRules(legend=Legend.of_names(["water", "field", "forest", "ice"]))
    findings = check_data(
        [w.scene, other.scene],
        [
            world.label_raster(w, tmp_path / "a.tif"),
            world.write(tmp_path / "b.tif", np.full((96, 128), 255, np.uint8), transform=other.transform),
        ],
        spec=spec,
    )
    assert (
        only(findings, "all-ignored").severity == "warning" and "b.tif" in only(findings, "all-ignored").text
    )
    assert "'ice'" in only(findings, "absent-class").text
    assert only(check_data([w.scene], [empty], spec=LEGEND), "all-ignored").severity == "error"
    dark = world.make(tmp_path, nodata=7, name="dark")
    with rasterio.open(dark.scene, "r+") as file:
        file.write(np.full((3, 96, 128), 7, np.uint16))
    assert "no-data" in kinds(check_data([dark.scene], [full]), "error")


def test_grids_that_do_not_match(tmp_path):
    w = world.make(tmp_path)

    def against(pixels, **place):
        return check_data([w.scene], [world.write(tmp_path / "labels.tif", pixels, **place)])

    half = w.classes[::2, ::2]
    assert "2 times" in only(against(half, crs=None), "size").text
    assert "size" in kinds(against(w.classes[:90], crs=None), "error")
    assert not kinds(against(w.classes, crs=None))
    away = world.NORTH_UP @ Affine.translation(0, 4000)
    assert "no-overlap" in kinds(against(w.classes, transform=away), "error")
    wrong = only(
        against(w.classes, crs=CRS.from_epsg(32647)), "no-overlap"
    )  # the numbers are right, the CRS is another zone
    assert "wrong CRS" in wrong.cure
    assert (
        "2 times the size"
        in only(against(half, transform=world.NORTH_UP @ Affine.scale(2)), "pixel-size").text
    )
    assert "50 %" in only(against(w.classes[:48]), "partly").text
    assert (
        "0.40 pixels"
        in only(against(w.classes, transform=world.NORTH_UP @ Affine.translation(0.4, 0)), "sub-pixel").text
    )


def test_polygons_read_burned_outside_and_too_small(tmp_path):
    w = world.make(tmp_path)
    import pyogrio
    import shapely

    def box(left, top, width, height):
        x, y = w.transform @ (left, top)
        return shapely.box(x, y - 10 * height, x + 10 * width, y)

    shapes = [
        box(2, 2, 20, 20),
        box(30, 30, 30, 30),
        box(400, 3, 5, 5),
        box(7.1, 60.1, 0.3, 0.3),
        box(60.6, 60.6, 0.3, 0.3),
    ]
    shapes += [box(10, 70, 10, 10), box(9, 69, 12, 12)]
    kind = np.array(["field", "field", "field", "hut", "hut", "pond", "field"], object)
    file = tmp_path / "p.gpkg"
    pyogrio.raw.write(
        file,
        shapely.to_wkb(np.array(shapes)),
        [kind],
        ["kind"],
        geometry_type="Polygon",
        crs="EPSG:32633",
        driver="GPKG",
    )
    findings = check_data([w.scene], [file])
    said = {f.text.split(":")[0]: f for f in findings if f.kind == "polygons"}
    assert (
        "4 polygons read, 3 rasterized, 1 outside" in said["field"].text and said["field"].severity == "info"
    )
    assert (
        "2 polygons read, 0 rasterized, 0 outside scene, 2 too small" in said["hut"].text
        and said["hut"].severity == "warning"
    )
    assert "1 covered by later" in said["pond"].text and "order" in said["pond"].cure
    assert (
        "No class of the legend"
        in only(
            check_data([w.scene], [file], spec=LabelRules(legend=Legend.of_names(["field"]))), "labels"
        ).text
    )


@pytest.mark.parametrize(
    ("change", "cure"),
    [("swapped", "x and y seem to be swapped"), ("named", "wrong CRS"), ("away", "Check the CRS")],
)
def test_polygons_in_the_wrong_place(tmp_path, change, cure):
    w = world.make(tmp_path)
    import pyogrio
    import shapely

    x, y = w.transform @ (20, 20)
    corner = {"swapped": (y, x), "named": (x, y), "away": (x + 1e5, y)}[change]
    box = shapely.box(*corner, corner[0] + 300, corner[1] + 300)
    crs = "EPSG:32647" if change == "named" else "EPSG:32633"
    file = tmp_path / "p.gpkg"
    pyogrio.raw.write(
        file,
        shapely.to_wkb(np.array([box])),
        [np.array(["field"], object)],
        ["kind"],
        geometry_type="Polygon",
        crs=crs,
        driver="GPKG",
    )
    findings = check_data([w.scene], [file])
    assert kinds(findings) == {"no-overlap"} and cure in only(findings, "no-overlap").cure


def textured(tmp_path, name, *, seed, moved=(0, 0), size=520):
    """An irregular landscape with smooth borders and texture, and labels moved (right, down)."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=(size + 32, size + 32)), 9)
    classes = (field > 0).astype(np.uint8)
    right, down = moved
    inner = np.s_[16 : 16 + size, 16 : 16 + size]
    picture = (
        90
        + 40 * gaussian_filter(classes.astype(float), 0.8)
        + gaussian_filter(rng.normal(size=classes.shape), 2) * 60
        + rng.normal(0, 4, classes.shape)
    )
    scene = world.write(tmp_path / f"{name}.tif", np.clip(picture[inner], 1, 255).astype(np.uint8), crs=None)
    labels = np.roll(classes, (down, right), (0, 1))[inner]
    return scene, world.write(tmp_path / f"{name}_label.tif", labels, crs=None)


@pytest.mark.parametrize("moved", [(0, 0), (1, 0), (3, -4), (-8, 5)])
def test_a_shift_is_found_and_none_is_invented(tmp_path, moved):
    pairs = [textured(tmp_path, f"s{i}", seed=i, moved=moved) for i in range(2)]
    findings = check_data([a for a, _ in pairs], [b for _, b in pairs])
    if np.hypot(*moved) < 2:
        assert not kinds(findings)
    else:
        assert f"{moved[0]}, {moved[1]} pixels" in only(findings, "shift").text


def moved_copy(indices, right, down):
    """The same labels, lying `right` and `down` pixels off; what comes in is unlabelled."""
    height, width = indices.shape
    out = np.full_like(indices, 255)
    out[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = indices[
        max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)
    ]
    return out


def real_pairs(name):
    """(pixels, valid, indices) of real, aligned data, in windows."""
    if name == "banepa":
        folder = real("banepa")
        with Scene(folder / "centre.tif") as scene:
            spec = LabelRules(background="other", area=str(folder / "labelled_area.geojson"))
            labels = open_labels(folder / "buildings.geojson", scene.grid, spec)
            for window in doctor_shift.sample_windows(scene.grid.window, 70):
                patch = scene.read(window)
                yield patch.pixels, patch.valid, labels.read(window)
        return
    sides = {"inria-patches": ("images/*", "gt"), "epfl-roads": ("images/*", "groundtruth")}[name]
    for image in sorted(real(name).glob(sides[0])):
        label = next((image.parents[1] / sides[1]).glob(image.stem + ".*"))
        with Scene(image) as scene, rasterio.open(label) as dataset:
            patch = scene.read()
            yield patch.pixels, patch.valid, (dataset.read(1) >= 128).astype(np.uint8)


@pytest.mark.parametrize(("name", "sure"), [("inria-patches", True), ("epfl-roads", False), ("banepa", True)])
def test_shifts_of_real_labels(name, sure):
    """Roads of `epfl-roads` are drawn too coarsely to be sure of anything; then nothing may be said, and
    nothing wrong ever.
    """
    items = list(real_pairs(name))[: 40 if sure else 24]
    for right, down in [(0, 0), (3, 0), (-4, 8)] if sure else [(0, 0), (-4, 8)]:
        matches = [doctor_shift.edge_match(p, v, moved_copy(i, right, down)) for p, v, i in items]
        shift = doctor_shift.vote([m for m in matches if m is not None])
        if (right, down) == (0, 0):
            assert not shift.clear
        elif sure:
            assert shift.clear and abs(shift.right - right) <= 1 and abs(shift.down - down) <= 1


def test_the_same_picture_twice(tmp_path):
    scene, labels = textured(tmp_path, "a", seed=0)
    other, other_labels = textured(tmp_path, "b", seed=1)
    copy = shutil.copy(scene, tmp_path / "copy.tif")
    with rasterio.open(scene) as file:
        pixels = file.read()
    coded = world.write(tmp_path / "coded.jpg", pixels, crs=None, driver="JPEG", quality=60)
    small = world.write(tmp_path / "small.jpg", pixels[:, ::2, ::2], crs=None, driver="JPEG")
    small_labels = world.write(
        tmp_path / "small_label.tif",
        np.kron([[0, 1], [1, 0]], np.ones((130, 130))).astype(np.uint8),
        crs=None,
    )
    files, label_files = (
        [scene, other, copy, coded, small],
        [labels, other_labels, labels, labels, small_labels],
    )
    findings = check_data(files, label_files, part_of=["train", "train", "train", "test", None])
    assert (
        only(findings, "duplicate").severity == "warning" and "b.tif" not in only(findings, "duplicate").text
    )
    near = only(findings, "near-duplicate")
    assert near.severity == "error" and "test and train" in near.text
    assert all(n in near.text for n in ("a.tif", "coded.jpg", "small.jpg")) and "b.tif" not in near.text
    assert (
        only(check_data(files[:3], label_files[:3], part_of=["train", "val", "test"]), "duplicate").severity
        == "error"
    )
    relabelled = check_data([scene, copy], [labels, other_labels])
    assert "labels differ" in only(relabelled, "duplicate").text
    blank = world.write(tmp_path / "blank.tif", np.full((520, 520), 9, np.uint8), crs=None)
    assert kinds(check_data([blank, other], [labels, other_labels])) == {"blank"}


@pytest.mark.parametrize(("likeness", "same"), [(0.97, True), (0.85, False), (-0.97, False)])
def test_how_alike_is_the_same(likeness, same):
    rng = np.random.default_rng(0)
    a, b = np.linalg.qr(rng.normal(size=(1024, 2)))[0].T
    cells = (a, likeness * a + np.sqrt(1 - likeness**2) * b)
    grid = Grid(None, Affine.identity(), 64, 64)
    findings = check_twins([Sketch(f"{i}", bytes([i]), c, False, grid) for i, c in enumerate(cells)])
    assert [f.kind for f in findings] == ["near-duplicate"] * same


def test_tiles_that_overlap_on_the_ground(tmp_path):
    a, b = (
        world.make(tmp_path, seed=i, name=n, transform=world.NORTH_UP @ Affine.translation(x, 0))
        for i, n, x in [(0, "a", 0), (1, "b", 64)]
    )
    labels = [world.label_raster(w, tmp_path / f"{i}.tif") for i, w in enumerate((a, b))]
    assert (
        "share 50 %"
        in only(check_data([a.scene, b.scene], labels, part_of=["train", "test"]), "overlap").text
    )
    assert "overlap" in kinds(check_data([a.scene, b.scene], labels), "warning")
    assert "overlap" not in kinds(check_data([a.scene, b.scene], labels, part_of=["train", "train"]))


def test_overlaps_in_many_systems_are_told_in_the_order_of_the_scenes():
    """Not in that of a set of texts, which is another one in every process."""
    zones = [Grid(CRS.from_epsg(32630 + n), world.NORTH_UP, 64, 64) for n in range(8)]
    sketches = [Sketch(f"{n}{x}", bytes([n, ord(x)]), None, False, zones[n]) for x in "ab" for n in range(8)]
    overlaps = [f.where for f in check_twins(sketches) if f.kind == "overlap"]
    assert overlaps == [f"{n}a" for n in range(8)]


@pytest.mark.parametrize("name", ["gid-mtl5", "dubai"])
def test_copies_among_real_neighbours(tmp_path, name):
    folder = real(name)
    images = sorted((folder / "images").glob("*.jpg"))[:: 20 if name == "gid-mtl5" else 5]

    def sketch(file):
        with Scene(file) as scene:
            patch = scene.read()
            sketcher = Sketcher(*scene.grid.shape)
            sketcher.add(patch.pixels, patch.valid, patch.window)
            return sketcher.done(file.name, scene.grid, None), patch.pixels

    sketches, pixels = zip(*map(sketch, images))
    assert not kinds(check_twins(sketches))
    for i in range(0, len(images), 7):
        coded = world.write(tmp_path / f"copy{i}.jpg", pixels[i], crs=None, driver="JPEG", quality=70)
        findings = check_twins([*sketches, sketch(coded)[0]])
        if sketches[i].cells is not None:
            assert [f.kind for f in findings] == ["near-duplicate"] and images[i].name in findings[0].text


def test_memory_stays_bounded_and_ticks_come(tmp_path):
    import tracemalloc

    size = 6000
    scene, labels = tmp_path / "large.tif", tmp_path / "labels.tif"
    place = {
        "driver": "GTiff",
        "height": size,
        "width": size,
        "dtype": "uint8",
        "tiled": True,
        "compress": "deflate",
        "sparse_ok": True,
    }
    with rasterio.open(scene, "w", count=3, **place) as file:
        file.write(
            np.random.default_rng(0).integers(1, 255, (3, 512, 512), dtype=np.uint8),
            window=rasterio.windows.Window(0, 0, 512, 512),
        )
    with rasterio.open(labels, "w", count=1, **place) as file:
        file.write(np.ones((1, 512, 512), np.uint8), window=rasterio.windows.Window(0, 0, 512, 512))
    ticks = []
    tracemalloc.start()
    check_data([scene], [labels], tick=lambda: ticks.append(1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ticks == [1] and peak < 3 * size * size  # less than the picture


def test_the_command_prints_and_ends_with_its_code(tmp_path, run_cli):
    from labelscape.cli.data_check import part_of_path

    w = world.make(tmp_path)
    good = world.label_raster(w, tmp_path / "good.tif")
    bad = world.label_raster(w, tmp_path / "bad.tif", values=(0, 1, 77))
    named = ("--classes", "water=0,field=1,forest=2")
    code, out, _ = run_cli("data", "check", w.scene, "--labels", good, *named)
    assert code == 0 and "0 errors" in out
    code, out, _ = run_cli("data", "check", w.scene, "--labels", bad, *named)
    assert code == 1 and "ERROR" in out and "77" in out and "-> Add --classes" in out
    assert (
        part_of_path("a/train/images/x.png") == "train"
        and part_of_path("images/Val/x.png") == "val"
        and part_of_path("testing_ground/x.png") is None
    )


def test_labels_in_a_local_crs_of_the_scenes_pixels_are_read_as_training_reads_them(tmp_path):
    """FLAIR's masks: a local CRS of the name of the images' own, which no transformation leads to."""
    w = world.make(tmp_path)
    site = CRS.from_wkt('LOCAL_CS["WGS 84 / UTM zone 33N",UNIT["metre",1]]')
    labels = world.write(tmp_path / "labels.tif", w.classes, crs=site)
    findings = check_data([w.scene], [labels])
    assert not kinds(findings, "error")
    assert "read pixel on pixel" in only(findings, "crs").text
    assert f"3 classes, {w.classes.size:,} labelled pixels" in only(findings, "classes").text


def test_fill_values_whose_square_is_beyond_float32_raise_no_warning(tmp_path):
    w = world.make(tmp_path, dtype="float32", crs=None)
    pixels = w.pixels.copy()
    pixels[:, :9] = 1e20
    scene = world.write(tmp_path / "filled.tif", pixels, crs=None)
    with np.errstate(over="raise"):
        check_data([scene], [world.label_raster(w, tmp_path / "labels.tif")])


def test_rules_for_rasters_add_no_classes_to_polygons(tmp_path):
    w = world.make(tmp_path)
    polygons = world.label_polygons(w, tmp_path / "labels.gpkg")
    findings = check_data([w.scene], [polygons], spec={"threshold": 128, "class_column": "kind"})
    assert kinds(findings) == {"options"}
    assert "other" not in only(findings, "classes").text


def test_notes_keep_the_names_of_files_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    w = world.make(tmp_path)
    world.write(tmp_path / "my scene.tif", w.pixels, crs=None)
    with rasterio.open(tmp_path / "my scene.tif", "r+") as file:
        corners = [(r, c, *(w.transform @ (c, r))) for r in (0, 96) for c in (0, 128)]
        file.gcps = [rasterio.control.GroundControlPoint(*corner) for corner in corners], w.crs
    findings = check_data(["my scene.tif"], [world.label_raster(w, tmp_path / "labels.tif")])
    assert only(findings, "file").text.startswith("my scene.tif is placed by its 4 ground control points")


def test_a_column_that_most_polygons_leave_empty_is_met_with_those_that_are_full(tmp_path):
    import pyogrio

    w = world.make(tmp_path)
    given = tmp_path / "given.gpkg"
    world.label_polygons(w, given)
    _, _, shapes, (kind,) = pyogrio.raw.read(given)
    count, empty = len(kind), np.full(len(kind), None, object)
    some = empty.copy()
    some[:2] = "Long Lake", "Old Wood"
    ids = np.array([f"id {number}" for number in range(count)], object)
    columns = {"name": some, "id": ids, "fclass": kind, "same": np.full(count, "x", object), "empty": empty}
    file = tmp_path / "osm.gpkg"
    pyogrio.raw.write(
        file, shapes, [*columns.values()], [*columns], geometry_type="Polygon", crs="EPSG:4326", driver="GPKG"
    )
    found = only(check_data([w.scene], [file], spec=LabelRules(class_column="name")), "no-class")
    assert f"{count - 2} of {count} polygons have no value in 'name'" in found.text
    assert found.cure == "Give them a class, or choose another `class_column`: full are fclass."
    attributes = {name: np.asarray(values, object) for name, values in columns.items()}
    (said,) = column_report(file, attributes, LabelRules(class_column="name"))
    assert "most polygons have no value in the column 'name'; full are fclass" in said
    assert column_report(file, attributes, LabelRules(class_column="fclass")) == []
    assert check_data([w.scene], [file], spec=LabelRules(class_column="name")).count(found) == 1


def test_polygons_of_two_classes_on_one_place(tmp_path):
    import pyogrio
    import shapely

    w = world.make(tmp_path)
    x, y = w.transform @ (0, 0)

    def found(left, kinds):
        shapes = [shapely.box(x, y - 600, x + 400, y), shapely.box(x + left, y - 600, x + 800, y)]
        file = tmp_path / "p.gpkg"
        pyogrio.raw.write(
            file, shapely.to_wkb(shapes), [np.array(kinds, object)], ["class"], geometry_type="Polygon",
            crs=w.crs.to_wkt(),
        )  # fmt: skip
        told = [f for f in check_data([w.scene], [file]) if f.kind == "overlap"]
        # Whoever trains without a check reads the same.
        with open_dataset([w.scene], [file]) as dataset:
            lines = [line for line in dataset.report if "under polygons of two classes" in line]
        assert lines == [f"{file}: {one.text} {one.cure}" for one in told]
        return told

    (one,) = found(200, ["field", "wood"])
    assert one.severity == "warning" and "25.0 % of the pixels under polygons are under" in one.text
    # Neighbours share a border; of one class it does not matter which wins.
    assert not found(400, ["field", "wood"])
    assert not [f for f in found(200, ["field", "field"])]


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ((0, 1), (0, 255), True),
        ((0, 1, 2), (0, 127, 254), True),
        ((0, 1, 255), (0, 255), False),  # 255 is unlabelled
        ((0, 1), (0, 2), False),  # other classes on other ground
        ((0, 1, 2), (0, 1, 255), False),
    ],
)
def test_masks_that_are_written_in_two_ways(tmp_path, first, second, told):
    images, labels = [], []
    for name, values in (("a", first), ("b", second)):
        w = world.make(tmp_path, name=name)
        images.append(w.scene)
        stripes = np.indices(w.classes.shape)[0] // 10 % len(values)
        labels.append(world.write(tmp_path / f"{name}_l.tif", np.array(values, np.uint8)[stripes]))
    found = [f for f in check_data(images, labels) if f.kind == "codings"]
    assert bool(found) == told
    with open_dataset(images, labels) as dataset:
        lines = [line for line in dataset.report if "two ways of writing the same classes" in line]
    assert lines == [f"{one.text} {one.cure}" for one in found]
    if told:
        assert "Of the label files 1 hold small numbers" in found[0].text and found[0].severity == "warning"
