"""Zoo names that the catalogue does not have: weights of torchvision, timm, and Hugging Face hubs.

    torchvision:convnext_tiny               torchvision:convnext_tiny.IMAGENET1K_V1
    timm:resnet50.a1_in1k                   hf:timm/resnet50.a1_in1k
    timm:resnet50.a1_in1k@REVISION          hf:ORGANISATION/NAME@REVISION

What comes from a hub is pinned to a commit when it is first named, and checked against the
SHA-256 that the hub states for the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from momentum_core.architectures import build_without_memory
from momentum_core.config import Preprocessing
from momentum_core.errors import ArchitectureError, CheckpointError, ConfigError
from worker.contract.zoo import LIBRARIES, ZooEntry, find_zoo_entry, is_of_library

WEIGHTS_FILE, CONFIGURATION_FILE = "model.safetensors", "config.json"

MAX_CONFIGURATION_BYTES = 1 << 20

_SECONDS = 8.0
"""That a hub may take to answer."""

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[\w./-]{1,100}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PUBLISHED = re.compile(r"-([0-9a-f]{8,64})\.\w+$")


@dataclass(frozen=True, slots=True)
class Hub:
    """Where repositories of a Hugging Face hub are found."""

    url: str
    folder: Path | None
    """Of the operator's copies, which go first."""

    cache: Path
    """Folder of what was fetched."""


def find_entry(name: str, hub: Hub) -> ZooEntry:
    """Return the zoo entry of any name; one from a hub has its commit in its name.

    Args:
        name: of the catalogue, or of a library.
        hub: where repositories are found.

    Raises:
        ArchitectureError: `unknown_zoo_entry`, `unknown_architecture` or `library_missing`.
        CheckpointError: `zoo_unavailable`, when the hub does not answer.
    """
    if not is_of_library(name):
        return find_zoo_entry(name)
    library, _, own_name = name.partition(":")
    if library == "torchvision":
        return _torchvision_entry(own_name)
    own_name, _, revision = own_name.partition("@")
    if library == "timm":
        return _hub_entry(_timm_repository(own_name), revision, hub)
    if library == "hf":
        return _hub_entry(own_name, revision, hub)
    raise _unknown(name, f"a zoo name begins with {', '.join(f'{one}:' for one in LIBRARIES)}")


def _torchvision_entry(name: str) -> ZooEntry:
    from torchvision import models

    own_name, _, weights_name = name.partition(".")
    build_without_memory(f"torchvision:{own_name}")  # refuses what is no classifier
    known = models.get_model_weights(own_name)
    if weights_name and weights_name not in known.__members__:
        raise _unknown(f"torchvision:{name}", f"{own_name} has {', '.join(known.__members__)}")
    weights = known[weights_name] if weights_name else known.DEFAULT
    transforms, meta = weights.transforms(), weights.meta
    file_name = weights.url.rpartition("/")[2]
    published = _PUBLISHED.search(file_name)
    figures = meta.get("_metrics", {}).get("ImageNet-1K", {})
    return ZooEntry(
        name=f"torchvision:{own_name}.{weights.name}",
        is_default=not weights_name,
        architecture=f"torchvision:{own_name}",
        num_classes=len(meta["categories"]),
        file_name=file_name,
        sha256_prefix=published[1] if published else "",
        url=weights.url,
        data_file=None,
        preprocessing=Preprocessing(mean=tuple(transforms.mean), std=tuple(transforms.std)),
        image_size=transforms.crop_size[0],
        resize_size=transforms.resize_size[0],
        published_top1=figures.get("acc@1"),
        recipe=meta.get("recipe", "not stated"),
        licence=meta.get("license", "BSD-3-Clause (torchvision); look at the data's own terms"),
    )


def _timm_repository(name: str) -> str:
    try:
        import timm
    except ImportError:
        raise ArchitectureError(
            f"timm:{name} needs the package timm on the worker; pip install timm",
            code="library_missing",
        ) from None
    try:
        configuration = timm.models.get_pretrained_cfg(name)
    except RuntimeError:  # the model has no weights of this tag
        configuration = None
    repository = None if configuration is None else configuration.hf_hub_id
    if not repository:
        near = timm.list_pretrained(f"{name.partition('.')[0][:80]}*")[:5]
        known = f"there are {', '.join(near)}" if near else "timm.list_pretrained() lists them"
        raise _unknown(f"timm:{name}", known)
    return f"{repository}{name}" if repository.endswith("/") else str(repository)


