"""The web page in real Chromium, on a real service: what a person does there, and what it needs.

In every test no request may leave this machine, and nothing may violate the pages' own
Content-Security-Policy.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.browser import axe_violations, chromium
from tests.conftest import ROOT
from tests.end_to_end.conftest import serving

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

ENTRIES = ROOT / "worker" / "zoo_entries"
CHECKPOINT = ENTRIES / "digits_resnet26-9a97caaa.safetensors"
IMAGES = ENTRIES / "digits.npz"
LIGHT = {"rivals": False, "predict": False}
MILLISECONDS = 1000
LONG = 240 * MILLISECONDS


def asked(max_steps: int, name: str, **more) -> dict:
    return {
        "source": {"zoo": "digits_resnet26"},
        "name": name,
        "measurement": LIGHT,
        "refinement": {"max_steps": max_steps, "batch_size": 64, "goal": None, "calibrate": False},
    } | more


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("page"), OMP_NUM_THREADS="1") as service:
        yield service


@pytest.fixture(scope="module")
def finished(own) -> list[str]:
    """Two jobs that have succeeded."""
    places = [own.submit(asked(3 + at, f"finished {at}")) for at in range(2)]
    for place in places:
        own.wait_for(place, "succeeded", seconds=240)
    return [place.rpartition("/")[2] for place in places]


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


class Watched:
    """A tab, and what it did that it should not."""

    def __init__(self, context, base: str) -> None:
        self.tab = context.new_page()
        self.base = base
        self.faults: list[str] = []
        context.add_init_script(
            "addEventListener('securitypolicyviolation', one => "
            "console.error('policy: ' + one.violatedDirective + ' ' + one.blockedURI))"
        )
        context.on("request", self._on_request)
        context.on("console", self._on_console)
        context.on("weberror", lambda one: self.faults.append(f"error: {one.error}"))

    def _on_request(self, request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and address.hostname != "127.0.0.1":
            self.faults.append(f"request: {request.url}")

    def _on_console(self, message) -> None:
        if message.type == "error":
            self.faults.append(message.text)

    def go(self, path: str) -> None:
        self.tab.goto(self.base + path)


@pytest.fixture(params=["1280 light", "390 dark"])
def desk_and_phone(request):
    width, scheme = request.param.split()
    return {"viewport": {"width": int(width), "height": 800}, "color_scheme": scheme}


@pytest.fixture
def open_tab(browser, own):
    """Opens tabs; afterwards none may have done what it should not."""
    opened = []

    def open_one(base: str = str(own.client.base_url).rstrip("/"), **options) -> Watched:
        context = browser.new_context(**options)
        opened.append((context, Watched(context, base)))
        return opened[-1][1]

    yield open_one
    for context, watched in opened:
        context.close()
        assert watched.faults == []


def test_from_a_file_to_downloaded_weights(open_tab, own, tmp_path):
    watched = open_tab(accept_downloads=True)
    tab = watched.tab
    watched.go("/")
    tab.set_input_files("#checkpoint", CHECKPOINT)
    digest = hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest()
    tab.wait_for_selector(f"#checkpoint-told code:has-text('{digest}')")
    tab.check("input[name=data][value=file]")
    tab.set_input_files("#images", IMAGES)
    tab.wait_for_selector("#images-told code")
    tab.fill("#name", "of a person")
    tab.fill("#goal", "")
    tab.fill("#max_steps", "60")
    tab.click("text=More options")
    tab.uncheck("input[name=rivals]")

    tab.click("#inspect")  # how are pixels made to input?
    tab.wait_for_selector("#problem:has-text('preprocessing')")
    assert tab.evaluate("document.activeElement.id") == "mean"
    watched.faults = [one for one in watched.faults if "status of 422" not in one]
    tab.fill("#mean", "0.3053")
    tab.fill("#std", "0.3758")
    tab.click("#inspect")
    tab.wait_for_selector("#inspection:has-text('11 residual blocks in 2 runs')", timeout=LONG)
    assert tab.evaluate("document.activeElement.id") == "inspection"
    assert "16x8x8 -> 32x4x4" in tab.inner_text("#inspection")  # why a block stays

    tab.click("button:has-text('Convert')")
    tab.wait_for_url("**/ui/jobs/*")
    place = urlsplit(tab.url).path.removeprefix("/ui")
    job = own.job(place)
    assert job["sent"]["checkpoint"] == digest
    # It is seen to go on without being asked to.
    tab.wait_for_selector("#stages li.now .words:has-text('step')", timeout=LONG)
    tab.wait_for_selector("#curves svg", timeout=LONG)
    tab.wait_for_selector("#head .chip:has-text('succeeded')", timeout=LONG)
    tab.wait_for_selector("#plots svg", timeout=LONG)
    assert tab.locator("#plots svg[role=img]").count() >= 4
    assert "activation memory" in tab.inner_text("#result")
    assert "layer1.0" in tab.inner_text(".parts")
    assert "stage refining" in tab.inner_text("#log")

    with tab.expect_download() as downloading:
        tab.click("text=Download the weights")
    path = tmp_path / "weights.safetensors"
    downloading.value.save_as(path)
    files = {one["name"]: one["sha256"] for one in own.job(place)["artifacts"]}
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest == files["model.safetensors"]
    assert digest in tab.inner_text(".files")

    tab.click("text=Open the report")
    tab.wait_for_selector("h1:has-text('digits_resnet26')")
    assert "Memory report" in tab.inner_text("main")


def test_an_upload_that_breaks_off_goes_on(open_tab, own, tmp_path):
    large = tmp_path / "large.pt"
    large.write_bytes(bytes(range(256)) * (20 * 2**20 // 256))
    watched = open_tab()
    tab = watched.tab
    sent = []

    def cut(route):
        if route.request.method != "PATCH":
            route.continue_()
            return
        sent.append(route.request.headers["upload-offset"])
        if len(sent) == 2:
            route.abort("connectionreset")
        else:
            route.continue_()

    tab.route(
        "**/uploads/*",
        lambda route: cut(route) if route.request.method == "PATCH" else route.continue_(),
    )
    watched.go("/")
    tab.set_input_files("#checkpoint", large)
    digest = hashlib.sha256(large.read_bytes()).hexdigest()
    tab.wait_for_selector(f"#checkpoint-told code:has-text('{digest}')", timeout=60 * MILLISECONDS)
    assert sent == ["0", str(8 << 20), str(8 << 20), str(16 << 20)]
    watched.faults = [one for one in watched.faults if "net::ERR_CONNECTION_RESET" not in one]
    # Also after a reload: nothing of it is sent again.
    sent.clear()
    watched.go("/")
    tab.set_input_files("#checkpoint", large)
    tab.wait_for_selector(f"#checkpoint-told code:has-text('{digest}')")
    assert sent == []


def test_refusals_are_told_beside_what_they_are_about(open_tab):
    watched = open_tab()
    tab = watched.tab
    watched.go("/")
    tab.click("button:has-text('Convert')")
    tab.wait_for_selector("#problem:has-text('Choose a checkpoint first')")
    tab.check("input[name=kind][value=zoo]")
    tab.fill("#gamma", "1.5")
    tab.click("#inspect")
    tab.wait_for_selector("#problem:has-text('gamma')")
    assert tab.get_attribute("#gamma", "aria-invalid") == "true"
    assert tab.evaluate("document.activeElement.id") == "gamma"
    tab.check("input[name=kind][value=named]")
    tab.fill("#named", "nonsense")
    tab.fill("#gamma", "0.5")
    tab.click("#inspect")
    tab.wait_for_selector("#problem:has-text('nonsense')")
    watched.faults = [one for one in watched.faults if "status of 4" not in one]


def test_the_zoo_is_searched(open_tab):
    watched = open_tab()
    tab = watched.tab
    watched.go("/")
    tab.check("input[name=kind][value=zoo]")
    tab.fill("#zoo-search", "resnet50 v2")
    assert tab.inner_text("#zoo-count") == "2 entries"
    tab.fill("#zoo-search", "no such thing")
    assert tab.locator("#zoo li:visible").count() == 0
    assert "Nothing like that" in tab.inner_text("#zoo-count")


def test_two_jobs_are_compared_and_one_is_cancelled(open_tab, own, finished):
    watched = open_tab()
    tab = watched.tab
    watched.go("/ui/jobs?text=finished")
    tab.click("button:has-text('Compare')")
    tab.wait_for_selector("#problem:has-text('two finished jobs')")
    for box in tab.locator("input[name=job]").all():
        box.check()
    time.sleep(5)  # the list is loaded again meanwhile, and keeps what was chosen
    tab.click("button:has-text('Compare')")
    tab.wait_for_url("**/ui/compare*")
    assert "refinement.max_steps" in tab.inner_text("main")
    assert "finished 0" in tab.inner_text("thead >> nth=0")

    place = own.submit(asked(100_000, "endless"))
    watched.go(f"/ui{place}")
    tab.wait_for_selector("#stages li.now:has-text('refining')", timeout=LONG)
    tab.click("#actions button:has-text('Cancel')")
    tab.wait_for_selector("#head .chip:has-text('cancelled')", timeout=LONG)
    assert own.job(place)["state"] == "cancelled"
    tab.click("#actions button:has-text('Run again')")
    tab.wait_for_url(lambda url: "/ui/jobs/" in url and place not in url)
    assert "again for" in tab.inner_text("#head")
    tab.on("dialog", lambda one: one.accept())
    tab.click("#actions button:has-text('Cancel')")
    tab.wait_for_selector("#head .chip:has-text('cancelled')", timeout=LONG)
    tab.click("#actions button:has-text('Delete')")
    tab.wait_for_url("**/ui/jobs")


def test_by_keyboard_alone_on_a_phone(open_tab, own):
    watched = open_tab(viewport={"width": 390, "height": 800})
    tab = watched.tab
    watched.go("/")
    press = tab.keyboard.press

    def tab_to(selector: str) -> None:
        for _ in range(80):
            press("Tab")
            if tab.evaluate("one => document.activeElement.matches(one)", selector):
                return
        pytest.fail(f"the Tab key does not lead to {selector}")

    press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    press("Enter")
    assert tab.evaluate("document.activeElement.id") == "main"
    tab_to("input[name=kind]")
    press("ArrowDown")  # the zoo
    tab_to("#zoo-search")
    tab.keyboard.type("digits")
    tab_to("input[name=zoo]")
    tab_to("#name")
    tab.keyboard.type("by keyboard")
    tab_to("button.main")
    press("Enter")
    tab.wait_for_url("**/ui/jobs/*")
    tab_to("#actions button")
    press("Enter")
    tab.wait_for_selector("#head .chip:has-text('cancelled')", timeout=LONG)


def test_no_page_has_barriers_or_is_too_wide(open_tab, own, finished, desk_and_phone):
    watched = open_tab(**desk_and_phone)
    tab = watched.tab
    one, other = finished
    addresses = [
        "/",
        "/ui/jobs",
        f"/ui/jobs/{one}",
        f"/ui/compare?job={one}&job={other}",
        "/ui/service",
        "/ui/keys",
        "/ui/sign-in",
        "/ui/jobs/" + "0" * 32,
    ]
    for address in addresses:
        watched.go(address)
        if address == "/":
            tab.check("input[name=data][value=file]")
            tab.click("text=More options")
        if address.startswith("/ui/jobs/" + one):
            tab.wait_for_selector("#plots svg")
        assert axe_violations(tab) == [], address
        width = tab.viewport_size["width"]
        assert tab.evaluate("document.documentElement.scrollWidth") == width, address
    watched.faults = [one for one in watched.faults if "404" not in one]


def test_a_jobs_page_needs_no_script(open_tab, finished):
    watched = open_tab(java_script_enabled=False)
    watched.go(f"/ui/jobs/{finished[0]}")
    text = watched.tab.inner_text("main")
    assert "succeeded" in text
    assert "activation memory" in text
    watched.go("/")
    assert "takes JavaScript" in watched.tab.inner_text("main")


def test_keys_are_made_used_and_revoked(open_tab, tmp_path):
    with serving(tmp_path / "data", MOMENTUM_REQUIRE_KEYS="true") as service:
        base = str(service.client.base_url).rstrip("/")
        watched = open_tab(base)
        tab = watched.tab
        watched.go("/ui/keys")
        tab.wait_for_url("**/ui/sign-in?next=/ui/keys")
        tab.fill("#key", "mz_wrong")
        tab.click("main button")
        tab.wait_for_selector("#key-wrong")
        tab.fill("#key", (Path(service.data_dir) / "first-key").read_text())
        tab.click("main button")
        tab.wait_for_url("**/ui/keys")
        tab.fill("#key-name", "of a colleague")
        tab.click("button:has-text('Make the key')")
        tab.wait_for_selector("#keys th:has-text('of a colleague')")
        secret = tab.inner_text("#secret-value")
        bearer = {"Authorization": f"Bearer {secret}"}
        assert service.client.get("/jobs", headers=bearer).status_code == 200
        tab.on("dialog", lambda one: one.accept())
        tab.click("tr:has-text('of a colleague') button")
        tab.wait_for_selector("tr:has-text('of a colleague'):has-text('revoked')")
        assert service.client.get("/jobs", headers=bearer).status_code == 401
        tab.click("text=Sign out")
        tab.wait_for_url("**/ui/sign-in")
        watched.go("/ui/jobs")
        assert "sign-in" in tab.url
        watched.faults = [one for one in watched.faults if "401" not in one]
        tab.close()  # while there is somebody to answer it
