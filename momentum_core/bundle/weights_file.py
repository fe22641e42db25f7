"""A momentum model as one safetensors file, which says itself what it is.

The file's metadata carry the configuration under the key `momentum_zoo`. The weights have the
original architecture's names, so that other programs can use them too.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from momentum_core.architectures import build_named
from momentum_core.bundle.configuration import BundleConfig, library_versions, parse
from momentum_core.bundle.details import BundleDetails
from momentum_core.conversion import (
    ConversionPlan,
    PlannedRun,
    RunRule,
    original_state_dict,
    plan_of,
)
from momentum_core.durable_files import move_file
from momentum_core.errors import ArchitectureError, BundleError
from momentum_core.reversible import MomentumStack

WEIGHTS_FILE = "model.safetensors"
_METADATA_KEY = "momentum_zoo"


def save_weights(path: Path, converted: nn.Module, details: BundleDetails) -> BundleConfig:
    """Write a converted model's weights with its configuration; the file appears whole or not.

    Args:
        path: the safetensors file to write.
        converted: the model, as `convert` or `calibrate` made it, trained or not.
        details: what the model does not say itself.

    Returns:
        What was written beside the weights.

    Raises:
        ConversionError: the model was not converted, or a block returns what cannot be stored.
        BundleError: the weights are not of the architecture that `details` names.
    """
    weights, config = describe(converted, details)
    # One entry only: the order of more is random, and equal models would be unequal files.
    metadata = {_METADATA_KEY: json.dumps(config.to_json(), allow_nan=False)}
    write_weights(path, weights, metadata)
    return config


def describe(
    converted: nn.Module, details: BundleDetails
) -> tuple[Mapping[str, Tensor], BundleConfig]:
    """Return a converted model's weights by their original names, and its configuration.

    Raises:
        ConversionError: the model was not converted.
        BundleError: the weights are not of the architecture that `details` names.
    """
    plan = _plan_as_it_is(converted)
    weights = original_state_dict(converted)
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            raise BundleError(
                f"the model's state holds {name!r}, a {type(value).__qualname__}; only tensors can "
                "be saved: remove it (get_extra_state) and set it again after loading"
            )
    formats = getattr(weights, "_metadata", {})
    if details.architecture is not None:
        _check_architecture(details.architecture, details.num_classes, weights)
    return weights, BundleConfig(
        details=details,
        plan=plan,
        module_formats={
            name: one["version"] for name, one in formats.items() if one.get("version", 1) != 1
        },
        versions=library_versions(),
    )


def write_weights(path: Path, weights: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file that appears whole or not at all."""
    stored: dict[str, Tensor] = {}
    places: set[tuple[int, int]] = set()
    for name, tensor in weights.items():
        # Tied weights stand in the file under each of their names.
        flat = tensor.detach().cpu().contiguous()
        place = (flat.untyped_storage().data_ptr(), flat.numel())
        shares = place in places or flat.untyped_storage().nbytes() != flat.nbytes
        stored[name] = flat.clone() if shares else flat
        places.add(place)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    try:
        save_file(stored, temporary, metadata=metadata)
        move_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.

    Raises:
        BundleError: it cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from None


def read_metadata(path: Path) -> BundleConfig:
    """Return the configuration that a weights file carries.

    Raises:
        BundleError: it has none, or one that cannot be used.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from None
    if _METADATA_KEY not in metadata:
        raise BundleError(
            f"{path} has no {_METADATA_KEY!r} among its metadata, so it was not made by a "
            "conversion; give the file that GET /jobs/{id}/weights returned"
        )
    return parse(metadata[_METADATA_KEY], f"the configuration in {path}")


def _unreadable(path: Path, error: Exception) -> BundleError:
    return BundleError(f"{path} cannot be read: {error}; download it again")


def _check_architecture(name: str, num_classes: int | None, weights: Mapping[str, Tensor]) -> None:
    try:
        own = build_named(name, num_classes=num_classes).state_dict()
    except ArchitectureError as error:
        raise BundleError(str(error), code=error.code) from error
    differing = [
        key
        for key in [*own, *(key for key in weights if key not in own)]
        if key not in own or key not in weights or own[key].shape != weights[key].shape
    ]
    if differing:
        raise BundleError(
            f"the weights are not those of {name}: {differing[0]} is missing or has another shape "
            f"({len(differing)} differ); name the architecture that was converted, or leave it out "
            "and give the model when loading",
            code="architecture_mismatch",
        )


def _plan_as_it_is(converted: nn.Module) -> ConversionPlan:
    """Return the model's plan, with the numbers that its runs have now: they may be trained."""
    plan = plan_of(converted)
    return plan.with_rules(_rule_as_it_is(run, converted) for run in plan.runs)


def _rule_as_it_is(run: PlannedRun, converted: nn.Module) -> RunRule:
    stack = converted.get_submodule(f"{run.name}.stack")
    assert isinstance(stack, MomentumStack)
    now = (stack.coefficients, stack.offsets, stack.predictors)
    if stack.coefficients is None or all(map(_equal, now, run.rule.tensors())):
        return run.rule
    return replace(
        run.rule,
        coefficients=_numbers(stack.coefficients),
        offsets=None if stack.offsets is None else _numbers(stack.offsets),
        predictors=None if stack.predictors is None else _numbers(stack.predictors),
    )


def _equal(now: Tensor | None, planned: Tensor | None) -> bool:
    if now is None or planned is None:
        return now is planned
    return torch.equal(now.detach().cpu(), planned)


def _numbers(tensor: Tensor) -> tuple[float | tuple[float, ...], ...]:
    return tuple(tuple(row) if isinstance(row, list) else row for row in tensor.detach().tolist())
