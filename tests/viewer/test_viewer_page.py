"""The viewer's page in a real browser."""

import browser
import pytest
import viewed
from PIL import Image

pytest.importorskip("uvicorn", reason="needs the extra `viewer`")
from labelscape.assessment.review import review
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


@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (400, "dark")])
def test_small_and_dark_screens(address, width, scheme):
    with browser.opened(address, width, color_scheme=scheme) as page:
        page.wait_for_selector(READY)
        assert page.evaluate(browser.FAULTS) == []
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (back == "rgb(20, 23, 26)") == (scheme == "dark")
        assert page.seen == [] and browser.unreadable(page) == []


def test_the_view_is_saved_as_a_picture(address, tmp_path):
    with browser.opened(f"{address}#show=class&opacity=100&at=2,150,260", 1600) as page:
        page.wait_for_selector(READY)
        page.select_option("#beside", "")
        page.wait_for_selector("#map .leaflet-tile-loaded")
        page.wait_for_timeout(300)
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
        assert page.seen == []


def find_legend(page):
    facts = page.evaluate("fetch('api/map').then((one) => one.json())")
    return {one["value"]: one["color"] for one in facts["layers"][0]["classes"]}


def test_areas_are_judged_by_keyboard_alone(tmp_path):
    folder = viewed.made(tmp_path)
    review(folder / "place_class.tif", folder / "review.gpkg", top=5, below=70)
    shown = find(folder, judge=folder / "review.gpkg")
    with viewed.server(shown, edit=True) as home, browser.opened(home, 1600) as page:
        page.wait_for_selector(READY)
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
