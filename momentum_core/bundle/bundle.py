"""Save and load a momentum model as one safetensors file, which says itself what it is.

The file's metadata carry the configuration under the key `momentum_zoo`. The weights have the
original architecture's names, so that other programs can use them too.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from momentum_core.architectures import build
from momentum_core.config import ConversionConfig, Preprocessing
from momentum_core.conversion import (
    RunRule,
    convert,
    load_original_state_dict,
    original_state_dict,
    plan_architecture,
    plan_of,
)
from momentum_core.errors import BundleError, MomentumError

WEIGHTS_FILE = "model.safetensors"
_METADATA_KEY = "momentum_zoo"
_SCHEMA = 2
_READABLE = (1, 2)
"""1 has no rules."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleConfig:
    """What it takes to build the model again."""

    architecture: str
    """One of `momentum_core.checkpoint.ARCHITECTURES`."""

    num_classes: int
    """Outputs of the last layer."""

    conversion: ConversionConfig
    """Gamma and scheme."""

    preprocessing: Preprocessing | None = None
    """How pixels become the network's input, if known."""

    rules: tuple[RunRule, ...] | None = None
    """The rule of each run, where `conversion` alone does not give it: after calibration."""

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as JSON values."""
        return {
            "schema": _SCHEMA,
            "architecture": self.architecture,
            "num_classes": self.num_classes,
            "conversion": asdict(self.conversion),
            "preprocessing": self.preprocessing and asdict(self.preprocessing),
            "rules": self.rules and [rule.to_json() for rule in self.rules],
        }


def save_weights(path: Path, converted: nn.Module, config: BundleConfig) -> None:
    """Write a converted model's weights with its configuration.

    Args:
        path: the safetensors file to write.
        converted: the model, as `convert` made it.
        config: what `load` builds the model from; its rules are those of the model's plan.

    Raises:
        ConversionError: the model was not converted.
    """
    weights = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in original_state_dict(converted).items()
    }
    plan = plan_of(converted)
    rules = tuple(run.rule for run in plan.runs)
    by_config = tuple(run.rule for run in plan.with_config(config.conversion).runs)
    config = replace(config, rules=None if rules == by_config else rules)
    save_file(weights, path, metadata={_METADATA_KEY: json.dumps(config.to_json())})


def read_config(path: Path | str) -> BundleConfig:
    """Return the configuration of a saved momentum model.

    Args:
        path: the safetensors file, or the folder that holds it as `model.safetensors`.

    Raises:
        BundleError: it is not one.
    """
    file = _weights_file(path)
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{file} cannot be read: {error}; download it again") from None
    if _METADATA_KEY not in metadata:
        raise BundleError(
            f"{file} has no {_METADATA_KEY!r} among its metadata, so it was not made by a "
            "conversion; give the file that GET /jobs/{id}/weights returned"
        )
    try:
        return _parse(json.loads(metadata[_METADATA_KEY]))
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"the configuration in {file} is damaged: {error}") from None


def load(path: Path | str, *, device: torch.device | str = "cpu") -> nn.Module:
    """Return the momentum model of a bundle, in evaluation mode.

    Args:
        path: the safetensors file, or the folder that holds it as `model.safetensors`.
        device: where its weights go.

    Raises:
        BundleError: it cannot be loaded.
    """
    config, file = read_config(path), _weights_file(path)
    try:
        plan = plan_architecture(
            config.architecture, num_classes=config.num_classes, config=config.conversion
        )
        if config.rules is not None:
            plan = plan.with_rules(config.rules)
        network = build(config.architecture, num_classes=config.num_classes)
        model = convert(network, plan=plan)
        with safe_open(file, framework="pt") as opened:
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        load_original_state_dict(model, weights)
    except MomentumError as error:
        raise BundleError(f"{file} cannot be loaded: {error}") from error
    return model.to(device).eval()


def _weights_file(path: Path | str) -> Path:
    path = Path(path)
    return path / WEIGHTS_FILE if path.is_dir() else path


def _parse(values: dict[str, Any]) -> BundleConfig:
    if values["schema"] not in _READABLE:
        raise ValueError(f"its schema is {values['schema']!r}, this version reads {_READABLE}")
    given, rules = values["preprocessing"], values.get("rules")
    return BundleConfig(
        architecture=values["architecture"],
        num_classes=values["num_classes"],
        conversion=ConversionConfig(**values["conversion"]),
        preprocessing=given and Preprocessing(mean=tuple(given["mean"]), std=tuple(given["std"])),
        rules=None if rules is None else tuple(RunRule.from_json(rule) for rule in rules),
    )
