"""From what a user sent to a job: everything that can be refused at once is refused here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from api.library_names import TenantNames
from api.problems import Problem
from api.worker_needs import check_workers
from momentum_core.checkpoint import DEFAULT_LIMITS, LibrarySignature, Limits, input_shape
from momentum_core.checkpoint.signatures import is_buffer, shapes
from momentum_core.config import Preprocessing
from momentum_core.image_archive import ImageForm
from worker.contract.file_store import FileStore
from worker.contract.intake import (
    CheckpointFacts,
    DatasetFacts,
    inspect_checkpoint,
    inspect_dataset,
)
from worker.contract.job import Job, Upload
from worker.contract.job_record import new_id
from worker.contract.job_store import IdempotencyKey, JobStore
from worker.contract.request import ConvertRequest, Source
from worker.contract.worker_store import Worker
from worker.contract.zoo import ZooEntry, is_of_library

MIN_TRAINING_IMAGES = 3
"""At least one is held back, and a step takes two."""

MIN_CLASSES = 2


@dataclass(frozen=True, slots=True)
class Network:
    """What is known of the network before it is loaded."""

    architecture: str
    num_classes: int
    num_parameters: int
    preprocessing: Preprocessing | None
    channels: int
    side: int
    """Of its images, in pixels."""


@dataclass(frozen=True, slots=True)
class AcceptedFile:
    """A file as it would be kept, and what was found in it."""

    path: Path
    facts: CheckpointFacts | DatasetFacts


@dataclass(frozen=True, slots=True)
class Examined:
    """A request that can be carried out, as far as can be told without loading its network."""

    request: ConvertRequest
    """As it is to be carried out: a zoo name is the whole one."""

    network: Network
    checkpoint: AcceptedFile | None
    data: AcceptedFile | None


def submit(
    request: ConvertRequest,
    *,
    checkpoint: Path | None,
    data: Path | None,
    tenant: str,
    store: JobStore,
    files: FileStore,
    names: TenantNames,
    workers: Sequence[Worker] = (),
    limits: Limits = DEFAULT_LIMITS,
    key: IdempotencyKey | None = None,
) -> Job:
    """Check what was sent, keep it, and record a job.

    Args:
        request: what is asked for.
        checkpoint: the file that was sent, in a temporary folder of `files`; it is moved away.
        data: the data set that was sent, likewise.
        tenant: who asks.
        store: where the job is recorded.
        files: where the files are kept.
        names: knows names of libraries.
        workers: those that may do it.
        limits: how much a file may ask for.
        key: with it, a job that was recorded meanwhile for the same request is returned.

    Raises:
        KeyReusedError: the key stands for another request.
        Problem: parts or options do not go together.
        MomentumError: a file is refused; its code says why.
    """
    examined = examine(
        request, checkpoint=checkpoint, data=data, names=names, workers=workers, limits=limits
    )
    # Only now is anything kept: a refusal leaves nothing behind.
    return store.submit(
        examined.request,
        tenant=tenant,
        checkpoint=_keep(examined.checkpoint, "checkpoint", tenant, files),
        data=_keep(examined.data, "dataset", tenant, files),
        key=key,
    )


def examine(
    request: ConvertRequest,
    *,
    checkpoint: Path | None,
    data: Path | None,
    names: TenantNames,
    workers: Sequence[Worker] = (),
    limits: Limits = DEFAULT_LIMITS,
) -> Examined:
    """Check what was sent; nothing is kept.

    Args:
        request: what is asked for.
        checkpoint: the file that was sent; what was read of it is written beside it.
        data: the data set that was sent, likewise.
        names: knows names of libraries.
        workers: those that may do it.
        limits: how much a file may ask for.

    Raises:
        Problem: parts or options do not go together.
        MomentumError: a file or a name is refused; its code says why.
    """
    _check_source(request, has_checkpoint=checkpoint is not None)
    if checkpoint is not None:
        accepted, network = _examine_checkpoint(checkpoint, request, names, limits)
        ships_data = False
    else:
        assert request.zoo_name is not None, "checked above"
        accepted, entry = None, names.zoo_entry(request.zoo_name)
        _check_architecture(entry, request)
        request = _pinned(request, entry)
        ships_data = entry.data_file is not None
        network = _network(
            entry.architecture,
            entry.num_classes,
            request.preprocessing or entry.preprocessing,
            names.signature(entry.architecture),
        )
    _check_preprocessing(network)
    is_named = request.num_synthetic > 0 or request.dataset_name is not None
    if is_named and data is not None:
        raise Problem(
            422,
            "ambiguous_source",
            "data were sent, and synthetic images or a registered data set asked for; leave one of "
            "them out",
        )
    has_images = data is not None or ships_data or is_named
    _check_needs(request, has_images=has_images)
    check_workers(
        request,
        network.num_parameters,
        is_refined=has_images and _is_refined(request),
        workers=workers,
    )
    if is_named:
        _check_has_preprocessing(network)
    if data is None:
        return Examined(request, network, accepted, None)
    return Examined(request, network, accepted, _examine_data(data, network, request, limits))


def _examine_checkpoint(
    checkpoint: Path, request: ConvertRequest, names: TenantNames, limits: Limits
) -> tuple[AcceptedFile, Network]:
    signature = names.signature(request.architecture)
    canonical = checkpoint.with_name("canonical.safetensors")
    facts = inspect_checkpoint(
        checkpoint,
        canonical,
        architecture=request.architecture,
        signature=signature,
        limits=limits,
    )
    network = _network(facts.architecture, facts.num_classes, request.preprocessing, signature)
    return AcceptedFile(canonical, facts), network


def _network(
    architecture: str,
    num_classes: int,
    preprocessing: Preprocessing | None,
    signature: LibrarySignature | None,
) -> Network:
    channels, side = (
        input_shape(architecture)
        if signature is None
        else (signature.in_channels, signature.image_side)
    )
    return Network(
        architecture,
        num_classes,
        _num_parameters(architecture, num_classes, signature),
        preprocessing,
        channels,
        side,
    )


def _num_parameters(architecture: str, num_classes: int, signature: LibrarySignature | None) -> int:
    if signature is None:
        return sum(
            prod(shape)
            for name, shape in shapes(architecture, num_classes).items()
            if not is_buffer(name)
        )
    of_classes = signature.shapes_for(num_classes).items()
    return sum(prod(shape) for name, shape in of_classes if name not in signature.buffers)


def _pinned(request: ConvertRequest, entry: ZooEntry) -> ConvertRequest:
    """Name the commit of what comes from a hub, so that a repeated job takes the same weights."""
    is_of_catalogue = not is_of_library(entry.name)
    return request if is_of_catalogue else replace(request, source=Source(zoo=entry.name))


def _examine_data(
    data: Path, network: Network, request: ConvertRequest, limits: Limits
) -> AcceptedFile:
    canonical = data.with_name("canonical.npz")
    facts = inspect_dataset(
        data,
        canonical,
        num_classes=network.num_classes if request.keeps_classes else None,
        form=ImageForm.for_network(network.side, network.channels),
        limits=limits,
    )
    _check_data(facts, network, request)
    return AcceptedFile(data if facts.format == "npz" else canonical, facts)


def _is_refined(request: ConvertRequest) -> bool:
    """Whether the momentum form learns from the original, where there are images."""
    return request.task == "convert" and request.refinement is not None


def _check_source(request: ConvertRequest, *, has_checkpoint: bool) -> None:
    if has_checkpoint and request.zoo_name is not None:
        raise Problem(
            422,
            "ambiguous_source",
            "a checkpoint was sent and a zoo entry named; leave one of them out",
        )
    if not has_checkpoint and request.zoo_name is None:
        raise Problem(
            422,
            "missing_source",
            "there are no weights to convert; send a file as the part 'checkpoint', or name an "
            'entry of GET /zoo: {"source": {"zoo": "resnet50"}}',
        )


def _check_architecture(entry: ZooEntry, request: ConvertRequest) -> None:
    if request.architecture not in (None, entry.architecture):
        raise Problem(
            422,
            "architecture_mismatch",
            f"the zoo entry {entry.name} is a {entry.architecture}, not a "
            f"{str(request.architecture)[:80]!a}; leave 'architecture' out",
        )


def _check_preprocessing(network: Network) -> None:
    channels = network.channels
    given = network.preprocessing
    if given is not None and len(given.mean) != channels:
        raise Problem(
            422,
            "invalid_request",
            f"preprocessing has {len(given.mean)} channels, {network.architecture} takes "
            f"{channels}; give one mean and one std for each",
        )


def _check_needs(request: ConvertRequest, *, has_images: bool) -> None:
    if request.conversion.gamma == "auto" and not has_images:
        raise Problem(
            422,
            "invalid_option",
            "gamma 'auto' is chosen by comparing answers to images, and there are none; send some "
            "as the part 'data', or give a number",
        )
    if request.task == "finetune" and not (has_images and request.uses_labels):
        raise Problem(
            422,
            "invalid_option",
            "task 'finetune' learns the classes of images, and there are none; send some with "
            "labels as the part 'data', in class folders or as an .npz",
        )
    goal = request.refinement.goal if request.refinement is not None else None
    if has_images and goal is not None and goal.metric == "top1" and not request.uses_labels:
        raise _no_labels()


def _check_has_preprocessing(network: Network) -> None:
    if network.preprocessing is None:
        raise Problem(
            422,
            "missing_preprocessing",
            "there are images, but it is not said how their pixels become the network's input; add "
            'to the request "preprocessing": {"mean": [...], "std": [...]} as in training, for '
            "pixels in 0..1",
        )


def _no_labels() -> Problem:
    return Problem(
        422,
        "invalid_option",
        "refinement.goal.metric is 'top1', but there are no labels to count right answers with; "
        "send labels, or take 'agreement', which compares with the original's answers",
    )


def _check_data(facts: DatasetFacts, network: Network, request: ConvertRequest) -> None:
    _check_has_preprocessing(network)
    channels = network.channels
    if facts.image_shape[2] != channels:
        raise Problem(
            422,
            "invalid_data",
            f"the images have {facts.image_shape[2]} channels, {network.architecture} takes "
            f"{channels}; convert them",
        )
    is_trained = request.task == "finetune" or request.refinement is not None
    if is_trained and facts.num_train < MIN_TRAINING_IMAGES:
        raise Problem(
            422,
            "invalid_data",
            f"there are {facts.num_train} training images, training needs at least "
            f"{MIN_TRAINING_IMAGES}; send more, or set refinement to null",
        )
    goal = request.refinement.goal if request.refinement is not None else None
    if goal is not None and goal.metric == "top1" and facts.num_classes == 0:
        raise _no_labels()
    if request.task == "finetune" and facts.num_classes < MIN_CLASSES:
        raise Problem(
            422,
            "invalid_data",
            "fine-tuning needs labelled images of two classes, these are of "
            f"{facts.num_classes or 'none'}; send others",
        )


def _keep(accepted: AcceptedFile | None, kind: str, tenant: str, files: FileStore) -> Upload | None:
    if accepted is None:
        return None
    stored = files.put(accepted.path)
    return Upload(
        id=new_id(),
        tenant=tenant,
        kind=kind,
        blob_sha256=stored.sha256,
        num_bytes=stored.num_bytes,
        facts=accepted.facts.to_json(),
    )
