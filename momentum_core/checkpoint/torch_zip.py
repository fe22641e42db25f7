"""The zip form of a torch checkpoint (`torch.save` since 1.6)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from momentum_core.checkpoint.byte_source import ByteSource
from momentum_core.checkpoint.limits import Limits
from momentum_core.checkpoint.pickle_calls import count
from momentum_core.checkpoint.pickle_machine import PickleMachine
from momentum_core.checkpoint.pickle_values import STORAGE_PATHS, Global, StorageRef
from momentum_core.checkpoint.refusal import SAVE_AGAIN, refuse, shown, unsupported
from momentum_core.checkpoint.tensor import ITEM_TYPES
from momentum_core.checkpoint.zip_directory import STORED, ZipEntry, check_crc, read_directory

# Beside its tensors an archive holds a handful of small records.
_MAX_OTHER_ENTRIES = 64
_MAX_NOTE_BYTES = 64
_TORCH_RECORDS = {"data.pkl", "version", "byteorder", ".format_version"}
_WORD_NOTES = (
    (
        "version",
        tuple(b"%d%b" % (version, end) for version in range(1, 11) for end in (b"\n", b"")),
    ),
    ("byteorder", (b"little",)),
)
_NUMBER_NOTES = (".format_version", ".storage_alignment", ".data/serialization_id")


@dataclass(frozen=True, slots=True)
class LoadedPickle:
    """The value a file describes, and where each storage lies in it.

    Attributes:
        value: mappings, lists and scalars with `TensorRef`s among them.
        places: by storage key, position of its first byte.
        all_inside: whether every tensor lies in its storage, also one that is not used.
    """

    value: object
    places: dict[str, int]
    all_inside: bool


def read_torch_zip(source: ByteSource, limits: Limits) -> LoadedPickle:
    """Read the description of the weights and find their storages; check every record.

    Raises:
        CheckpointError: with the code of the rule that the file breaks.
    """
    entries = read_directory(
        source,
        max_entries=limits.max_tensors + _MAX_OTHER_ENTRIES,
        too_many="too_many_tensors",
    )
    _refuse_other_archives(entries)
    records = _records(entries)
    _check_notes(source, records)
    for entry in entries:
        _check_record(source, entry)
    description = records["data.pkl"]
    end = description.offset + description.num_bytes
    machine = PickleMachine(source, description.offset, end, limits)
    storages: dict[str, StorageRef] = {}

    def persistent_load(identifier: tuple[object, ...]) -> StorageRef:
        storage = storage_of(identifier, num_fields=5)
        _check_storage(storage, records)
        return unchanging(storages, storage)

    value = machine.load(persistent_load)
    if machine.position != end:
        raise refuse("malformed_file", f"bytes follow the description of the weights; {SAVE_AGAIN}")
    places = {key: records[f"data/{key}"].offset for key in storages}
    return LoadedPickle(value, places, machine.all_inside)


def storage_of(identifier: tuple[object, ...], *, num_fields: int) -> StorageRef:
    """Make a storage of a persistent id `("storage", type, key, location, length, ...)`.

    The location (`cuda:0`) says where the tensor was; it does not matter here.

    Raises:
        CheckpointError: `malformed_file` or `unsafe_pickle`.
    """
    if len(identifier) != num_fields or identifier[0] != "storage":
        if identifier and identifier[0] == "module":
            raise refuse(
                "unsafe_pickle",
                "the file holds a whole pickled model, and opening it would run code; "
                "save the state_dict instead: torch.save(model.state_dict(), path)",
            )
        raise refuse("malformed_file", "the file refers to a storage in an unknown way")
    kind, key, length = identifier[1], identifier[2], identifier[4]
    dtype = STORAGE_PATHS.get(kind.path) if isinstance(kind, Global) else None
    if dtype is None or not isinstance(key, str):
        raise refuse("malformed_file", "the file refers to a storage of an unknown type")
    return StorageRef(key, dtype, count(length, "storage length"))


def unchanging(storages: dict[str, StorageRef], storage: StorageRef) -> StorageRef:
    """Remember a storage at its first mention; every later one must be the same.

    Raises:
        CheckpointError: `malformed_file`, when length or type differ.
    """
    if storages.setdefault(storage.key, storage) != storage:
        raise refuse("malformed_file", f"storage {shown(storage.key)} has two descriptions")
    return storage


def _refuse_other_archives(entries: tuple[ZipEntry, ...]) -> None:
    """Tell archives that are something else from damaged files of `torch.save`."""
    names = [entry.name for entry in entries]
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        raise unsupported(
            "a TorchScript model",
            "load it with torch.jit.load and save its weights: torch.save(m.state_dict(), path)",
        )
    if inner & {"archive_format", "archive_version"} or any("sample_inputs" in n for n in names):
        raise unsupported(
            "an exported program (.pt2)",
            "load it with torch.export.load and save its weights: "
            "torch.save(program.state_dict, path)",
        )
    if names and all(name.endswith(".npy") for name in names):
        raise unsupported("an .npz of arrays", "send it as data, not as checkpoint")
    if not inner & _TORCH_RECORDS and not any(name.startswith("data/") for name in inner):
        raise unsupported("a zip archive without a checkpoint of torch.save", SAVE_AGAIN)


def _records(entries: tuple[ZipEntry, ...]) -> dict[str, ZipEntry]:
    """Return the entries by their name below the archive's one folder."""
    roots = {entry.name.partition("/")[0] for entry in entries}
    records = {entry.name.partition("/")[2]: entry for entry in entries}
    for entry in entries:
        if ".." in entry.name.split("/") or entry.name.startswith("/") or "\\" in entry.name:
            raise refuse("unsafe_archive", f"entry {shown(entry.name)} points outside the archive")
        if entry.method != STORED or entry.is_link:
            raise refuse(
                "unsafe_archive",
                f"entry {shown(entry.name)} is compressed or a link; torch.save stores plain bytes",
            )
    for name in ("data.pkl", "version"):
        if name not in records:
            raise refuse("malformed_file", f"the archive has no {name}; {SAVE_AGAIN}")
    if len(roots) != 1 or len(records) != len(entries):
        raise refuse("malformed_file", "the entries of the archive lie in different folders")
    return records


