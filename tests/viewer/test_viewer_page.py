"""The viewer's page in a real browser."""

import browser
import numpy as np
import pytest
import viewed
from affine import Affine
from PIL import Image

pytest.importorskip("uvicorn", reason="needs the extra `viewer`")
from labelscape.assessment.review import review
from labelscape.legend import Legend
from labelscape.viewer.shown import find

READY = "body[data-ready]"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = viewed.made(tmp_path_factory.mktemp("map"), names=(viewed.HOSTILE, "field", "forest"))
    with viewed.server(find(folder, folder)) as home:
        yield home


def test_the_page_works_by_mouse_and_by_keyboard(address):
    with browser.opened(address, 1600) as page:
        page.wait_for_selector(READY)
        page.wait_for_selector("#map .leaflet-tile-loaded")
        # Text from files is text.
        assert viewed.HOSTILE in page.inner_text("#legend") and not page.query_selector("#panel img")
        # Differences of two maps are gone through; nothing is answered or drawn, and no key for it listed.
        keys = page.locator("#keys dd").all_text_contents()
        assert "go on, or pan" in keys and not {"answer", "draw, undo"} & set(keys)
        page.mouse.move(500, 450)
        page.wait_for_selector("#point th")
        told = page.inner_text("#point")
        assert "p(forest)" in told and "WGS 84" in told and "EPSG:32633" in told
        # A class is taken off the map, and the address says so.
        with page.expect_response(lambda one: "hide=4" in one.url):
            page.get_by_label("field", exact=True).first.uncheck()
        assert "hide=class%2C4" in page.url
        # Another colour for a class, in this view and in its address.
        with page.expect_response(lambda one: "colors=9-102030" in one.url):
            page.get_by_label("Colour of forest").fill("#102030")
        assert "9-102030" in page.url
        # Tiles that take long are waited for under a sign.
        held, free = [], []
        page.route("**/tiles/proba/**", lambda one: one.continue_() if free else held.append(one))
        page.select_option("#show", "proba")
        page.wait_for_selector("#loading", state="visible")
        free.append(True)
        for one in held:
            one.continue_()
        page.wait_for_selector("#loading", state="hidden")
        page.select_option("#show-class", "2")
        assert page.inner_text("#ramp").startswith("Probability of forest")
        # The line between the two maps is moved by the keyboard.
        page.focus("#map")
        before = page.evaluate("document.getElementById('divider').style.left")
        page.keyboard.press(",")
        assert page.evaluate("document.getElementById('divider').style.left") != before
        page.keyboard.press("Enter")
        page.wait_for_selector("#said:has-text('Confidence')", state="attached")
        page.keyboard.press("f")
        assert page.input_value("#show") == "confidence"
        assert browser.unreadable(page) == []
        # axe-core does find what is wrong.
        page.evaluate("document.getElementById('swipe').removeAttribute('aria-label')")
        assert [one.split(":")[0] for one in browser.unreadable(page)] == ["label (critical)"]
        link = page.url
        page.goto("about:blank")
        page.goto(link)
        page.wait_for_selector(READY)
        assert page.get_by_label("Colour of forest").input_value() == "#102030"
        assert (
            page.input_value("#show") == "confidence"
            and not page.get_by_label("field", exact=True).first.is_checked()
        )
        assert page.seen == [] and page.evaluate(browser.FAULTS) == []


def test_small_and_dark_screens(address):
    with browser.opened(address, 400, color_scheme="dark") as page:
        page.wait_for_selector(READY)
        for width in (400, 1600):
            page.set_viewport_size({"width": width, "height": 900})
            for scheme in ("dark", "light"):
                page.emulate_media(color_scheme=scheme)
                assert page.evaluate(browser.FAULTS) == [] and browser.unreadable(page) == []
                back = page.evaluate("getComputedStyle(document.body).backgroundColor")
                assert (back == "rgb(20, 23, 26)") == (scheme == "dark")
        assert page.seen == []


PANES = "['left', 'right'].map((name) => document.querySelector(`.leaflet-${name}-pane`))"


def clips(page):
    return page.evaluate(PANES + ".map((one) => one.style.clip)")


def test_two_layers_are_compared_and_the_address_says_how(address):
    with browser.opened(address, 1600) as page:
        page.wait_for_selector(READY)
        assert all(clips(page)) and page.is_visible("#swipe")
        # One seen through the other: below it, whole.
        page.select_option("#how", "fade")
        assert clips(page) == ["", ""] and page.is_hidden("#swipe")
        left, right = page.evaluate(PANES + ".map((one) => Number(one.style.zIndex))")
        assert left > right
        page.select_option("#beside", "proba")
        page.select_option("#beside-class", "1")
        page.fill("#opacity", "30")
        faded = PANES + ".map((one) => one.firstChild.style.opacity)"
        assert page.evaluate(faded) == ["0.3", "1"]
        compared = page.evaluate("location.href")
        page.select_option("#beside", "")
        page.get_by_label("field", exact=True).first.uncheck()
        alone = page.evaluate("location.href")
        # An address that is opened, or pasted into the page as it is, shows what it showed.
        for link, beside, how, field in ((compared, "proba", True, True), (alone, "", False, False)):
            page.evaluate("(link) => { location.hash = new URL(link).hash; }", link)
            page.wait_for_function("(to) => document.getElementById('beside').value === to", arg=beside)
            for again in (False, True):
                if again:
                    page.goto("about:blank")
                    page.goto(link)
                    page.wait_for_selector(READY)
                assert page.input_value("#beside") == beside and page.is_visible("#how") == how
                assert page.get_by_label("field", exact=True).first.is_checked() == field
                assert page.is_hidden("#swipe") and page.evaluate("location.href") == link
        assert page.seen == []


