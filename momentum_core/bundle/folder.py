"""A momentum model as a folder in the layout of the Hugging Face hub.

config.json          what it takes to build the model again
model.safetensors    the weights under the original's names; the file loads alone, too
README.md            the model card
load_example.py      loads the folder and prints logits
SHA256SUMS           for `sha256sum --check`
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from momentum_core.bundle.configuration import BundleConfig, parse
from momentum_core.bundle.details import BundleDetails
from momentum_core.bundle.model_card import load_example, model_card
from momentum_core.bundle.weights_file import WEIGHTS_FILE, save_weights
from momentum_core.durable_files import sync_folder, write_file
from momentum_core.errors import BundleError

CONFIG_FILE = "config.json"
SUMS_FILE = "SHA256SUMS"
CARD_FILE = "README.md"
EXAMPLE_FILE = "load_example.py"
_MOST_CONFIG_BYTES = 64 << 20


def save(
    converted: nn.Module,
    folder: Path | str,
    details: BundleDetails,
    *,
    further_files: Mapping[str, bytes] | None = None,
) -> BundleConfig:
    """Write a converted model as a folder, which appears whole or not at all.

    Args:
        converted: the model, as `convert` or `calibrate` made it, trained or not.
        folder: must not exist, or be empty; its parent exists.
        details: what the model does not say itself.
        further_files: contents of more files by their names, such as a report.

    Returns:
        What `config.json` says.

    Raises:
        ConversionError: the model was not converted, or a block returns what cannot be stored.
        BundleError: the folder holds something, or the weights are not of the named architecture.
    """
    folder = Path(folder).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BundleError(f"{folder} exists and is not empty; give a new folder")
    if not folder.parent.is_dir():
        raise BundleError(f"{folder.parent} is no folder; make it first")
    texts = dict(further_files or {})
    taken = {CONFIG_FILE, WEIGHTS_FILE, CARD_FILE, EXAMPLE_FILE, SUMS_FILE} & texts.keys()
    if taken or any(Path(name).name != name for name in texts):
        raise BundleError(
            f"further_files cannot have the names {', '.join(sorted(taken)) or 'of other folders'}"
        )
    temporary = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
    try:
        temporary.mkdir()
        config = save_weights(temporary / WEIGHTS_FILE, converted, details)
        texts |= {
            CONFIG_FILE: _json(config),
            CARD_FILE: model_card(config, details).encode(),
            EXAMPLE_FILE: load_example(config).encode(),
        }
        for name, text in texts.items():
            write_file(temporary / name, text)
        write_file(temporary / SUMS_FILE, _sums(temporary).encode())
        sync_folder(temporary)
        temporary.replace(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return config


def read_folder(folder: Path) -> BundleConfig:
    """Return what a bundle's folder says, after comparing digests of configuration and weights.

    The other files may be changed: the model card is the reader's.

    Raises:
        BundleError: it is not a bundle, incomplete, damaged, or of a later version.
    """
    path = folder / CONFIG_FILE
    try:
        if path.stat().st_size > _MOST_CONFIG_BYTES:
            raise BundleError(f"{path} is larger than any configuration")
        text = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error}; download it again") from None
    config = parse(text, str(path))
    sums = _read_sums(folder / SUMS_FILE)
    for name, digest in (
        (CONFIG_FILE, hashlib.sha256(text).hexdigest()),
        (WEIGHTS_FILE, _digest(folder / WEIGHTS_FILE)),
    ):
        if sums.get(name) != digest:
            raise BundleError(
                f"{folder / name} has the SHA-256 {digest}, and {SUMS_FILE} says "
                f"{sums.get(name, 'nothing of it')}: it was changed or damaged; download it again"
            )
    return config


def _json(config: BundleConfig) -> bytes:
    return (json.dumps(config.to_json(), indent=2, allow_nan=False) + "\n").encode()


def _sums(folder: Path) -> str:
    return "".join(f"{_digest(path)}  {path.name}\n" for path in sorted(folder.iterdir()))


def _read_sums(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text().splitlines()
        return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{path} cannot be read ({error}), so the folder cannot be checked; download all of it"
        ) from None


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error}; download it again") from None