def _check_notes(source: ByteSource, records: dict[str, ZipEntry]) -> None:
    for name, allowed in _WORD_NOTES:
        note = _note(source, records, name)
        if note is not None and note not in allowed:
            raise refuse(
                "malformed_file",
                f"record {name} says {shown(note.decode('ascii', 'replace'))}; expected "
                f"{shown(allowed[0].decode().strip())}; save the file on a little-endian machine "
                "with a released torch",
            )
    for name in _NUMBER_NOTES:
        note = _note(source, records, name)
        if note is not None and not note.strip().isdigit():
            raise refuse("malformed_file", f"record {name} is no number; {SAVE_AGAIN}")


def _note(source: ByteSource, records: dict[str, ZipEntry], name: str) -> bytes | None:
    entry = records.get(name)
    if entry is None:
        return None
    if entry.num_bytes > _MAX_NOTE_BYTES:
        raise refuse("malformed_file", f"record {name} is too long")
    return source.read_at(entry.offset, entry.num_bytes)


def _check_record(source: ByteSource, entry: ZipEntry) -> None:
    crc = 0
    for piece in source.chunks(entry.offset, entry.num_bytes):
        crc = zlib.crc32(piece, crc)
    check_crc(entry, crc)


def _check_storage(storage: StorageRef, records: dict[str, ZipEntry]) -> None:
    entry = records.get(f"data/{storage.key}")
    if entry is None:
        raise refuse("malformed_file", f"the archive lacks the record of storage {storage.key!r}")
    item = ITEM_TYPES.get(storage.dtype)
    if item is not None and storage.num_elements * item.itemsize != entry.num_bytes:
        raise refuse(
            "tensor_out_of_bounds",
            f"storage {shown(storage.key)} declares {storage.num_elements} elements of "
            f"{storage.dtype}, but its record has {entry.num_bytes} bytes",
        )
