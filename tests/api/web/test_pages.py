"""The pages as the service renders them, before any script runs."""

from __future__ import annotations

import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from api.app import create_app
from tests.api.conftest import served
from tests.api.test_keys import bearer
from worker.contract.job import Artifact, JobError, Stage
from worker.contract.job_claims import JobClaims
from worker.contract.job_logs import Said
from worker.contract.key_store import Scope

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
ZOO = {"source": {"zoo": "digits_resnet26"}}
REPORT = {
    "summary": ["It trains in 0.28x the activation memory."],
    "blocks": [
        {
            "name": "layer1.0",
            "modules": ["layer1.0", "layer1.1"],
            "converted": True,
            "gamma": "1/2",
            "strategy": "reverse",
            "reason": HOSTILE,
            "blocks": [{"name": "layer1.0", "held_bytes": 2048}, {"name": "layer1.1"}],
        }
    ],
}


class _Checker(HTMLParser):
    """Collects what would run or load something, and elements that are not closed."""

    VOID = ("meta", "link", "input", "br", "img", "hr")
    OPTIONAL = ("option",)

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.inline: list[str] = []
        self.labelled: set[str] = set()
        self.fields: list[str] = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag not in self.VOID + self.OPTIONAL:
            self.open.append(tag)
        if "id" in given:
            self.ids.append(given["id"])
        self.inline += [name for name in given if name.startswith("on") or name == "style"]
        if tag == "script" and "src" not in given:
            self.inline.append("script")
        if tag == "label" and "for" in given:
            self.labelled.add(given["for"])
        assert not given.get("src", "").startswith(("http", "//"))

    def handle_endtag(self, tag):
        if tag in self.OPTIONAL:
            return
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def checked(answer, status: int = 200) -> str:
    """Return a page that is well-formed, runs nothing of its own text and may load nothing."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert answer.headers["cache-control"] == "no-store"
    checker = _Checker()
    checker.feed(answer.text)
    assert checker.open == []
    assert checker.inline == []
    assert len(checker.ids) == len(set(checker.ids))
    assert checker.labelled <= set(checker.ids)
    return answer.text


@pytest.fixture
def job(client) -> str:
    return client.post("/convert", json=ZOO | {"name": HOSTILE, "tags": [HOSTILE[:60]]}).json()[
        "id"
    ]


def finish(service, claims: JobClaims, job_id: str, result: dict) -> None:
    """End a job with a report, as a worker would."""
    with service.files.temporary_folder() as folder:
        (folder / "report").write_text(json.dumps(REPORT))
        stored = service.files.put(folder / "report")
    artifact = Artifact(
        name="report.json",
        sha256=stored.sha256,
        num_bytes=stored.num_bytes,
        media_type="application/json",
    )
    claims.succeed(claims.claim(job_id, worker="w"), result=result, files=[artifact])


@pytest.mark.parametrize("path", ["/", "/ui/jobs", "/ui/service", "/ui/keys", "/ui/sign-in"])
def test_every_page_is_well_formed_and_runs_nothing_of_its_own(client, path):
    text = checked(client.get(path))
    assert "<title>" in text
    assert client.head(path).status_code == 200


def test_what_users_write_stays_text(client, service, claims, job):
    service.logs.append(
        job, [Said(seconds_ago=1.0, level=30, logger="w", message=HOSTILE)], attempt=1
    )
    pages = [checked(client.get(f"/ui/jobs/{job}")), checked(client.get("/ui/jobs"))]
    finish(service, claims, job, {"architecture": HOSTILE})
    pages += [checked(client.get(f"/ui/jobs/{job}")), checked(client.get("/ui/jobs"))]
    pages.append(checked(client.get("/ui/jobs", params={"text": HOSTILE, "tag": "t"})))
    for text in pages:
        assert "<img" not in text
        assert "<script>" not in text
        assert "&lt;script&gt;" in text


def test_a_jobs_page_tells_how_it_goes(client, claims, job):
    assert "It waits for a free worker" in client.get(f"/ui/jobs/{job}").text
    claim = claims.claim(job, worker="w")
    claims.enter_stage(claim, Stage.REFINING, progress=0.4)
    for step, loss, percent in ((1, 0.5, 90.0), (20, 0.25, 95.0)):
        figures = {"step": step, "max_steps": 40, "loss": loss, "metric_percent": percent}
        told = figures | {"eta_seconds": 75.0, "target_percent": 94.5}
        claims.record_progress(claim, progress=0.5, data=told)
    text = checked(client.get(f"/ui/jobs/{job}"))
    assert "50 %, about 1 min 1" in text
    assert "step 20 of 40  loss 0.2500  held-back images 95.00 % (goal 94.50 %)" in text
    assert "goal 94.50 %</text>" in text
    assert text.count("<polyline") == 2
    assert re.search(r'<li class="now" aria-current="step">\s*<span class="name">refining', text)
    assert re.search(r'<li class="to-come">\s*<span class="name">packaging', text)
    assert "Cancel</button>" in text


def _listed(client, job: str) -> list[tuple[str, str]]:
    return re.findall(
        r'<li class="([a-z-]+)"[^>]*>\s*<span class="name">([a-z]+)',
        client.get(f"/ui/jobs/{job}").text,
    )


def test_what_is_to_come_is_what_the_worker_will_do(client, claims):
    job = client.post("/convert", json=ZOO).json()["id"]
    all_stages = ["loading", "planning", "converting", "measuring"]
    rest = ["evaluating", "refining", "evaluating", "packaging"]
    assert _listed(client, job) == [("to-come", one) for one in all_stages + rest]
    claim = claims.claim(job, worker="w")
    for stage in (Stage.LOADING, Stage.EVALUATING):
        claims.enter_stage(claim, stage, progress=0.1)
    done = [("done", "loading"), ("now", "evaluating")]
    assert _listed(client, job) == done + [("to-come", one) for one in rest[1:]]
    plain = client.post("/convert", json=ZOO | {"refinement": None}).json()["id"]
    assert [name for _, name in _listed(client, plain)] == [*all_stages, "evaluating", "packaging"]
    blind = client.post("/convert", json={"source": {"zoo": "resnet18"}}).json()["id"]
    assert [name for _, name in _listed(client, blind)] == [*all_stages, "packaging"]


def test_a_long_jobs_page_reads_few_events_and_the_newest(client, service, claims, job):
    claim = claims.claim(job, worker="w")
    claims.enter_stage(claim, Stage.REFINING, progress=0.1)
    for step in range(1200):
        data = {"step": step, "max_steps": 9999, "loss": 1.0 + step}
        claims.record_progress(claim, progress=0.2, data=data)
    found = service.store.outline_of(service.store.get(job, tenant="default"))
    assert len(found) < 600
    assert [one.kind for one in found[:3]] == ["queued", "started", "stage"]
    assert [one.data["step"] for one in found[-50:]] == list(range(1150, 1200))
    assert "Loss: <data>1200.0000</data>" in checked(client.get(f"/ui/jobs/{job}"))


def test_a_finished_jobs_page_has_result_files_and_snippets(client, service, claims, job):
    finish(service, claims, job, {"architecture": "digits_resnet26"})
    text = checked(client.get(f"/ui/jobs/{job}"))
    digest = hashlib.sha256(json.dumps(REPORT).encode()).hexdigest()
    assert digest in text
    assert REPORT["summary"][0] in text
    assert "<summary>layer1.0" in text
    assert "2.0 KiB kept" in text
    assert f"/jobs/{job}/artifacts/model.safetensors" in text
    assert "Run again</button>" in text


def test_a_failed_job_says_why(client, claims, job):
    error = JobError(code="out_of_memory", message="take a smaller batch")
    claims.fail(claims.claim(job, worker="w"), error)
    text = checked(client.get(f"/ui/jobs/{job}"))
    assert "out_of_memory" in text
    assert "take a smaller batch" in text
    assert "stopped here" not in text  # it had come to no stage
    assert "out_of_memory" in client.get("/ui/jobs").text


def test_jobs_are_filtered_and_paged(client, claims):
    ids = [client.post("/convert", json=ZOO | {"name": f"n{at}"}).json()["id"] for at in range(52)]
    claims.succeed(claims.claim(ids[0], worker="w"), result={"a": 1}, files=[])
    text = checked(client.get("/ui/jobs"))
    assert text.count('name="job"') == 50
    address = re.search(r'href="(/ui/jobs\?cursor=[^"]*)">Older', text)[1].replace("&amp;", "&")
    older = checked(client.get(address))
    assert older.count('name="job"') == 2
    assert "Older" not in older
    found = checked(client.get("/ui/jobs", params={"state": "succeeded"}))
    assert found.count('name="job"') == 1
    assert ids[0] in found
    assert "No job is like that" in client.get("/ui/jobs", params={"text": "nothing"}).text


def test_what_is_not_there_is_a_page_too(client):
    assert "there is no such job" in checked(client.get("/ui/jobs/" + "0" * 32), 404)
    assert "two jobs or more" in checked(client.get("/ui/compare"), 422)
    checked(client.get("/ui/jobs", params={"state": "?"}), 422)
    assert client.get("/ui/assets/../app.py").status_code == 404
    assert client.get("/ui/assets/__init__.py").status_code == 404


def test_a_comparison_marks_the_best(client, claims):
    ids = []
    for percent in (91.0, 92.0):
        ids.append(client.post("/convert", json=ZOO | {"name": f"of {percent}"}).json()["id"])
        result = {"top1_percent": {"refined": percent}}
        claims.succeed(claims.claim(ids[-1], worker="w"), result=result, files=[])
    text = checked(client.get("/ui/compare", params={"job": ids}))
    assert re.search(r'class="best">92.00 % ', text)
    assert "91.00 %" in text
    assert "All of them were asked for alike" in text


def test_assets_are_asked_for_again_and_found_unchanged(client):
    text = client.get("/").text
    names = set(re.findall(r'(?:href|src)="(/ui/assets/[^"]+)"', text))
    assert len(names) >= 5
    for name in names:
        answer = client.get(name)
        assert answer.status_code == 200, name
        again = client.get(name, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_modules_import_only_what_is_there(client):
    for name in ("page", "job", "convert", "keys", "upload", "service", "reference"):
        answer = client.get(f"/ui/assets/{name}.js")
        assert answer.headers["content-type"].startswith("text/javascript")
        for other in re.findall(r'from "\./([^"]+)"', answer.text):
            assert client.get(f"/ui/assets/{other}").status_code == 200


def test_the_reference_loads_nothing_from_elsewhere(client):
    answer = client.get("/docs")
    assert answer.status_code == 200
    assert "http" not in answer.headers["content-security-policy"]
    for address in re.findall(r'(?:href|src)="([^"]+)"', answer.text):
        assert address.startswith("/ui/assets/")
        assert client.get(address).status_code == 200


def test_below_a_proxys_path_addresses_lead_there(application):
    with served(application, root_path="/zoo") as client:
        text = checked(client.get("/"))
        assert set(re.findall(r'(?:href|src)="(/[a-z]*)', text)) == {"/zoo"}
        assert 'aria-current="page">Convert' in text


# --- signing in


@pytest.fixture
def guarding(settings):
    """An application that asks everybody for a key."""
    return create_app(settings.model_copy(update={"require_keys": True}))


@pytest.fixture
def guarded(guarding):
    """Its client."""
    with served(guarding) as client:
        yield client


@pytest.fixture
def keys(guarding):
    return guarding.state.service.keys


@pytest.fixture
def secret(keys) -> str:
    return keys.create(tenant="a", name="k", scopes=[Scope.READ, Scope.WRITE])[1]


def sign_in(client, key: str, wanted: str = "/", **headers):
    headers.setdefault("origin", str(client.base_url).rstrip("/"))
    return client.post("/ui/sign-in", data={"key": key, "next": wanted}, headers=headers)


def test_whoever_has_no_key_is_asked_for_one(guarded):
    answer = guarded.get("/ui/jobs?state=failed")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/ui/sign-in?next=/ui/jobs%3Fstate%3Dfailed"
    checked(guarded.get(answer.headers["location"]))


def test_a_key_opens_every_page_and_the_api(guarded, secret):
    answer = sign_in(guarded, f" {secret} ", "/ui/jobs?state=failed")
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/jobs?state=failed")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "secure" not in cookie  # it is http
    assert "Sign out" in checked(guarded.get("/ui/jobs"))
    assert guarded.get("/jobs").status_code == 200
    assert "lacks the scope" in checked(guarded.get("/ui/keys"))
    origin = {"origin": str(guarded.base_url).rstrip("/")}
    made = guarded.post("/convert", json=ZOO, headers=origin)
    assert made.status_code == 202
    answer = guarded.post("/ui/sign-out", headers=origin)
    assert answer.headers["location"] == "/ui/sign-in"
    assert guarded.get("/jobs").status_code == 401


def test_over_https_the_cookie_stays_there(guarded, secret):
    answer = sign_in(guarded, secret, **{"x-forwarded-proto": "https"})
    assert "secure" in answer.headers["set-cookie"].lower()


@pytest.mark.parametrize("key", ["mz_wrong", "", "  "])
def test_a_wrong_key_is_refused(guarded, key):
    answer = sign_in(guarded, key)
    assert answer.status_code in (401, 422)
    assert "set-cookie" not in answer.headers


def test_who_is_not_known_cannot_send_much_to_the_form(guarded):
    answer = sign_in(guarded, "x" * 20_000)
    assert answer.status_code == 413


def test_signing_in_is_noted_but_not_where_to(guarded, guarding, keys, secret):
    admin = keys.create(tenant="a", name="k", scopes=[Scope.ADMIN])[1]
    sign_in(guarded, "mz_wrong")
    sign_in(guarded, secret, "/ui/jobs?text=private")
    guarded.cookies.clear()
    entries = guarded.get("/audit", headers=bearer(admin)).json()["entries"]
    told = [(one["operation"], one["outcome"], one["target"]) for one in entries]
    assert told == [("sign_in", "succeeded", "/ui/jobs"), ("sign_in", "refused", "/ui/sign-in")]
    assert secret not in str(entries)


def test_a_revoked_key_is_out_at_once(guarded, guarding, keys, secret):
    sign_in(guarded, secret)
    keys.revoke(keys.find(secret).id)
    guarding.state.service.known_keys.forget()
    assert guarded.get("/ui/jobs").status_code == 303
    assert guarded.get("/jobs").status_code == 401


@pytest.mark.parametrize("origin", [None, "http://127.0.0.1:1", "https://evil.example", "null"])
def test_another_site_changes_nothing_with_the_cookie(guarded, secret, origin):
    sign_in(guarded, secret)
    headers = {} if origin is None else {"origin": origin}
    assert guarded.post("/convert", json=ZOO, headers=headers).status_code == 403
    assert guarded.get("/jobs").json()["jobs"] == []
    assert guarded.post("/ui/sign-out", headers=headers).status_code == 403
    assert guarded.post("/convert", json=ZOO, headers=headers | bearer(secret)).status_code == 202


@pytest.mark.parametrize("wanted", ["https://evil.example/", "//evil.example", "/\\evil.example"])
def test_signing_in_leads_nowhere_else(guarded, secret, wanted):
    assert sign_in(guarded, secret, wanted).headers["location"] == "/"


def test_a_cookie_that_does_not_hold_is_as_none(client):
    client.cookies.set("momentum_key", "mz_old")
    assert client.get("/jobs").status_code == 200


def test_tenants_see_their_own_on_the_pages(guarded, keys, secret):
    other = keys.create(tenant="b", name="k", scopes=[Scope.READ, Scope.WRITE])[1]
    job = guarded.post("/convert", json=ZOO, headers=bearer(other)).json()["id"]
    sign_in(guarded, secret)
    assert job not in checked(guarded.get("/ui/jobs"))
    checked(guarded.get(f"/ui/jobs/{job}"), 404)
    assert guarded.get(f"/ui/jobs/{job}/log").status_code == 404
