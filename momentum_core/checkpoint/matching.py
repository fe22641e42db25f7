"""Which architecture a set of weights belongs to, and where it differs from the one named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from momentum_core.checkpoint.library_signature import LibrarySignature
from momentum_core.checkpoint.refusal import shown
from momentum_core.checkpoint.signatures import (
    ARCHITECTURES,
    head,
    shapes,
    unknown_architecture,
)
from momentum_core.errors import ArchitectureError

MAX_LISTED = 20
"""Names of each kind of difference in a message."""

_OPTIONAL = ".num_batches_tracked"

TensorShapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class ArchitectureMatch:
    """The architecture of a set of weights.

    Attributes:
        name: one of `ARCHITECTURES`.
        num_classes: outputs of its last layer.
        found: whether it was found from names and shapes rather than named by the user.
    """

    name: str
    num_classes: int
    found: bool


@dataclass(frozen=True, slots=True)
class _Difference:
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    other_shape: tuple[str, ...]

    @property
    def size(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.other_shape)


def find_architecture(
    tensors: TensorShapes, named: str | None = None, *, signature: LibrarySignature | None = None
) -> ArchitectureMatch:
    """Find the architecture of weights from their names and shapes, or check the one named.

    Files from before torch 0.4.1 lack `num_batches_tracked`; that is no difference.

    Args:
        tensors: shapes by name, unwrapped.
        named: the architecture the user says it is.
        signature: of the one that is named, where it is a library's.

    Raises:
        ArchitectureError: `unknown_architecture`, or `architecture_mismatch` with at most 20
            missing, unexpected and differently shaped tensors and the architecture that fits.
    """
    if signature is not None:
        return _match_library(tensors, signature)
    if named is not None and named not in ARCHITECTURES:
        raise unknown_architecture(named)
    fitting = [name for name in ARCHITECTURES if _difference(name, tensors).size == 0]
    if named in fitting or (named is None and fitting):
        name = named or fitting[0]
        return ArchitectureMatch(name, _num_classes(name, tensors), found=named is None)
    if named is not None:
        other = f"the weights fit {fitting[0]}" if fitting else "they fit no other known one either"
        raise ArchitectureError(
            f"the weights do not fit {named}: {_described(_difference(named, tensors))}; {other}"
        )
    nearest = min(ARCHITECTURES, key=lambda name: _difference(name, tensors).size)
    raise ArchitectureError(
        f"the weights fit no known architecture ({', '.join(ARCHITECTURES)}); the nearest is "
        f"{nearest}: {_described(_difference(nearest, tensors))}"
    )


def missing_counters(wanted: TensorShapes, tensors: TensorShapes) -> tuple[str, ...]:
    """Return the `num_batches_tracked` that an old file lacks; their value is 0."""
    return tuple(name for name in wanted if name.endswith(_OPTIONAL) and name not in tensors)


def _match_library(tensors: TensorShapes, signature: LibrarySignature) -> ArchitectureMatch:
    num_classes = signature.num_classes_of(tensors)
    difference = _compared(signature.shapes_for(max(1, num_classes)), tensors)
    if difference.size:
        raise ArchitectureError(
            f"the weights do not fit {signature.name}: {_described(difference)}"
        )
    return ArchitectureMatch(signature.name, num_classes, found=False)


def _num_classes(name: str, tensors: TensorShapes) -> int:
    shape = tensors.get(head(name), ())
    return shape[0] if shape else 0


def _difference(name: str, tensors: TensorShapes) -> _Difference:
    # Without a readable head any count does: the head itself is then among the differences.
    return _compared(shapes(name, max(1, _num_classes(name, tensors))), tensors)


def _compared(wanted: TensorShapes, tensors: TensorShapes) -> _Difference:
    return _Difference(
        tuple(key for key in wanted if key not in tensors and not key.endswith(_OPTIONAL)),
        tuple(key for key in tensors if key not in wanted),
        tuple(
            f"{key} is {tensors[key]}, not {wanted[key]}"
            for key in wanted
            if key in tensors and tensors[key] != wanted[key]
        ),
    )


def _described(difference: _Difference) -> str:
    parts = [
        _listed("missing", difference.missing),
        _listed("unexpected", difference.unexpected),
        _listed("of another shape", difference.other_shape),
    ]
    return "; ".join(part for part in parts if part)


def _listed(kind: str, names: tuple[str, ...]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return f"{kind}: {', '.join(shown(name)[1:-1] for name in names[:MAX_LISTED])}{more}"
