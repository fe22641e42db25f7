"""The page in real Chromium: on a phone and on a desk, light and dark, asked by axe-core.

Skipped where the system has no Chromium, in CI too: no Python package brings a browser.
`axe-playwright-python` carries axe-core; MOMENTUM_AXE names another axe.min.js.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1200)]

_NAMES = ("chromium", "chromium-browser", "google-chrome")
SIZES = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]


def _axe() -> Path | None:
    given = os.environ.get("MOMENTUM_AXE")
    if given is not None:
        return Path(given)
    found = importlib.util.find_spec("axe_playwright_python")
    return None if found is None else Path(found.origin).with_name("axe.min.js")


@pytest.fixture(scope="module")
def browser():
    program = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium: install the system's package `chromium`")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no playwright: pip install 'momentum-zoo[browser]'"
    )
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=program,
            # Chromium does not isolate what root runs, and the page is our own.
            args=["--no-sandbox"] if os.geteuid() == 0 else [],
        )
        yield browser
        browser.close()


@pytest.fixture(params=SIZES, ids=[f"{width} px, {scheme}" for width, scheme in SIZES])
def opened(browser, report_folder, request):
    """The page, and every address that it asked for."""
    width, scheme = request.param
    viewport = {"width": width, "height": 900}
    context = browser.new_context(viewport=viewport, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda one: asked.append(one.url))
    address = (report_folder / "report.html").as_uri()
    page.goto(address)
    yield page, asked, address
    context.close()


def test_it_asks_for_nothing_and_fits_the_screen(opened):
    page, asked, address = opened
    assert asked == [address]
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for drawing in page.locator("svg[role=img]").all():
        box = drawing.bounding_box()
        assert 300 < box["width"] <= width
        assert box["x"] >= 0


def test_letters_of_the_plots_can_be_read(opened):
    page, _, _ = opened
    heights = page.evaluate(
        "[...document.querySelectorAll('svg[role=img] text')].map(one => one.getCTM().a * "
        "parseFloat(getComputedStyle(one).fontSize)).filter(one => one > 0)"
    )
    assert len(heights) > 30
    assert min(heights) > 9


def test_colours_follow_the_scheme(opened):
    page, _, _ = opened
    is_dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    shade = page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    )
    assert (sum(shade) < 150) if is_dark else (sum(shade) > 700)


def test_axe_finds_no_violation(opened):
    page, _, _ = opened
    axe = _axe()
    if axe is None or not axe.exists():
        pytest.skip("no axe-core: pip install 'momentum-zoo[browser]', or set MOMENTUM_AXE")
    page.add_script_tag(content=axe.read_text())
    found = page.evaluate("axe.run()")
    told = [
        f"{one['id']}: {node['html'][:120]}" for one in found["violations"] for node in one["nodes"]
    ]
    assert told == []
    assert len(found["passes"]) > 20
