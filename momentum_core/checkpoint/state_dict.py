"""Finding the weights inside what a file holds: wrapped, prefixed, or beside an optimizer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from momentum_core.checkpoint.byte_source import ByteSource
from momentum_core.checkpoint.limits import Limits
from momentum_core.checkpoint.pickle_values import TensorRef
from momentum_core.checkpoint.refusal import SAVE_AGAIN, refuse, shown
from momentum_core.checkpoint.tensor import ITEM_TYPES, StoredTensor, overlaps_itself, span

WRAPPERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network"),
    *("module", "weights", "params"),
)
"""Keys under which published checkpoints keep their weights, best first."""

PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
"""Prefixes of wrappers such as DataParallel; taken off when every name has them."""

MAX_IGNORED_SHOWN = 20
_MAX_DEPTH = 4
_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,256}")
_DUNDER = re.compile(r"(^|\.)__[^.]*__($|\.)")


@dataclass(frozen=True, slots=True)
class Selection:
    """The weights that were found, and what lay beside them.

    Attributes:
        tensors: by name, without wrapper and prefix.
        ignored: keys that were not read, quoted where they are odd, at most 20.
    """

    tensors: dict[str, Any]
    ignored: tuple[str, ...]


def select_weights(value: object) -> Selection:
    """Find the mapping of names to tensors in what a file holds.

    Raises:
        CheckpointError: `malformed_file`, when there are no weights, or several sets of them;
            `bad_tensor_name`.
    """
    ignored: list[str] = []
    weights = _find(value, ignored, depth=0)
    if weights is None:
        raise refuse(
            "malformed_file", f"the file holds no mapping of names to tensors; {SAVE_AGAIN}"
        )
    tensors = {key: item for key, item in weights.items() if isinstance(item, TensorRef)}
    ignored.extend(_label(key) for key, item in weights.items() if not isinstance(item, TensorRef))
    if len(ignored) > MAX_IGNORED_SHOWN:
        rest = len(ignored) - MAX_IGNORED_SHOWN + 1
        ignored[MAX_IGNORED_SHOWN - 1 :] = [f"and {rest} more"]
    return Selection(without_prefix(tensors), tuple(ignored))


def without_prefix(tensors: Mapping[Any, Any]) -> dict[str, Any]:
    """Check the names and take off the prefixes that all of them share.

    Raises:
        CheckpointError: `bad_tensor_name`.
    """
    for name in tensors:
        _check_name(name)
    named: dict[str, Any] = dict(tensors)
    while prefix := _common_prefix(named):
        named = {name.removeprefix(prefix): tensor for name, tensor in named.items()}
        for name in named:
            _check_name(name)
    return named


def place_tensors(
    source: ByteSource, tensors: Mapping[str, TensorRef], places: Mapping[str, int], limits: Limits
) -> dict[str, StoredTensor]:
    """Turn references into tensors whose bytes may be read; check types, bounds and sharing.

    Raises:
        CheckpointError: `unsupported_dtype`, `tensor_out_of_bounds`, `tensor_aliasing`,
            `tensor_too_large`.
    """
    placed = {
        name: _place(source, name, tensor, places, limits) for name, tensor in tensors.items()
    }
    _check_sharing(placed)
    logical = sum(tensor.num_bytes for tensor in placed.values())
    # Tied weights are copied once for each name; more than that is a file made to grow.
    if logical > 2 * source.num_bytes:
        raise refuse(
            "tensor_aliasing",
            f"the tensors have {logical} bytes together, more than twice the file; "
            "call .clone() on tensors that share memory before saving",
        )
    return placed


def _find(value: object, ignored: list[str], depth: int) -> Mapping[object, object] | None:
    if not isinstance(value, dict) or depth > _MAX_DEPTH:
        return None
    candidates: Iterable[object] = [key for key in WRAPPERS if _holds_mapping(value, key)]
    direct = any(isinstance(item, TensorRef) for item in value.values())
    if not candidates and not direct:
        candidates = [key for key in value if _holds_mapping(value, key)]
    found: list[tuple[object, Mapping[object, object], list[str]]] = []
    for key in candidates:
        below: list[str] = []
        weights = _find(value[key], below, depth + 1)
        if weights is not None:
            found.append((key, weights, below))
            if key in WRAPPERS:
                break
    if not found:
        return value if direct else None
    if len(found) > 1:
        names = ", ".join(_label(key) for key, _, _ in found[:5])
        raise refuse(
            "malformed_file",
            f"the file holds several sets of weights ({names}); save the one that is meant alone",
        )
    chosen, weights, below = found[0]
    ignored.extend(_label(key) for key in value if key != chosen)
    ignored.extend(below)
    return weights


def _holds_mapping(value: dict[object, object], key: object) -> bool:
    return isinstance(value.get(key), dict)


def _label(key: object) -> str:
    if isinstance(key, str) and _NAME.fullmatch(key):
        return key if len(key) <= 80 else shown(key)
    return shown(key)


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or _DUNDER.search(name):
        raise refuse(
            "bad_tensor_name",
            f"a tensor is named {shown(name)}; names have 1 to 256 letters, digits, and . _ -",
        )


def _common_prefix(names: Mapping[str, Any]) -> str | None:
    for prefix in PREFIXES:
        if names and all(name.startswith(prefix) for name in names):
            return prefix
    return None


def _place(
    source: ByteSource,
    name: str,
    tensor: TensorRef,
    places: Mapping[str, int],
    limits: Limits,
) -> StoredTensor:
    item = ITEM_TYPES.get(tensor.dtype)
    if item is None or tensor.storage.dtype != tensor.dtype:
        raise refuse(
            "unsupported_dtype",
            f"tensor {shown(name)} is {shown(tensor.dtype)}; "
            "save it as float32, float16 or bfloat16",
        )
    if overlaps_itself(tensor.shape, tensor.stride) and 0 not in tensor.shape:
        raise refuse(
            "tensor_aliasing",
            f"elements of tensor {shown(name)} share memory (it was expanded); "
            "call .contiguous() before saving",
        )
    if tensor.offset + span(tensor.shape, tensor.stride) > tensor.storage.num_elements:
        raise refuse(
            "tensor_out_of_bounds",
            f"tensor {shown(name)} reaches beyond its {tensor.storage.num_elements} stored "
            f"elements; {SAVE_AGAIN}",
        )
    offset = places[tensor.storage.key] + tensor.offset * item.itemsize
    placed = StoredTensor(source, tensor.dtype, tensor.shape, tensor.stride, offset)
    if placed.num_bytes > limits.max_tensor_bytes:
        raise refuse(
            "tensor_too_large",
            f"tensor {shown(name)} has {placed.num_bytes} bytes; "
            f"the limit is {limits.max_tensor_bytes}",
        )
    return placed


def _check_sharing(placed: Mapping[str, StoredTensor]) -> None:
    """Two tensors may be the same one (tied weights); they may not share a part."""
    ranges = sorted(
        ((tensor.offset, tensor.span_bytes, name) for name, tensor in placed.items()),
        key=lambda item: item[:2],
    )
    reach, holder = 0, ""
    for offset, length, name in ranges:
        if length and offset < reach and not _are_same(placed[name], placed[holder]):
            raise refuse(
                "tensor_aliasing",
                f"tensors {shown(holder)} and {shown(name)} share part of their memory; "
                "call .clone() on one of them before saving",
            )
        if offset + length > reach:
            reach, holder = offset + length, name


def _are_same(one: StoredTensor, other: StoredTensor) -> bool:
    return (one.offset, one.shape, one.stride) == (other.offset, other.shape, other.stride)
