"""The report of an evaluation holds all that was counted, and is readable in a real browser."""

from dataclasses import replace

import browser
import numpy as np
import pytest
import world
from pages import Page

import labelscape as ls
from labelscape.evaluation.blocks import BlockCounts
from labelscape.evaluation.confusion import Confusion
from labelscape.evaluation.metrics import overall_accuracy
from labelscape.evaluation.places import Overview
from labelscape.evaluation.sections import shades
from labelscape.evaluation.text import percent
from labelscape.evaluation.where import block_map
from labelscape.grid import Window
from labelscape.legend import Legend

EVIL = '<img src=x onerror=alert(1)>"&$x_1$'
LEGEND = Legend.of_names(
    [EVIL, "a class with a name so long that no column of a table has room for it", "road"]
)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The files of an evaluation with everything, its result, and the legend's names of an attacker."""
    folder = tmp_path_factory.mktemp("page")
    w = world.make(folder, 96, 160, name="<b>scene")
    labels = world.label_raster(w, folder / "labels.tif", unlabelled=w.classes * 31 % 7 == 3)
    model = replace(world.tiny_checkpoint(like=w.scene), legend=LEGEND, temperature=1.7)
    how = {"spec": {"legend": LEGEND}, "block": 32, "shares": {"train": 0.5, "test": 0.5}}
    with ls.open_dataset([str(w.scene)], [str(labels)], **how) as dataset:
        found = ls.evaluate(
            model,
            dataset,
            part="test",
            out=folder / "out",
            boundaries=True,
            objects=[EVIL],
            topology=["road"],
            device="cpu",
            show=False,
        )
    return folder / "out", found


@pytest.fixture(scope="module")
def page(out):
    return Page((out[0] / "report.html").read_text())


def test_every_number_of_the_evaluation_is_shown(out, page):
    found = out[1]
    for line in found.card:
        assert line.name in page.text and percent(line.value) in page.text and line.used_by in page.text
    for band in found.trimap:
        assert percent(band["overall_accuracy"]) in page.text
    (things,), (lines,) = found.objects, found.topology
    assert f"F1 {percent(things.f1)} % of objects" in page.text
    assert f"boundary IoU {percent(things.boundary_iou)} %" in page.text
    assert percent(lines.cldice) in page.text
    for group in found.distances.by_distance():
        assert percent(group["overall_accuracy"]) in page.text
    assert len(found.reliability) == 2
    for one in found.reliability:
        assert f"{one.called}: {percent(one.ece)} %" in page.text
    for name in ("counts.json", "blocks.csv", "blocks.gpkg", "_errors.tif"):
        assert name in page.text
    assert "Please note" in page.text and "of the scored labels lie within" in page.text


def test_the_worst_places_come_first_with_four_pictures_each(out, page):
    blocks = sorted(out[1].per_block, key=lambda b: -(b.labelled - np.trace(b.counts.counts)))
    w = blocks[0].window
    wrong = blocks[0].labelled - np.trace(blocks[0].counts.counts)
    assert f"rows {w.top} to {w.bottom}, columns {w.left} to {w.right}" in page.text
    assert f"{wrong:,} labelled pixels are wrong. Most often" in page.text
    assert page.text.index("1. <b>scene") < page.text.index("2. <b>scene")
    assert page.words.count("Prediction") == page.words.count("Reference") == 6


def test_pictures_of_a_place_show_its_labels_and_predictions(out):
    """Against the error map, which was written pixel by pixel."""
    import rasterio

    from labelscape.evaluation.kept import KeptClasses
    from labelscape.evaluation.places import Places

    w = world.make(out[0].parent, 64, 64, name="again")
    labels = world.label_raster(w, out[0].parent / "again_labels.tif")
    model = world.tiny_checkpoint(like=w.scene)
    with ls.open_dataset([str(w.scene)], [str(labels)], spec={"legend": world.LEGEND}) as dataset:
        kept, whole = [], KeptClasses()
        places = Places(out[0].parent / "again_out", dataset.scenes, dataset.legend, whole)
        from labelscape.evaluation import measure

        how = {"watch": [whole.watch, places.watch], "keep": lambda _, c: kept.append(c), "show": False}
        measure.evaluate(model, dataset, device="cpu", **how)
    (place,) = places.worst
    assert (place.truth == w.classes).all() and (place.predicted == kept[0]).all()
    assert place.wrong == (w.classes != kept[0]).sum() and place.picture.shape == (64, 64, 3)
    with rasterio.open(places.map_of("again")) as file:
        assert (file.read(1) > 0).sum() == place.wrong