def test_the_map_is_dragged_and_zoomed(address):
    with browser.opened(f"{address}#at=2,150,260", 1600) as page:
        page.wait_for_selector(READY)
        page.mouse.move(600, 450)
        page.mouse.down()
        page.mouse.move(520, 410, steps=4)
        page.mouse.up()
        # On level 2 a pixel of the screen is one of the map; it may slide on.
        page.wait_for_function("() => location.hash.match(/at=2%2C[\\d.]+%2C([\\d.]+)/)?.[1] >= 339")
        page.mouse.wheel(0, 200)
        page.wait_for_function("() => !location.hash.includes('at=2%2C')")
        page.wait_for_selector(".leaflet-left-pane img.leaflet-tile-loaded:not([src*='/2/'])")
        assert page.seen == []


def test_the_view_is_saved_as_a_picture(address, tmp_path):
    with browser.opened(f"{address}#show=class&opacity=100&at=2,150,260", 1600) as page:
        page.wait_for_selector(READY)
        page.select_option("#beside", "")
        # Tiles that have not come yet are waited for.
        with page.expect_download() as saved:
            page.click("#save-picture")
        saved.value.save_as(tmp_path / "view.png")
        size = page.evaluate("[document.getElementById('map').clientWidth, innerHeight]")
        picture = Image.open(tmp_path / "view.png").convert("RGB")
        assert list(picture.size) == size and saved.value.suggested_filename == "place.png"
        # On level 2 a pixel of the screen is one of the map; its centre is row 150, column 260.
        legend = find_legend(page)
        classes = page.evaluate("fetch('api/point?row=150&column=260').then((one) => one.json())")
        (value,) = classes["values"]["class"]
        assert picture.getpixel((size[0] // 2, size[1] // 2)) == tuple(legend[value])
        # A ramp has a legend as classes have: the colours at both ends, beside each other.
        page.select_option("#show", "confidence")
        with page.expect_download() as saved:
            page.click("#save-picture")
        saved.value.save_as(tmp_path / "ramp.png")
        picture = Image.open(tmp_path / "ramp.png").convert("RGB")
        corner = picture.crop((size[0] - 200, size[1] - 90, size[0], size[1]))
        first, *_, last = page.evaluate("fetch('api/map').then((one) => one.json())")["ramp"]
        found = [[x for x in range(200) if near(corner.getpixel((x, 45)), one)] for one in (first, last)]
        assert found[0] and found[1] and max(found[0]) < min(found[1])
        assert page.seen == []


def near(one, other):
    return all(abs(a - b) < 12 for a, b in zip(one, other))


def test_controls_of_what_a_map_lacks_are_not_there(tmp_path):
    """Classes alone, without coordinates, and all of them nodata at that."""
    nothing = np.full((1, 60, 90), 255, np.uint8)
    legend = Legend.of_names(("water", "field"))
    path = viewed.raster(
        tmp_path / "bare_class.tif", nothing, legend=legend, crs=None, transform=Affine.identity()
    )
    with viewed.server(find(path), edit=True) as home, browser.opened(home, 400) as page:
        page.wait_for_selector(READY)
        for one in ("#imagery", "#ramp", "#outlines-row", "#show-class-row", "#how-row", "#judge"):
            assert page.is_hidden(one), one
        keys = page.locator("#keys dd").all_text_contents()
        assert {"pan", "draw, undo"} <= set(keys) and "answer" not in keys
        assert [one.inner_text() for one in page.query_selector_all("#show option")] == [
            "Classes",
            "Imagery only",
        ]
        assert "No imagery" in page.inner_text("#notes") and "no coordinates" in page.inner_text("#facts")
        assert "NaN" not in page.inner_text("#panel") and "0.0 %" in page.inner_text("#legend")
        page.focus("#map")
        for key in ("f", "i", "o", "s", "s", "[", ",", "0", "c", "Enter"):
            page.keyboard.press(key)
        page.wait_for_selector("#point:has-text('no data')")
        assert page.input_value("#show") == "class" and "imagery=0" not in page.evaluate("location.href")
        assert page.seen == [] and page.evaluate(browser.FAULTS) == [] and browser.unreadable(page) == []


def find_legend(page):
    facts = page.evaluate("fetch('api/map').then((one) => one.json())")
    return {one["value"]: one["color"] for one in facts["layers"][0]["classes"]}


def test_areas_are_judged_by_keyboard_alone(tmp_path):
    folder = viewed.made(tmp_path)
    review(folder / "place_class.tif", folder / "review.gpkg", top=5, below=70)
    shown = find(folder, judge=folder / "review.gpkg")
    with viewed.server(shown, edit=True) as home, browser.opened(home, 1600) as page:
        page.wait_for_selector(READY)
        assert {"answer", "go on, or pan"} <= set(page.locator("#keys dd").all_text_contents())
        first = page.inner_text("#judge-place")
        page.focus("#map")
        page.keyboard.press("3")
        page.wait_for_selector("#judge-state:has-text('1 answered')")
        assert page.inner_text("#judge-place") != first
        page.keyboard.press("m")
        page.wait_for_selector("#judge-state:has-text('2 answered')")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        assert page.inner_text("#judge-place") == first
        assert page.get_attribute("#judge-choices button:has-text('forest')", "aria-pressed") == "true"
        assert [one["class"] or one["word"] for one in shown.judged.items()[:3]] == ["forest", "mixed", None]
        assert page.seen == [] and page.evaluate(browser.FAULTS) == []
