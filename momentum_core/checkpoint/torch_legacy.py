"""The form of a torch checkpoint before 1.6: five pickles, then the storages one after another.

magic number, protocol version, system facts, the value, list of storage keys,
then for each key: its length in elements (int64) and its elements
"""

from __future__ import annotations

from momentum_core.checkpoint.byte_source import ByteSource
from momentum_core.checkpoint.limits import Limits
from momentum_core.checkpoint.pickle_calls import count
from momentum_core.checkpoint.pickle_machine import PickleMachine
from momentum_core.checkpoint.pickle_values import UNREAD_ITEM_BYTES, StorageRef
from momentum_core.checkpoint.refusal import SAVE_AGAIN, refuse, shown
from momentum_core.checkpoint.tensor import ITEM_TYPES
from momentum_core.checkpoint.torch_zip import LoadedPickle, storage_of, unchanging

MAGIC_PREFIX = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The first pickle of every such file: the number 0x1950A86A20F9469CFC6C."""

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL_VERSION = 1001
_LENGTH_BYTES = 8


def read_torch_legacy(source: ByteSource, limits: Limits) -> LoadedPickle:
    """Read the description of the weights and find their storages.

    Raises:
        CheckpointError: with the code of the rule that the file breaks.
    """
    machine = PickleMachine(source, 0, source.num_bytes, limits)
    if machine.load() != _MAGIC_NUMBER or machine.load() != _PROTOCOL_VERSION:
        raise refuse("malformed_file", f"the file has an unknown version; {SAVE_AGAIN}")
    facts = machine.load()
    if not isinstance(facts, dict) or facts.get("little_endian") is not True:
        raise refuse(
            "malformed_file", "the file was not written on a little-endian machine; convert it"
        )
    storages: dict[str, StorageRef] = {}
    views: dict[str, StorageRef] = {}

    def persistent_load(identifier: tuple[object, ...]) -> StorageRef:
        storage = unchanging(storages, storage_of(identifier, num_fields=6))
        return _view(storage, identifier[5], views)

    value = machine.load(persistent_load)
    keys = machine.load()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise refuse("malformed_file", f"the file does not list its storages; {SAVE_AGAIN}")
    if len(keys) != len(storages) or set(keys) != set(storages):
        raise refuse("malformed_file", "the file lists other storages than it describes")
    places = _places(source, machine.position, keys, storages)
    return LoadedPickle(value, places, machine.all_inside)


def _view(storage: StorageRef, view: object, views: dict[str, StorageRef]) -> StorageRef:
    """Return the part of a storage that torch before 0.4 named `(key, first, length)`."""
    if view is None:
        return storage
    if not isinstance(view, tuple) or len(view) != 3 or not isinstance(view[0], str):
        raise refuse("malformed_file", f"a part of storage {shown(storage.key)} is misdescribed")
    first, length = count(view[1], "offset"), count(view[2], "length")
    if first + length > storage.num_elements:
        raise refuse(
            "tensor_out_of_bounds", f"a part of storage {shown(storage.key)} lies outside it"
        )
    part = StorageRef(storage.key, storage.dtype, first + length, first)
    if views.setdefault(view[0], part) != part:
        raise refuse("malformed_file", f"part {shown(view[0])} has two descriptions")
    return part


def _places(
    source: ByteSource, position: int, keys: list[str], storages: dict[str, StorageRef]
) -> dict[str, int]:
    """Walk over the storages; return the position of each one's first byte."""
    places: dict[str, int] = {}
    for key in keys:
        storage = storages[key]
        item_bytes = _item_bytes(storage.dtype)
        if item_bytes is None:
            raise refuse(
                "unsupported_dtype",
                f"storage {shown(key)} holds {storage.dtype}, which is not read; "
                "save the weights as float32, float16 or bfloat16",
            )
        length = int.from_bytes(source.read_at(position, _LENGTH_BYTES), "little", signed=True)
        if length != storage.num_elements:
            raise refuse(
                "tensor_out_of_bounds",
                f"storage {shown(key)} declares {storage.num_elements} elements "
                f"and stores {length}",
            )
        places[key] = position + _LENGTH_BYTES
        position += _LENGTH_BYTES + length * item_bytes
        if position > source.num_bytes:
            source.read_at(source.num_bytes, 1)
    if position != source.num_bytes:
        raise refuse(
            "malformed_file",
            f"{source.num_bytes - position} bytes follow the last tensor; {SAVE_AGAIN}",
        )
    return places


def _item_bytes(dtype: str) -> int | None:
    item = ITEM_TYPES.get(dtype)
    return UNREAD_ITEM_BYTES.get(dtype) if item is None else item.itemsize
