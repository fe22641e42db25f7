"""Files in torch's forms, written without torch, so that they can say what torch never would."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from momentum_core.checkpoint.signatures import shapes
from tests.corpus.raw_zip import Entry, raw_zip

MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
VERSION = pickle.dumps(1001, 2)
FACTS = pickle.dumps(
    {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4}}, 2
)


@dataclass(frozen=True, slots=True)
class Ref:
    """A name the pickle refers to."""

    module: str
    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """A function the pickle calls."""

    callee: object
    arguments: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Raw:
    """Instructions as they are."""

    opcodes: bytes


@dataclass(frozen=True, slots=True)
class Storage:
    key: str
    length: object
    kind: str = "FloatStorage"
    location: str = "cpu"
    module: str = "torch"


@dataclass(frozen=True, slots=True)
class Tensor:
    storage: Storage
    shape: tuple[object, ...]
    stride: tuple[object, ...]
    offset: object = 0


class Writer(pickle._Pickler):
    """Pickles the values above; `is_legacy` chooses the form of a storage's identifier."""

    def __init__(self, file: io.BytesIO, *, is_legacy: bool = False) -> None:
        super().__init__(file, 2)
        self.is_legacy = is_legacy

    def _ref(self, value: Ref) -> None:
        self.write(b"c" + value.module.encode() + b"\n" + value.name.encode() + b"\n")

    def _call(self, value: Call) -> None:
        self.save(value.callee)
        self.save(value.arguments)
        self.write(b"R")

    def _raw(self, value: Raw) -> None:
        self.write(value.opcodes)

    def _storage(self, value: Storage) -> None:
        kind = Ref(value.module, value.kind)
        identifier = ("storage", kind, value.key, value.location, value.length)
        self.save((*identifier, None) if self.is_legacy else identifier)
        self.write(b"Q")

    def _tensor(self, value: Tensor) -> None:
        hooks = Call(Ref("collections", "OrderedDict"), ())
        arguments = (value.storage, value.offset, value.shape, value.stride, False, hooks)
        self.save(Call(Ref("torch._utils", "_rebuild_tensor_v2"), arguments))

    dispatch: ClassVar = {
        **pickle._Pickler.dispatch,
        Ref: _ref,
        Call: _call,
        Raw: _raw,
        Storage: _storage,
        Tensor: _tensor,
    }


def described(value: object, *, is_legacy: bool = False) -> bytes:
    """Pickle a value."""
    file = io.BytesIO()
    Writer(file, is_legacy=is_legacy).dump(value)
    return file.getvalue()


@dataclass(frozen=True, slots=True)
class ZipForm:
    """What goes into a zip checkpoint; each field can be replaced by something odd."""

    description: bytes
    storages: dict[str, bytes]
    root: str = "archive"
    version: bytes = b"3\n"
    byteorder: bytes | None = b"little"
    extra: tuple[Entry, ...] = field(default=())

    def entries(self) -> list[Entry]:
        entries = [Entry(f"{self.root}/data.pkl", self.description)]
        if self.byteorder is not None:
            entries.append(Entry(f"{self.root}/byteorder", self.byteorder))
        entries += [Entry(f"{self.root}/data/{key}", raw) for key, raw in self.storages.items()]
        return [*entries, Entry(f"{self.root}/version", self.version), *self.extra]

    def build(self) -> bytes:
        return raw_zip(self.entries())

    def with_entry(self, index: int, **changes: object) -> bytes:
        entries = self.entries()
        entries[index] = replace(entries[index], **changes)
        return raw_zip(entries)


def zip_of(value: object, storages: dict[str, bytes] | None = None) -> ZipForm:
    return ZipForm(described(value), storages or {})


def legacy_of(value: object, storages: dict[str, tuple[int, bytes]] | None = None) -> bytes:
    """A legacy file; each storage has the length that is written and its bytes."""
    storages = storages or {}
    parts = [MAGIC, VERSION, FACTS, described(value, is_legacy=True)]
    parts.append(pickle.dumps(list(storages), 2))
    parts += [struct.pack("<q", length) + raw for length, raw in storages.values()]
    return b"".join(parts)


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))


def weights(name: str = "cifar_resnet20", num_classes: int = 10) -> dict[str, np.ndarray]:
    """Cheap deterministic weights of a known architecture; no two tensors are equal."""
    made = {}
    for key, shape in shapes(name, num_classes).items():
        seed = zlib.crc32(key.encode())
        if key.endswith("num_batches_tracked"):
            made[key] = np.array(seed % 1000, dtype=np.int64)
        else:
            count = int(np.prod(shape))
            made[key] = (((np.arange(count) * 7919 + seed) % 2003) / 2003 - 0.4).astype(np.float32)
            made[key] = made[key].reshape(shape)
    return made


def tensors_of(arrays: dict[str, np.ndarray]) -> tuple[dict[str, Tensor], dict[str, bytes]]:
    """Tensors with a storage each, and the storages' bytes."""
    kinds = {
        "f4": "FloatStorage",
        "f2": "HalfStorage",
        "i8": "LongStorage",
        "u2": "BFloat16Storage",
    }
    tensors, storages = {}, {}
    for index, (name, array) in enumerate(arrays.items()):
        kind = kinds[array.dtype.str[1:]]
        storage = Storage(str(index), array.size, kind)
        tensors[name] = Tensor(storage, array.shape, row_major(array.shape))
        storages[str(index)] = array.tobytes()
    return tensors, storages
