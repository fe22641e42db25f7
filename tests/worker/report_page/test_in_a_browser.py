"""The report's page in real Chromium: on a phone and on a desk, light and dark, and by axe-core."""

from __future__ import annotations

import pytest

from tests.browser import axe_violations, chromium

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1200)]

SIZES = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(params=SIZES, ids=[f"{width} px, {scheme}" for width, scheme in SIZES])
def opened(browser, report_folder, request):
    """The page, and every address that it asked for."""
    width, scheme = request.param
    viewport = {"width": width, "height": 900}
    context = browser.new_context(viewport=viewport, color_scheme=scheme)
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
    assert axe_violations(page) == []
