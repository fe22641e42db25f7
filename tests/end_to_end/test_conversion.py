"""From a checkpoint to momentum weights and a memory report, through the whole service."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from momentum_core.checkpoint import read_dataset
from tests.conftest import ROOT
from worker.zoo import SHIPPED_FOLDER

CIFAR = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
EVALUATE = """
import sys
from pathlib import Path
import momentum_core
from momentum_core.bundle import read_config
from momentum_core.checkpoint import read_dataset
from momentum_core.refinement import evaluate
from safetensors.torch import save_file

weights, data, output = sys.argv[1:]
dataset = read_dataset(Path(data))
preprocessing = read_config(weights).details.preprocessing
model = momentum_core.load(weights)
save_file({"logits": evaluate(model, dataset.x_test, dataset.y_test, preprocessing).logits}, output)
"""


def download(service, url, target):
    answer = service.client.get(url)
    assert answer.status_code == 200, answer.text
    digest = base64.b64encode(hashlib.sha256(answer.content).digest()).decode()
    assert answer.headers["repr-digest"] == f"sha256=:{digest}:".replace("sha256", "sha-256")
    target.write_bytes(answer.content)
    return target


# Half a minute each on a quiet machine; two threads on a busy one take many times as long.
@pytest.mark.timeout(1200)
@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("architecture", "file", "top1", "at_least", "steps"),
    [
        ("cifar_resnet20", "resnet20-12fca82f.th", 91.28, 88.5, 20),
        pytest.param(
            *("cifar_resnet56", "resnet56-4bfd9763.th", 93.06, 90.0, 0), marks=pytest.mark.slow
        ),
    ],
)
def test_a_published_checkpoint_keeps_its_accuracy_and_needs_less_memory(
    service, shared_data, tmp_path, architecture, file, top1, at_least, steps
):
    request = {
        "preprocessing": CIFAR,
        "refinement": {"max_steps": steps, "calibrate": False} if steps else None,
        "measurement": {"repeats": 1, "rivals": False, "predict": False},
    }
    with (
        (shared_data / file).open("rb") as weights,
        (shared_data / "cifar10.npz").open("rb") as data,
    ):
        answer = service.client.post(
            "/convert",
            files={"checkpoint": weights, "data": data, "request": ("", json.dumps(request))},
        )
    assert answer.status_code == 202, answer.text
    job = service.wait_for(answer.headers["Location"], "succeeded", seconds=1000)

    report = json.loads(download(service, job["links"]["report"], tmp_path / "r").read_text())
    assert report["source"]["architecture"] == architecture
    assert report["source"]["architecture_found"]
    assert report["source"]["format"] == "torch_legacy"
    accuracy = report["accuracy"]
    assert accuracy["num_images"] == 5000
    assert accuracy["original"]["top1_percent"] == pytest.approx(top1, abs=0.05)
    assert accuracy["converted"]["top1_percent"] >= at_least
    memory = report["memory"]
    assert memory["momentum"]["activation_bytes"] < 0.4 * memory["original"]["activation_bytes"]
    assert memory["momentum"]["peak_bytes"] < 0.45 * memory["original"]["peak_bytes"]
    if steps == 0:
        return
    assert accuracy["refined"]["agreement_percent"] > accuracy["converted"]["agreement_percent"]
    weights_file = download(service, job["links"]["weights"], tmp_path / "w")
    logits = download(
        service, job["links"]["self"] + "/artifacts/evaluation.safetensors", tmp_path / "e"
    )
    subprocess.run(
        [sys.executable, "-c", EVALUATE, weights_file, shared_data / "cifar10.npz", tmp_path / "l"],
        cwd=ROOT,
        check=True,
    )
    again, evaluated = load_file(tmp_path / "l")["logits"], load_file(logits)["refined"]
    assert (again - evaluated).abs().max() <= 1e-4


def test_the_shipped_network_goes_all_the_way(service, tmp_path):
    location = service.submit(
        {"source": {"zoo": "digits_resnet26"}, "refinement": {"max_steps": 20}}
    )
    job = service.wait_for(location, "succeeded", seconds=240)
    assert job["result"]["top1_percent"]["refined"] > 98
    assert job["attempt"] == 1
    kinds = [event["kind"] for event in service.client.get(f"{location}/events").json()["events"]]
    assert kinds[:2] == ["queued", "started"]
    assert kinds[-1] == "succeeded"
    download(service, job["links"]["weights"], tmp_path / "w")
    bundle = download(service, job["links"]["bundle"], tmp_path / "b")
    assert "digits_resnet26-momentum/config.json" in zipfile.ZipFile(bundle).namelist()
    original = download(service, job["links"]["weights"] + "?form=original", tmp_path / "o")
    assert load_file(original).keys() == load_file(tmp_path / "w").keys()


def test_a_registered_data_set_is_used_by_name(service):
    """Put there while the service runs; its images have no labels."""
    folder = Path(service.environment["MOMENTUM_DATASETS_DIR"]) / "digits"
    folder.mkdir()
    shown = read_dataset(SHIPPED_FOLDER / "digits.npz").x_train[:60]
    for number, image in enumerate(shown):
        Image.fromarray(image[..., 0]).save(folder / f"{number:02}.png")
    deadline = time.monotonic() + 60
    while not service.client.get("/datasets").json()["datasets"]:
        assert time.monotonic() < deadline, "the worker looks every 15 seconds"
        time.sleep(0.2)
    location = service.submit(
        {
            "source": {"zoo": "digits_resnet26"},
            "data": {"registered": "digits"},
            "refinement": {"max_steps": 2},
            "measurement": {"repeats": 1, "rivals": False, "predict": False},
        }
    )
    job = service.wait_for(location, "succeeded", seconds=240)
    report = service.client.get(job["links"]["report"]).json()
    data = {name: report["data"][name] for name in ("origin", "name", "format", "num_classes")}
    assert data == {"origin": "registered", "name": "digits", "format": "folder", "num_classes": 0}
    assert (report["data"]["num_train"], report["data"]["num_test"]) == (48, 12)
    assert report["refinement"]["metric"] == "agreement"
    answer = service.client.post(
        "/convert", json={"source": {"zoo": "digits_resnet26"}, "data": {"registered": "letters"}}
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_dataset")


def test_only_the_workers_children_ever_load_torch(service):
    location = service.submit(
        {
            "source": {"zoo": "digits_resnet26"},
            "conversion": {"plan_memory": False},
            "measurement": {"repeats": 1, "rivals": False, "predict": False},
            "refinement": {"max_steps": 1, "calibrate": False},
        }
    )
    service.wait_for(location, "succeeded", seconds=240)
    holders = [pid for pid in service.processes() if "libtorch" in service.of(pid, "maps")]
    # Of the worker that converts, and of the one that inspects, which may be on its way.
    assert 1 <= len(holders) <= 2
    assert all("spawn_main" in service.of(pid, "cmdline") for pid in holders)


def test_a_zoo_entry_without_network_says_which_file_to_put_where(service):
    location = service.submit({"source": {"zoo": "resnet18"}})
    error = service.wait_for(location, "failed", seconds=240)["error"]
    assert error["code"] == "zoo_unavailable"
    assert "resnet18-f37072fd.pth" in error["message"]


def test_an_inspection_says_what_a_job_does(service):
    """Asked of the real service, whose inspection worker answers within seconds."""
    request = {
        "source": {"zoo": "digits_resnet26"},
        "refinement": None,
        "measurement": {"repeats": 1, "rivals": False},
    }
    answer = service.client.post("/inspect", json=request)
    assert answer.status_code in (200, 202), answer.text
    found = service.wait_for_inspection(answer.json()["links"]["self"], seconds=120)
    assert found["state"] == "answered", found["error"]
    job = service.wait_for(service.submit(request), "succeeded", seconds=300)
    report = service.client.get(job["links"]["report"]).json()
    assert found["answer"]["plan"] == report["plan"]
    assert found["answer"]["memory"]["budgets"] == report["prediction"]["budgets"]
    # The next one knows what the job has measured.
    again = service.client.post("/inspect", json=request).json()
    found = service.wait_for_inspection(again["links"]["self"], seconds=120)
    assert "finished jobs" in found["answer"]["time"]["basis"]