def _hub_entry(repository: str, revision: str, hub: Hub) -> ZooEntry:
    if not _REPOSITORY.fullmatch(repository) or not _REVISION.fullmatch(revision or "main"):
        raise _unknown(
            f"hf:{repository}", "write hf:ORGANISATION/NAME or hf:ORGANISATION/NAME@REVISION"
        )
    copy = None if hub.folder is None else hub.folder / repository
    if copy is not None and (copy / CONFIGURATION_FILE).is_file():
        return _entry_of(copy / CONFIGURATION_FILE, repository, local_file=copy / WEIGHTS_FILE)
    commit, digest = _look_up(repository, revision or "main", hub)
    configuration = _fetch(repository, commit, CONFIGURATION_FILE, hub)
    url = f"{hub.url.rstrip('/')}/{repository}/resolve/{commit}/{WEIGHTS_FILE}"
    return _entry_of(configuration, repository, commit=commit, digest=digest, url=url)


def _look_up(repository: str, revision: str, hub: Hub) -> tuple[str, str]:
    """Return the commit of a revision, and the weights' SHA-256 as the hub states it.

    For a commit whose files were fetched before, no answer is needed.
    """
    from huggingface_hub import HfApi

    try:
        with _asking(repository):
            told = HfApi(endpoint=hub.url).model_info(
                repository, revision=revision, files_metadata=True, timeout=_SECONDS
            )
    except CheckpointError:
        if _COMMIT.fullmatch(revision) and _is_fetched(repository, revision, hub):
            return revision, ""  # the digest of the first time is on record
        raise
    files = {one.rfilename: one for one in told.siblings or ()}
    missing = [one for one in (WEIGHTS_FILE, CONFIGURATION_FILE) if one not in files]
    if missing:
        raise _unknown(f"hf:{repository}", f"its repository lacks {' and '.join(missing)}")
    stored = files[WEIGHTS_FILE].lfs
    return str(told.sha), "" if stored is None else str(stored.sha256)


def _fetch(
    repository: str, commit: str, file_name: str, hub: Hub, *, is_cached: bool = False
) -> Path:
    """Return a small file of a repository, from the cache if it was fetched before."""
    from huggingface_hub import hf_hub_download

    with _asking(repository):
        return Path(
            hf_hub_download(
                repository,
                file_name,
                revision=commit,
                cache_dir=hub.cache,
                endpoint=hub.url,
                etag_timeout=_SECONDS,
                local_files_only=is_cached,
            )
        )


def _is_fetched(repository: str, commit: str, hub: Hub) -> bool:
    try:
        _fetch(repository, commit, CONFIGURATION_FILE, hub, is_cached=True)
    except CheckpointError:
        return False
    return True


@contextmanager
def _asking(repository: str) -> Iterator[None]:
    """Make one error of all that may go wrong with a hub."""
    try:
        yield
    except Exception as error:  # among them those of whatever the client sends requests with
        raise CheckpointError(
            f"hf:{repository} is not to be had ({type(error).__name__}: "
            f"{str(error).strip().partition(chr(10))[0][:200]}); correct the name or the revision, "
            "let the worker reach MOMENTUM_HUB_URL, or put a copy into MOMENTUM_HUB_DIR",
            code="zoo_unavailable",
        ) from error


def _entry_of(
    configuration: Path,
    repository: str,
    *,
    commit: str = "local",
    digest: str = "",
    url: str | None = None,
    local_file: Path | None = None,
) -> ZooEntry:
    values = _read(configuration, repository)
    trained = values.get("pretrained_cfg", {})
    try:
        architecture = f"timm:{values['architecture']}"
        preprocessing = Preprocessing(
            mean=tuple(map(float, trained["mean"])), std=tuple(map(float, trained["std"]))
        )
        num_classes, side = int(values["num_classes"]), int(trained["input_size"][-1])
    except (KeyError, TypeError, ValueError, IndexError, ConfigError) as error:
        raise _unknown(
            f"hf:{repository}",
            f"its {CONFIGURATION_FILE} is not timm's ({type(error).__name__}: {error}); send the "
            "weights as a checkpoint, and name the architecture",
        ) from None
    pinned = "" if local_file is not None else f"@{commit}"
    return ZooEntry(
        name=f"hf:{repository}{pinned}",
        is_default=False,
        architecture=architecture,
        num_classes=num_classes,
        file_name=f"hf--{repository.replace('/', '--')}--{commit}.safetensors",
        sha256_prefix=digest,
        url=url,
        data_file=None,
        preprocessing=preprocessing,
        image_size=side,
        resize_size=round(side / float(trained.get("crop_pct") or 1.0)),
        published_top1=None,
        recipe=f"{trained.get('origin_url') or 'not stated'}",
        licence=f"{trained.get('license') or 'not stated: look at the repository'}",
        is_on_hub=local_file is None,
        local_file=None if local_file is None else str(local_file),
    )


def _read(path: Path, repository: str) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            values = json.loads(file.read(MAX_CONFIGURATION_BYTES))
    except (OSError, ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise _unknown(f"hf:{repository}", f"its {CONFIGURATION_FILE} is no JSON object")
    return values


def _unknown(name: str, hint: str) -> ArchitectureError:
    return ArchitectureError(
        f"there are no weights {ascii(name)[:122]}: {hint}", code="unknown_zoo_entry"
    )
