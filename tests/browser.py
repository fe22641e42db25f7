"""Real Chromium for tests of pages, and axe-core to ask them.

Skipped where the system has no Chromium, in CI too: no Python package brings a browser; `.ci/run`
installs Debian's. `axe-playwright-python` carries axe-core; MOMENTUM_AXE names another axe.min.js.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium() -> Iterator[Any]:
    """Start Chromium, or skip the test."""
    program = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium: install the system's package `chromium`")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no playwright: pip install 'momentum-zoo[browser]'"
    )
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=program,
            # Chromium does not isolate what root runs, and the pages are our own.
            args=["--no-sandbox"] if os.geteuid() == 0 else [],
        )
        yield browser
        browser.close()


def axe_violations(page: Any) -> list[str]:
    """Return what axe-core has against a page, or skip the test."""
    path = _axe()
    if path is None or not path.exists():
        pytest.skip("no axe-core: pip install 'momentum-zoo[browser]', or set MOMENTUM_AXE")
    # By the debugger, which no Content-Security-Policy binds.
    page.evaluate(path.read_text())
    found = page.evaluate("axe.run()")
    assert len(found["passes"]) > 15
    return [
        f"{one['id']}: {node['html'][:160]}" for one in found["violations"] for node in one["nodes"]
    ]


def _axe() -> Path | None:
    given = os.environ.get("MOMENTUM_AXE")
    if given is not None:
        return Path(given)
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        return None
    return Path(found.origin).with_name("axe.min.js")
