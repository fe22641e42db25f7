"""`momentum demo`: the main job from end to end, as a user's program would do it over HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from api.supervisor import LocalService, ServiceError
from worker.contract.settings import Settings

ZOO_ENTRY = "digits_resnet26"
REQUEST = {
    "source": {"zoo": ZOO_ENTRY},
    "conversion": {"gamma": 0.5},
    "measurement": {"batch_size": 64},
    "refinement": {"max_steps": 100, "batch_size": 64},
}
MAX_SECONDS = 600.0

Say = Callable[[str], None]


def run_demo(output: Path, *, say: Say) -> bool:
    """Start a service in a temporary folder, convert the shipped network, show the report.

    Args:
        output: folder for weights and report.
        say: takes lines for the person who watches.

    Returns:
        Whether the job succeeded.

    Raises:
        ServiceError: the service does not run.
    """
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="momentum-demo-") as folder:
        # Its own, whatever the environment says: another service's worker must not see its job.
        settings = Settings(data_dir=Path(folder), database_url=None, broker_url=None)
        say("starting broker, relay, worker and API ...")
        with LocalService(settings, host="127.0.0.1", port=0) as service:
            say(f"ready on {service.url}")
            with httpx.Client(base_url=service.url, timeout=30) as client:
                return _convert(client, output, say)


def _convert(client: httpx.Client, output: Path, say: Say) -> bool:
    say(f"POST /convert  {json.dumps(REQUEST)}")
    answer = client.post("/convert", json=REQUEST).raise_for_status()
    location = answer.headers["Location"]
    say(f"  202, Location: {location}")
    job = _follow(client, location, say)
    if job["state"] != "succeeded":
        say(f"the job has {job['state']}: {job['error']}")
        return False
    weights = output / "model.safetensors"
    report, page = output / "report.json", output / "report.html"
    _download(client, job["links"]["weights"], weights)
    _download(client, job["links"]["report"], report)
    _download(client, job["links"]["report"] + ".html", page)
    _show(json.loads(report.read_text()))
    say(f"weights: {weights}  (momentum_core.load({str(weights)!r}) gives the network back)")
    say(f"report:  {page}  (figures: {report})")
    return True


def _follow(client: httpx.Client, location: str, say: Say) -> dict[str, Any]:
    """Poll the job until its state is final; say each event once."""
    seen, deadline = 0, time.monotonic() + MAX_SECONDS
    while time.monotonic() < deadline:
        page = client.get(f"{location}/events", params={"after": seen}).raise_for_status().json()
        job: dict[str, Any] = client.get(location).raise_for_status().json()
        for event in page["events"]:
            seen = event["number"]
            say(f"  {_line(event)}")
        if job["state"] in ("succeeded", "failed", "cancelled") and not page["events"]:
            return job
        time.sleep(0.5)
    raise ServiceError(f"the job has not ended after {MAX_SECONDS:g} s; see {location}")


def _line(event: dict[str, Any]) -> str:
    figures = event["data"]
    if event["kind"] == "stage":
        return f"{figures['stage']} ..."
    if event["kind"] == "progress" and "loss" in figures:
        return f"  step {figures['step']}/{figures['max_steps']}  loss {figures['loss']:.4f}"
    if event["kind"] == "progress":
        if "num_images" not in figures:
            return "  ..."
        return f"  {figures['num_images']} of {figures['total_images']} images"
    return str(event["kind"])


def _download(client: httpx.Client, url: str, target: Path) -> None:
    answer = client.get(url).raise_for_status()
    digest = base64.b64encode(hashlib.sha256(answer.content).digest()).decode()
    if answer.headers["Repr-Digest"] != f"sha-256=:{digest}:":
        raise ServiceError(f"{url} did not arrive whole; try again")
    target.write_bytes(answer.content)


def _show(report: dict[str, Any]) -> None:
    memory, accuracy = report["memory"], report["accuracy"]
    before, after = memory["original"], memory["momentum"]
    table = Table(title=f"{report['source']['architecture']}, gamma {_gamma(report)}")
    for heading in ("", "original", "converted", "refined"):
        table.add_column(heading, justify="right" if heading else "left")
    parameters = f"{report['source']['num_parameters']:,}"
    table.add_row("parameters", parameters, parameters, parameters)
    table.add_row(
        f"top-1 of {accuracy['num_images']} test images",
        *(
            f"{accuracy[model]['top1_percent']:.2f} %"
            for model in ("original", "converted", "refined")
        ),
    )
    for label, name in (("activation memory", "activation_bytes"), ("peak memory", "peak_bytes")):
        table.add_row(
            f"{label}, batch {memory['batch_size']}",
            f"{before[name] / 1024:,.0f} KiB",
            "",
            f"{after[name] / 1024:,.0f} KiB ({memory['ratios'][name]:.2f}x)",
        )
    table.add_row("time of a training step", "1.00x", "", f"{memory['ratios']['seconds']:.2f}x")
    Console().print(table)


def _gamma(report: dict[str, Any]) -> str:
    gammas = [run["gamma"] for run in report["plan"]["runs"]]
    written = [f"{gamma['numerator']}/{gamma['denominator']}" for gamma in gammas]
    return ", ".join(dict.fromkeys(written))
