"""`momentum demo`: the main job from end to end, as a user's program would do it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from api.client import ApiError, Client
from api.commands.job_display import event_line
from api.commands.output import (
    print_table,
)
from api.supervisor import LocalService, ServiceError
from api.words import size
from worker.contract.settings import Settings

SOURCE = "zoo:digits_resnet26"
OPTIONS: dict[str, Any] = {
    "gamma": 0.5,
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
        ServiceError: the service does not run, or refuses the job.
    """
    with tempfile.TemporaryDirectory(prefix="momentum-demo-") as folder:
        # Its own, whatever the environment says: another service's worker must not see its job.
        settings = Settings(
            data_dir=Path(folder), database_url=None, broker_url=None, store_url=None
        )
        say("starting broker, relay, workers and API ...")
        with LocalService(settings, host="127.0.0.1", port=0) as service:
            say(f"ready on {service.url}")
            try:
                with Client(service.url) as client:
                    return _convert(client, output, say)
            except ApiError as error:
                raise ServiceError(str(error)) from error


def _convert(client: Client, output: Path, say: Say) -> bool:
    say(f"convert {SOURCE} {json.dumps(OPTIONS)}")
    job = client.convert(SOURCE, **OPTIONS)
    job.wait(on_event=lambda event: say(f"  {event_line(event)}"), timeout_seconds=MAX_SECONDS)
    if job.state != "succeeded":
        say(f"the job has {job.state}: {job.error}")
        return False
    names = ("model.safetensors", "report.html", "report.json")
    weights, page, report = job.download_all(output, names=names)
    _show(json.loads(report.read_text()), say)
    say(f"weights: {weights}  (momentum_core.load({str(weights)!r}) gives the network back)")
    say(f"report:  {page}  (figures: {report})")
    return True


def _show(report: dict[str, Any], say: Say) -> None:
    memory, accuracy = report["memory"], report["accuracy"]
    before, after = memory["original"], memory["momentum"]
    say(f"\n{report['source']['architecture']}, gamma {_gamma(report)}")
    parameters = f"{report['source']['num_parameters']:,}"
    percents = (
        f"{accuracy[model]['top1_percent']:.2f} %" for model in ("original", "converted", "refined")
    )
    rows = [
        ("parameters", parameters, parameters, parameters),
        (f"top-1 of {accuracy['num_images']} test images", *percents),
    ]
    for label, name in (("activation memory", "activation_bytes"), ("peak memory", "peak_bytes")):
        ratio = f"{memory['ratios'][name]:.2f}x"
        sizes = (size(before[name]), "", f"{size(after[name])} ({ratio})")
        rows.append((f"{label}, batch {memory['batch_size']}", *sizes))
    seconds = f"{memory['ratios']['seconds']:.2f}x"
    rows.append(("time of a training step", "1.00x", "", seconds))
    print_table(("", "original", "converted", "refined"), rows, numbers=(1, 2, 3))
    say("")


def _gamma(report: dict[str, Any]) -> str:
    gammas = [run["gamma"] for run in report["plan"]["runs"]]
    written = [f"{gamma['numerator']}/{gamma['denominator']}" for gamma in gammas]
    return ", ".join(dict.fromkeys(written))
