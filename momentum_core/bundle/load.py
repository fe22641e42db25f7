"""From a bundle's folder, or its weights file alone, back to the momentum model."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from momentum_core.architectures import build_named
from momentum_core.bundle.configuration import BundleConfig
from momentum_core.bundle.folder import CONFIG_FILE, read_folder
from momentum_core.bundle.weights_file import WEIGHTS_FILE, read_metadata, read_weights
from momentum_core.conversion import convert
from momentum_core.errors import BundleError, MomentumError


def read_config(path: Path | str) -> BundleConfig:
    """Return what a saved momentum model says of itself, without building it.

    Args:
        path: a bundle's folder, or the safetensors file alone.

    Raises:
        BundleError: it is not one, it is damaged, or a later version wrote it.
    """
    path = Path(path)
    if (path / CONFIG_FILE).exists():
        return read_folder(path)
    return read_metadata(path / WEIGHTS_FILE if path.is_dir() else path)


def load(
    path: Path | str,
    *,
    original: nn.Module | None = None,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Return the momentum model of a bundle, in evaluation mode.

    Nothing in the bundle is run: weights are safetensors, everything else is JSON, and an
    architecture's name is looked up in a list.

    Args:
        path: the folder, or the safetensors file alone.
        original: a fresh module of the original architecture, for a bundle without a name of one;
            it stays as it is.
        device: where the weights go.

    Raises:
        BundleError: it cannot be loaded.
    """
    path = Path(path)
    config = read_config(path)
    weights = read_weights(path / WEIGHTS_FILE if path.is_dir() else path)
    try:
        network = _network(config, original, path)
        _fill(network, weights, config.module_formats, path)
        model = convert(network, plan=config.plan)
    except BundleError:
        raise
    except (MomentumError, AttributeError) as error:
        raise BundleError(f"{path} cannot be loaded: {error}") from error
    return model.to(device).eval()


def _network(config: BundleConfig, original: nn.Module | None, path: Path) -> nn.Module:
    if original is not None:
        return copy.deepcopy(original)
    details = config.details
    if details.architecture is None:
        raise BundleError(
            f"{path} does not name its architecture; give a fresh module of the original one: "
            "load(path, original=...)",
            code="missing_original",
        )
    return build_named(details.architecture, num_classes=details.num_classes)


def _fill(
    network: nn.Module, weights: Mapping[str, Tensor], formats: Mapping[str, int], path: Path
) -> None:
    _adopt_types(network, weights)
    state = OrderedDict(weights)
    own = getattr(network.state_dict(), "_metadata", {})
    # Files of the first schemas say nothing of formats: there they are those of the network.
    vars(state)["_metadata"] = {
        name: {"version": formats.get(name, 1)} if formats else one for name, one in own.items()
    }
    try:
        network.load_state_dict(state, strict=True)
    except (RuntimeError, ValueError) as error:
        raise BundleError(
            f"{path} cannot be loaded: its weights are not those of "
            f"{type(network).__qualname__}: {error}",
            code="architecture_mismatch",
        ) from None


def _adopt_types(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give the network the weights' types: loading would convert them, and change the logits."""
    types = {one.dtype for one in weights.values() if one.is_floating_point()}
    if len(types) == 1:
        network.to(types.pop())
    for name, tensor in network.state_dict(keep_vars=True).items():
        given = weights.get(name)
        if given is not None and given.is_floating_point() and tensor.is_floating_point():
            tensor.data = tensor.data.to(given.dtype)
