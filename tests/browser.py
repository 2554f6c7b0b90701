"""A page in a real browser: what it says in its console, how wide it is, what it lacks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import PATIENCE

BROWSERS = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
CHROMIUM = next(filter(os.path.exists, BROWSERS), None)


@contextmanager
def opened(path: Path | str, width: int, **how: object) -> Iterator[object]:
    """The page of a file or address at a window width in pixels; every message of its console, error and
    request to elsewhere in `page.seen`. `how` is for the browser: color_scheme="dark". Skips the test where
    there is no browser.
    """
    address = path if isinstance(path, str) else path.absolute().as_uri()
    own = ("file:", "data:", "blob:", *([address.split("#")[0]] if isinstance(path, str) else []))
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: make install")
    with api.sync_playwright() as playwright:
        # What `playwright install chromium` downloads, where the system has none.
        program = CHROMIUM or playwright.chromium.executable_path
        if not os.path.exists(program):
            looked = ", ".join((*BROWSERS, program))
            pytest.skip(f"needs Chromium (apt-get install chromium): none at {looked}")
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox"], timeout=1000 * PATIENCE
        )
        try:
            page = browser.new_page(viewport={"width": width, "height": 900}, **how)
            page.set_default_timeout(1000 * PATIENCE)
            page.seen = []
            page.on("console", lambda message: page.seen.append(f"console: {message.text}"))
            page.on("pageerror", lambda error: page.seen.append(f"error: {error}"))
            page.on(
                "dialog", lambda dialog: (page.seen.append(f"dialog: {dialog.message}"), dialog.dismiss())
            )
            page.on(
                "request",
                lambda one: None if one.url.startswith(own) else page.seen.append(f"request: {one.url}"),
            )
            page.goto(address)
            yield page
        finally:
            browser.close()


FAULTS = """() => {
  const found = [];
  const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  if (wide > 0) found.push(`${wide} pixels wider than the window`);
  for (const image of document.images) {
    // The viewer's own is empty until a picture is enlarged; tiles of a map are no pictures by themselves.
    if (image.closest("dialog:not([open]), .leaflet-pane")) continue;
    if (!image.alt) found.push(`no alt text: ${image.src.slice(0, 40)}`);
    if (!image.complete || !image.naturalWidth) found.push(`not shown: ${image.alt}`);
  }
  const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) found.push(`id twice: ${id}`);
  for (const one of document.querySelectorAll("main *")) {
    const box = one.getBoundingClientRect();
    if (box.width && box.right > innerWidth + 1 && !one.closest(".scroll, dialog, #map"))
      found.push(`beyond the window: ${one.tagName} ${one.textContent.slice(0, 30)}`);
  }
  return found;
}"""


def unreadable(page: object) -> list[str]:
    """What axe-core finds on a page against WCAG 2.1 A and AA and best practices, minor findings left out.
    Skips the test where axe-core is not installed.
    """
    axe = pytest.importorskip("axe_playwright_python", reason="needs axe-playwright-python: make install")
    # Not as a script of the page, which its policy refuses.
    page.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text("utf-8"))
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
    found = page.evaluate("(tags) => axe.run({runOnly: tags, resultTypes: ['violations']})", tags)
    return [
        f"{one['id']} ({one['impact']}): {one['help']}: {node['html'][:120]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical", "moderate")
        for node in one["nodes"]
    ]


def faults(path: Path, width: int) -> list[str]:
    """What is wrong with a page at a window width."""
    with opened(path, width) as page:
        return [*page.seen, *page.evaluate(FAULTS)]
