"""The last stage of a job: its files, each checked by loading it again before it is published."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from momentum_core.bundle import BundleDetails, load, save, save_weights, write_weights
from momentum_core.conversion import original_state_dict
from momentum_core.errors import BundleError
from momentum_core.refinement import evaluate
from worker.contract.artifact_names import (
    BUNDLE_FILE,
    EVALUATION_FILE,
    HISTORY_FILE,
    ORIGINAL_FILE,
    PAGE_FILE,
    REPORT_FILE,
    TABLE_FILE,
    WEIGHTS_FILE,
)
from worker.contract.file_store import FileStore
from worker.contract.job import Artifact
from worker.model_source import LoadedSource
from worker.report import Accuracy

RECIPE_FILE = "recipe.json"

MAX_EVALUATION_BYTES = 64 << 20
"""Logits that are kept as an artifact; of larger evaluations the first images only."""

NUM_VERIFIED_IMAGES = 250
MAX_LOGIT_DIFFERENCE = 1e-4
"""Between the network and its saved form, loaded again."""

_MEDIA_TYPES = {
    WEIGHTS_FILE: "application/vnd.safetensors",
    ORIGINAL_FILE: "application/vnd.safetensors",
    EVALUATION_FILE: "application/vnd.safetensors",
    REPORT_FILE: "application/json",
    PAGE_FILE: "text/html",
    TABLE_FILE: "text/csv",
    HISTORY_FILE: "application/json",
    BUNDLE_FILE: "application/zip",
}

_NOT_BUNDLED = (WEIGHTS_FILE, ORIGINAL_FILE, EVALUATION_FILE, BUNDLE_FILE)
"""Artifacts that do not go into the bundle; it has the weights anyway."""

_SAME_DATE = (1980, 1, 1, 0, 0, 0)
"""Of every file in a zip, so that equal contents are equal bytes."""


def package_weights(
    folder: Path,
    momentum: nn.Module,
    source: LoadedSource,
    images: Tensor,
    accuracy: Accuracy | None,
) -> float:
    """Write the weights in both forms, and the logits; return how far the loaded ones are off.

    Args:
        folder: where the files go.
        momentum: the network as it is to be published.
        source: what it was made of.
        images: the measured batch, shape (B, C, H, W).
        accuracy: the evaluations, if there was data.

    Raises:
        BundleError: `verification_failed`, when the saved network gives other logits.
    """
    save_weights(folder / WEIGHTS_FILE, momentum, _details(source))
    difference = _difference(load(folder / WEIGHTS_FILE, device=images.device), momentum, images)
    if accuracy is not None:
        _save_logits(folder / EVALUATION_FILE, accuracy)
        evaluated = _difference_of_logits(folder / WEIGHTS_FILE, images.device, accuracy, source)
        difference = max(difference, evaluated)
    _check(difference, WEIGHTS_FILE)
    write_weights(folder / ORIGINAL_FILE, original_state_dict(momentum), {"format": "pt"})
    return difference


def package_bundle(
    folder: Path,
    momentum: nn.Module,
    source: LoadedSource,
    images: Tensor,
    request: Mapping[str, Any],
    summary: Mapping[str, Any],
) -> None:
    """Write the bundle as a zip, with the report and the request in it.

    Args:
        folder: holds the report; the zip goes there.
        momentum: the network as it is to be published.
        source: what it was made of.
        images: the measured batch, shape (B, C, H, W).
        request: what was asked for, to ask again.
        summary: what the job's record shows.

    Raises:
        BundleError: `verification_failed`, when the loaded bundle gives other logits.
    """
    name = f"{source.facts.architecture}-momentum"
    further = {
        one: (folder / one).read_bytes()
        for one in _MEDIA_TYPES
        if one not in _NOT_BUNDLED and (folder / one).exists()
    }
    further[RECIPE_FILE] = (json.dumps(request, indent=2) + "\n").encode()
    save(momentum, folder / name, _details(source, _results(summary)), further_files=further)
    _check(_difference(load(folder / name, device=images.device), momentum, images), BUNDLE_FILE)
    _zip(folder / name, folder / BUNDLE_FILE)


def store_artifacts(folder: Path, files: FileStore) -> list[Artifact]:
    """Move a job's files into the store, and describe them."""
    artifacts = []
    for name, media_type in _MEDIA_TYPES.items():
        if (folder / name).exists():
            stored = files.put(folder / name)
            artifacts.append(
                Artifact(
                    name=name,
                    sha256=stored.sha256,
                    num_bytes=stored.num_bytes,
                    media_type=media_type,
                )
            )
    return artifacts


def _details(source: LoadedSource, results: Mapping[str, str] | None = None) -> BundleDetails:
    return BundleDetails(
        architecture=source.facts.architecture,
        num_classes=source.facts.num_classes,
        preprocessing=source.preprocessing,
        source=source.to_json(),
        results=results or {},
    )


def _results(summary: Mapping[str, Any]) -> dict[str, str]:
    results = {}
    for name in ("activation_bytes", "peak_bytes"):
        before, after = summary[name]["original"], summary[name]["momentum"]
        label = name.removesuffix("_bytes")
        results[f"{label} memory of a training step, before and after"] = (
            f"{before / 2**20:.2f} MiB, {after / 2**20:.2f} MiB ({after / before:.2f}x)"
        )
    results["time of a training step"] = f"{summary['step_time_ratio']:.2f}x"
    images = f"{summary['num_test_images']} {'made-up' if summary['synthetic'] else 'test'} images"
    for name, label in (("top1", "top-1"), ("agreement", "agreement with the original")):
        for model, percent in (summary[f"{name}_percent"] or {}).items():
            results[f"{label} of {images}, {model}"] = f"{percent:.2f} %"
    return results


@torch.no_grad()
def _difference(saved: nn.Module, momentum: nn.Module, images: Tensor) -> float:
    return float((saved(images) - momentum.eval()(images)).abs().max())


def _difference_of_logits(
    path: Path, device: torch.device, accuracy: Accuracy, source: LoadedSource
) -> float:
    assert source.dataset is not None
    assert source.preprocessing is not None
    shown = source.dataset.x_test[:NUM_VERIFIED_IMAGES]
    logits = evaluate(load(path, device=device), shown, None, source.preprocessing).logits
    return float((logits - accuracy.refined.logits[: len(shown)]).abs().max())


def _check(difference: float, name: str) -> None:
    if not difference <= MAX_LOGIT_DIFFERENCE:  # not a number is no agreement
        raise BundleError(
            f"the saved {name} gives logits that differ by {difference:g} from the network's own, "
            "so it is not published; try again, and report it if it happens again",
            code="verification_failed",
        )


def _save_logits(path: Path, accuracy: Accuracy) -> None:
    evaluations = {
        "original": accuracy.original,
        "converted": accuracy.converted,
        "refined": accuracy.refined,
    }
    row_bytes = 4 * accuracy.refined.logits.shape[1] * len(evaluations)
    kept = max(1, MAX_EVALUATION_BYTES // row_bytes)
    logits = {name: one.logits for name, one in evaluations.items() if one is not None}
    save_file({name: one[:kept].contiguous() for name, one in logits.items()}, path)


def _zip(folder: Path, target: Path) -> None:
    # Weights hardly compress: the files are stored as they are.
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(folder.iterdir()):
            member = zipfile.ZipInfo(f"{folder.name}/{path.name}", _SAME_DATE)
            member.external_attr = 0o644 << 16
            with path.open("rb") as source, archive.open(member, "w", force_zip64=True) as written:
                while piece := source.read(1 << 20):
                    written.write(piece)
