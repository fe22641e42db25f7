"""The whole inspection of one open file: read, match, write the canonical file, state the facts."""

from __future__ import annotations

import math

from momentum_core.checkpoint.byte_source import ByteSource
from momentum_core.checkpoint.facts import CheckpointFacts
from momentum_core.checkpoint.library_signature import LibrarySignature
from momentum_core.checkpoint.limits import Limits
from momentum_core.checkpoint.matching import find_architecture, missing_counters
from momentum_core.checkpoint.reader import parse_checkpoint
from momentum_core.checkpoint.safetensors_writer import Zeros, write_tensors
from momentum_core.checkpoint.signatures import is_buffer, shapes


def inspect_open_checkpoint(
    source: ByteSource,
    target: int,
    *,
    architecture: str | None,
    limits: Limits,
    signature: LibrarySignature | None = None,
) -> CheckpointFacts:
    """Read a checkpoint, find its architecture, write it as canonical safetensors.

    Args:
        source: the file that was sent.
        target: descriptor of an empty file, open for writing.
        architecture: the architecture it is said to be; None finds it.
        limits: how much the file may ask for.
        signature: of the architecture, where it is a library's.

    Raises:
        CheckpointError: with the code of the rule that the file breaks.
        ArchitectureError: the weights do not fit.
    """
    checkpoint = parse_checkpoint(source, limits)
    match = find_architecture(checkpoint.shapes, architecture, signature=signature)
    if signature is None:
        wanted = shapes(match.name, match.num_classes)
        buffers = {name for name in wanted if is_buffer(name)}
    else:
        wanted, buffers = signature.shapes_for(match.num_classes), set(signature.buffers)
    counters = {name: Zeros("I64", ()) for name in missing_counters(wanted, checkpoint.shapes)}
    # A file that was sent twice gives the same bytes: the header holds nothing but these.
    metadata = {"architecture": match.name, "num_classes": str(match.num_classes)}
    write_tensors(target, {**checkpoint.tensors, **counters}, metadata=metadata)
    return CheckpointFacts(
        format=checkpoint.format,
        architecture=match.name,
        architecture_found=match.found,
        num_classes=match.num_classes,
        num_tensors=len(checkpoint.tensors) + len(counters),
        num_parameters=sum(math.prod(wanted[name]) for name in wanted if name not in buffers),
        sha256=source.sha256(),
        ignored=checkpoint.ignored,
    )
