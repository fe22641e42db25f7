"""What the opcode interpreter makes of a pickle: inert values that refer to bytes in the file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Global:
    """A name that the pickle refers to. It is only a name: nothing is imported."""

    path: str
    """Module and attribute, such as `torch.FloatStorage`."""


@dataclass(frozen=True, slots=True, eq=False)
class Inert:
    """A value that is not needed and was not built, such as a numpy scalar."""

    kind: str


class OrderedMapping(dict[object, object]):
    """What stands for `collections.OrderedDict`; its attributes are dropped."""


@dataclass(frozen=True, slots=True)
class StorageRef:
    """A flat run of numbers that lies elsewhere in the file.

    Attributes:
        key: its name in the file.
        dtype: safetensors name of the element type, or the torch name of one that is not read.
        num_elements: its length.
        first: element at which this view of it begins (only in files of torch before 0.4).
    """

    key: str
    dtype: str
    num_elements: int
    first: int = 0


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A strided tensor in a storage; offset and stride count elements."""

    storage: StorageRef
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


STORAGE_DTYPES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "UntypedStorage": "U8",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8",
    "QInt32Storage": "qint32",
    "QUInt8Storage": "quint8",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
}
"""torch's storage classes and their element types; those in small letters are not read."""

UNREAD_ITEM_BYTES = {"complex64": 8, "complex128": 16, "qint8": 1, "quint8": 1, "qint32": 4}
"""Sizes of elements that are stepped over beside the weights."""

STORAGE_PATHS = {
    prefix + name: dtype
    for name, dtype in STORAGE_DTYPES.items()
    for prefix in ("torch.", "torch.cuda.", "torch.storage.")
}