def test_many_images_are_one_row_of_files_and_no_maps_of_blocks(tmp_path):
    images, labels = [], []
    for n in range(22):
        w = world.make(tmp_path, 16, 16, seed=n, name=f"i{n}")
        images.append(str(w.scene))
        labels.append(str(world.label_raster(w, tmp_path / f"l{n}.tif")))
    with ls.open_dataset(images, labels, spec={"legend": world.LEGEND}) as dataset:
        ls.evaluate(
            world.tiny_checkpoint(like=w.scene), dataset, out=tmp_path / "out", device="cpu", show=False
        )
    text = Page((tmp_path / "out" / "report.html").read_text()).text
    assert "i0_errors.tif and 21 more" in text and "i1_errors.tif" not in text and "22 files" in text
    assert "with its blocks coloured" not in text and "Overall accuracy of each block" not in text
    assert "so distances to training labels are unknown" in text


def test_blocks_are_coloured_by_their_accuracy():
    counts = [Confusion([[9, 1], [0, 0]], [0, 0]), Confusion([[5, 5], [0, 0]], [0, 0])]
    blocks = [BlockCounts.of("s", Window(0, 64 * k, 64, 64), one) for k, one in enumerate(counts)]
    grey = np.full((32, 96, 3), 100, np.uint8)
    found = block_map(Overview("s", 6, grey, (64, 192)), blocks, low=0.5)
    assert (found[20, 90] == 128 + 50).all(), "outside of blocks: the scene in light grey"
    for k, one in enumerate(counts):
        colour = 0.3 * 178 + 0.7 * shades(np.array((overall_accuracy(one) - 0.5) / 0.5))
        np.testing.assert_allclose(found[20, 20 + 32 * k], colour, atol=1)
    assert (found[0, :64] == 255).all() and (found[:, 32] == 255).all(), "outlines"


def test_names_cannot_become_markup(out):
    text = (out[0] / "report.html").read_text()
    assert EVIL not in text and "&lt;img src=x onerror=alert(1)&gt;" in text
    assert "<b>scene" not in text


@pytest.mark.parametrize("width", [400, 1600])
def test_the_page_is_readable_in_a_browser(out, width):
    assert browser.faults(out[0] / "report.html", width) == []


def test_faults_of_a_page_are_found(tmp_path):
    """The check itself: each fault is seen."""
    path = tmp_path / "bad.html"
    path.write_text(
        "<main><p id=a style='width:900px'>x</p><p id=a></p><img src='data:,'>"
        "<script>console.log('said');undefined_name()</script></main>"
    )
    found = " ".join(browser.faults(path, 400))
    for fault in ("console: said", "undefined_name", "wider than", "no alt text", "id twice", "beyond"):
        assert fault in found, fault


def test_pictures_are_enlarged_and_the_page_prints(out, tmp_path):
    with browser.opened(out[0] / "report.html", 1200) as page:
        button = page.locator("button.zoom").last
        button.click()
        assert page.locator("dialog").is_visible()
        assert page.locator("dialog img").get_attribute("alt")
        page.locator("#viewer-close").click()
        page.emulate_media(media="print")
        assert not page.locator("dialog").is_visible()
        printed = page.pdf(format="A4")
        # Nothing is cut: as wide as the paper's text, 210 mm less margins, at 96 pixels an inch.
        page.set_viewport_size({"width": 673, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= 673
        assert page.seen == []
    assert printed.startswith(b"%PDF") and len(printed) > 20_000
