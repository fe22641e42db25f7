"""Hostile and broken files in torch's zip and legacy forms (rows M of the attack table)."""

from __future__ import annotations

import functools
import io
import pickle
import struct
import tarfile
import zlib
from collections.abc import Callable

import numpy as np

from tests.corpus.case import MARKER, Case
from tests.corpus.raw_zip import Entry, raw_zip
from tests.corpus.torch_forms import (
    FACTS,
    MAGIC,
    VERSION,
    Call,
    Raw,
    Ref,
    Storage,
    Tensor,
    described,
    legacy_of,
    tensors_of,
    weights,
    zip_of,
)

FOUR = Storage("0", 4)
FOUR_BYTES = np.arange(4, dtype=np.float32).tobytes()
SYSTEM = Call(Ref("os", "system"), (f"touch {MARKER}",))
PATTERN_BYTES = np.random.default_rng(7).bytes(64 * 1024)


def _one(tensor: object, storages: dict[str, bytes] | None = None) -> Callable[[], bytes]:
    """A file that holds this one tensor."""
    return lambda: zip_of({"a": tensor}, storages or {"0": FOUR_BYTES}).build()


def _value(value: object) -> Callable[[], bytes]:
    return lambda: zip_of(value, {"0": FOUR_BYTES}).build()


def _shape(shape: tuple[object, ...], stride: tuple[object, ...], offset: object = 0):
    return _one(Tensor(FOUR, shape, stride, offset))


def _opcodes(opcodes: bytes) -> Callable[[], bytes]:
    return _value({"a": Raw(opcodes)})


@functools.cache
def honest_zip() -> bytes:
    """A small honest file that is accepted."""
    tensors, storages = tensors_of(weights())
    return zip_of(tensors, storages).build()


@functools.cache
def honest_legacy() -> bytes:
    """The same in the legacy form."""
    arrays = weights()
    tensors, storages = tensors_of(arrays)
    sizes = {str(index): array.size for index, array in enumerate(arrays.values())}
    return legacy_of(tensors, {key: (sizes[key], raw) for key, raw in storages.items()})


def _changed(**changes: np.ndarray) -> Callable[[], bytes]:
    def build() -> bytes:
        tensors, storages = tensors_of(weights() | changes)
        return zip_of(tensors, storages).build()

    return build


def _with_value(dtype: str, value: float) -> Callable[[], bytes]:
    array = np.zeros(16, dtype=np.float32)
    array[7] = value
    if dtype == "bf16":
        return _changed(**{"bn1.weight": (array.view(np.uint32) >> 16).astype(np.uint16)})
    return _changed(**{"bn1.weight": array.astype(dtype)})


def _without(name: str) -> Callable[[], bytes]:
    def build() -> bytes:
        tensors, storages = tensors_of(
            {key: array for key, array in weights().items() if key != name}
        )
        return zip_of(tensors, storages).build()

    return build


def _form(**changes: object) -> Callable[[], bytes]:
    """A one-tensor file with one of its entries changed."""
    index = changes.pop("index", 2)
    tensor = Tensor(FOUR, (4,), (1,))
    return lambda: zip_of({"a": tensor}, {"0": FOUR_BYTES}).with_entry(index, **changes)


def _legacy_storage(length: int, raw: bytes, tail: bytes = b"") -> Callable[[], bytes]:
    return lambda: legacy_of({"a": Tensor(FOUR, (4,), (1,))}, {"0": (length, raw)}) + tail


@functools.cache
def _many_tensors() -> bytes:
    one = Storage("0", 60_000)
    tensors = {f"t{index}": Tensor(one, (1,), (1,), index) for index in range(60_000)}
    return zip_of(tensors, {"0": bytes(240_000)}).build()


def _many_records() -> bytes:
    return zip_of({}, {str(index): b"" for index in range(60_000)}).build()


def _deflated() -> bytes:
    size = 64 << 20
    tensor = Tensor(Storage("0", size // 4), (size // 4,), (1,))
    form = zip_of({"a": tensor}, {"0": b""})
    record = Entry("archive/data/0", bytes(size), method=8)
    return raw_zip([*form.entries()[:2], record, Entry("archive/version", b"3")])


def _shared_header() -> bytes:
    tensors = {"a": Tensor(FOUR, (4,), (1,)), "b": Tensor(Storage("1", 4), (4,), (1,))}
    entries = zip_of(tensors, {"0": FOUR_BYTES}).entries()
    return raw_zip([*entries, Entry("archive/data/1", FOUR_BYTES, shares_header_of=2)])


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        content = described({"a": SYSTEM})
        member = tarfile.TarInfo("pickle")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def _module_form(root: str, *names: str) -> Callable[[], bytes]:
    return lambda: raw_zip([Entry(f"{root}/{name}", described(SYSTEM)) for name in names])


def _half(honest: Callable[[], bytes], fraction: float) -> Callable[[], bytes]:
    return lambda: honest()[: int(len(honest()) * fraction)]


def _bare(protocol: int) -> Callable[[], bytes]:
    class Boom:
        def __reduce__(self):
            return (print, (f"touch {MARKER}",))

    return lambda: pickle.dumps(Boom(), protocol)


def _tied(count: int) -> bytes:
    shared = Tensor(Storage("0", 100_000), (100_000,), (1,))
    return zip_of({f"t{index}": shared for index in range(count)}, {"0": bytes(400_000)}).build()


def _flipped(file: bytes, content: bytes) -> bytes:
    at = file.index(content) + 6
    return file[:at] + bytes([file[at] ^ 1]) + file[at + 1 :]


def _with_description(description: bytes) -> bytes:
    return zip_of({"a": Tensor(FOUR, (4,), (1,))}, {"0": FOUR_BYTES}).with_entry(
        0, content=description, crc=zlib.crc32(description)
    )


_WIDE_TEXT = b"X" + struct.pack("<L", 4096) + "\U0001f600".encode() + b"x" * 4092
_LINEAR = Ref("torch.nn.modules.linear", "Linear")
_TWO_PARTS = {
    "a": Tensor(Storage("0", 8), (4,), (1,)),
    "b": Tensor(Storage("0", 8), (4,), (1,), 2),
}
_PROTOCOL_4 = (b"\x8c\x02os\x8c\x06system\x93", b"\x96" + bytes(8), b"\x97", b"\x82\x01")

_ROWS: tuple[tuple[str, str, Callable[[], bytes]], ...] = (
    ("M01 os.system in a zip", "unsafe_pickle", _value({"a": SYSTEM})),
    ("M02 os.system in a legacy file", "unsafe_pickle", lambda: legacy_of({"a": SYSTEM})),
    (
        "M02 os.system in place of the key list",
        "unsafe_pickle",
        lambda: MAGIC + VERSION + FACTS + described({}) + described(SYSTEM),
    ),
    (
        "M02 os.system in place of the facts",
        "unsafe_pickle",
        lambda: MAGIC + VERSION + described(SYSTEM),
    ),
    *(
        (f"M03 bare pickle, protocol {version}", "unsupported_format", _bare(version))
        for version in (0, 2, 4, 5)
    ),
    ("M04 whole module in a zip", "unsafe_pickle", _value(Call(_LINEAR, ()))),
    (
        "M04 whole module in a legacy file",
        "unsafe_pickle",
        lambda: legacy_of(Raw(described(("module", "x", None, None))[2:-1] + b"Q")),
    ),
    (
        "M05 TorchScript",
        "unsupported_format",
        _module_form("m", "data.pkl", "constants.pkl", "code/__torch__.py", "version"),
    ),
    (
        "M06 storage longer than its record",
        "tensor_out_of_bounds",
        _one(Tensor(Storage("0", 10**6), (4,), (1,))),
    ),
    (
        "M06 storage shorter than its record",
        "tensor_out_of_bounds",
        _one(Tensor(Storage("0", 2), (2,), (1,))),
    ),
    (
        "M06 legacy storage longer than described",
        "tensor_out_of_bounds",
        _legacy_storage(5, FOUR_BYTES + bytes(4)),
    ),
    (
        "M07 storage of 2**40 elements",
        "tensor_out_of_bounds",
        _one(Tensor(Storage("0", 2**40), (4,), (1,))),
    ),
    (
        "M08 length that wraps in 64 bits",
        "malformed_file",
        _one(Tensor(Storage("0", 0x4000000000000001), (4,), (1,))),
    ),
    ("M09 negative length", "malformed_file", _one(Tensor(Storage("0", -4), (4,), (1,)))),
    ("M09 length is a float", "malformed_file", _one(Tensor(Storage("0", 4.0), (4,), (1,)))),
    ("M09 length is a bool", "malformed_file", _one(Tensor(Storage("0", True), (1,), (1,)))),
    ("M10 stride 2**40", "tensor_out_of_bounds", _shape((2, 2), (2**40, 1))),
    ("M11 offset 10**9", "tensor_out_of_bounds", _shape((4,), (1,), 10**9)),
    ("M11 offset 1", "tensor_out_of_bounds", _shape((4,), (1,), 1)),
    (
        "M11 tensor beside the weights",
        "tensor_out_of_bounds",
        _value({"state_dict": {"a": Tensor(FOUR, (4,), (1,))}, "b": Tensor(FOUR, (4,), (1,), 1)}),
    ),
    ("M12 stride 0, 10**12 elements", "tensor_aliasing", _shape((10**6, 10**6), (0, 0))),
    ("M13 overlapping strides", "tensor_aliasing", _shape((2, 2), (1, 1))),
    (
        "M14 two tensors share a part",
        "tensor_aliasing",
        lambda: zip_of(_TWO_PARTS, {"0": bytes(32)}).build(),
    ),
    ("M14 one tensor under 5,000 names", "tensor_aliasing", lambda: _tied(5000)),
    ("M15 negative stride", "malformed_file", _shape((4,), (-1,))),
    ("M15 stride is text", "malformed_file", _shape((4,), ("1",))),
    ("M15 two dimensions, one stride", "malformed_file", _shape((2, 2), (1,))),
    ("M15 nine dimensions", "malformed_file", _shape((1,) * 9, (1,) * 9)),
    (
        "M16 quantized tensor",
        "unsafe_pickle",
        _value({"a": Call(Ref("torch._utils", "_rebuild_qtensor"), (FOUR, 0, (4,), (2**40,)))}),
    ),
    ("M18 compressed record", "unsafe_archive", _deflated),
    ("M19 60,000 tensors", "too_many_tensors", _many_tensors),
    ("M19 60,000 records", "too_many_tensors", _many_records),
    ("M21 two names for one entry", "unsafe_archive", _form(local_name="archive/data/9")),
    ("M22 encrypted entry", "unsafe_archive", _form(flags=1)),
    ("M23 checksum of 0", "checksum_mismatch", _form(crc=0)),
    (
        "M23 one byte flipped",
        "checksum_mismatch",
        lambda: _flipped(
            zip_of({"a": Tensor(FOUR, (4,), (1,))}, {"0": FOUR_BYTES}).build(), FOUR_BYTES
        ),
    ),
    ("M24 two entries, one header", "unsafe_archive", _shared_header),
    ("M24 header inside another entry", "unsafe_archive", _form(index=3, header_offset=60)),
    # miniz reads no byte of a folder: torch 2.14 gives uninitialised memory for this weight.
    ("M24 record that says it is a folder", "unsafe_archive", _form(attributes=0x10)),
    ("M24 record with an unknown flag", "unsafe_archive", _form(flags=0x20)),
    ("M24 extra field beyond its place", "unsafe_archive", _form(extra=b"FB\xff\0")),
    ("M25 half of a zip", "truncated_file", _half(honest_zip, 0.5)),
    ("M25 zip without its last byte", "truncated_file", _half(honest_zip, 0.999999)),
    ("M25 half of a legacy file", "truncated_file", _half(honest_legacy, 0.5)),
    ("M25 legacy file cut in the description", "truncated_file", lambda: honest_legacy()[:2000]),
    ("M25 legacy file without its last byte", "truncated_file", lambda: honest_legacy()[:-1]),
    ("M25 legacy file of 9 bytes", "truncated_file", lambda: honest_legacy()[:9]),
    ("M26 empty file", "truncated_file", bytes),
    ("M27 noise", "unsupported_format", lambda: PATTERN_BYTES),
    (
        "M28 list nested 200,000 deep",
        "malformed_file",
        _value(Raw(b"]" * 200_000 + b"a" * 199_999)),
    ),
    (
        "M28 tuple nested 200,000 deep as a key",
        "malformed_file",
        _value(Raw(b"})" + b"\x85" * 200_000 + b"Ns")),
    ),
    ("M30 number of 255 bytes", "malformed_file", _opcodes(b"\x8a\xff" + b"\x01" * 255)),
    ("M31 tar of 2016", "unsupported_format", _tar),
    (
        "M32 bytearray(2**33)",
        "unsafe_pickle",
        _value({"a": Call(Ref("builtins", "bytearray"), (2**33,))}),
    ),
    (
        "M33 torch.Tensor(2**33)",
        "unsafe_pickle",
        _value({"a": Call(Ref("torch", "Tensor"), (2**33,))}),
    ),
    ("M33 torch.empty", "unsafe_pickle", _value({"a": Ref("torch", "empty")})),
    (
        "M35 sparse tensor",
        "unsafe_pickle",
        _value({"a": Ref("torch._utils", "_rebuild_sparse_tensor")}),
    ),
    ("M36 NaN", "non_finite_weights", _with_value("f4", np.nan)),
    ("M36 infinity", "non_finite_weights", _with_value("f4", -np.inf)),
    ("M36 NaN in float16", "non_finite_weights", _with_value("f2", np.nan)),
    ("M36 infinity in bfloat16", "non_finite_weights", _with_value("bf16", np.inf)),
    *(
        (
            f"M37 tensor named {name[:20]!a}",
            "bad_tensor_name",
            _value({name: Tensor(FOUR, (4,), (1,))}),
        )
        for name in (
            "../../etc/passwd",
            "a\0b",
            "x" * 100_000,
            "__class__",
            "a.__init__.b",
            "",
            "\u202egnp.exe",
            "a\r\nb",
            "y" * 257,
        )
    ),
    ("M37 tensor named 7", "bad_tensor_name", _value({7: Tensor(FOUR, (4,), (1,))})),
    (
        "M39 record outside the archive",
        "unsafe_archive",
        lambda: raw_zip([*zip_of({}).entries(), Entry("archive/../../../etc/passwd", b"x")]),
    ),
    (
        "M39 record with an absolute name",
        "unsafe_archive",
        lambda: raw_zip([*zip_of({}).entries(), Entry("/etc/passwd", b"x")]),
    ),
    (
        "M40 exported program",
        "unsupported_format",
        _module_form("p", "archive_format", "byteorder", "data/sample_inputs/model.pt", "version"),
    ),
    *(
        (f"M42 {name}", "unsafe_pickle", _opcodes(opcodes))
        for name, opcodes in zip(
            ("STACK_GLOBAL", "BYTEARRAY8", "NEXT_BUFFER", "EXT1"), _PROTOCOL_4, strict=True
        )
    ),
    ("M42 INST", "unsafe_pickle", _opcodes(b"(Vtouch\nios\nsystem\n")),
    ("M42 OBJ", "unsafe_pickle", _opcodes(b"(N" + b"o")),
    ("M42 DUP", "unsafe_pickle", _opcodes(b"N2")),
    ("M42 NEWOBJ_EX", "unsafe_pickle", _opcodes(b")}\x92")),
    ("M42 protocol 4", "unsafe_pickle", _value(Raw(pickle.dumps({"a": 1}, 4)[:-1]))),
    ("M42 call of a tuple", "unsafe_pickle", _opcodes(b"))R")),
    ("M42 state of a dict", "unsafe_pickle", _opcodes(b"}}b")),
    (
        "M42 submodule of a listed module",
        "unsafe_pickle",
        _value({"a": Ref("collections.abc", "OrderedDict")}),
    ),
    (
        "M42 attribute path in a name",
        "unsafe_pickle",
        _value({"a": Ref("collections", "OrderedDict.__init__.__globals__")}),
    ),
    ("M42 getattr", "unsafe_pickle", _value({"a": Ref("builtins", "getattr")})),
    (
        "M43 second pickle behind the first",
        "malformed_file",
        lambda: _with_description(described({"a": Tensor(FOUR, (4,), (1,))}) + described(SYSTEM)),
    ),
    (
        "M43 bytes behind the last legacy storage",
        "malformed_file",
        _legacy_storage(4, FOUR_BYTES, tail=b"\0"),
    ),
    (
        "M43 PNG in front of a zip",
        "unsafe_archive",
        lambda: b"\x89PNG\r\n\x1a\n" + bytes(1 << 20) + honest_zip(),
    ),
    ("M43 bytes behind a zip", "unsafe_archive", lambda: honest_zip() + b"tail"),
    (
        "M43 zip with a comment",
        "unsafe_archive",
        lambda: raw_zip(zip_of({}).entries(), comment=b"hidden"),
    ),
    (
        "M43 entry twice",
        "unsafe_archive",
        lambda: raw_zip([*zip_of({}).entries(), Entry("archive/data.pkl", described({}))]),
    ),
    ("M44 big-endian", "malformed_file", _form(index=1, content=b"big")),
    ("M44 version 99", "malformed_file", _form(index=3, content=b"99")),
    ("M44 no version", "malformed_file", _form(index=3, name="archive/other")),
    (
        "M44 alignment that is text",
        "malformed_file",
        lambda: raw_zip([*zip_of({}).entries(), Entry("archive/.storage_alignment", b"6x")]),
    ),
    (
        "M44 requires_grad that is a number",
        "malformed_file",
        _value(
            {"a": Call(Ref("torch._utils", "_rebuild_tensor_v2"), (FOUR, 0, (4,), (1,), 1, {}))}
        ),
    ),
    ("M44 list as a key", "malformed_file", _opcodes(b"}]Ns")),
    ("M44 no data.pkl", "malformed_file", _form(index=0, name="archive/other.pkl")),
    ("M44 storage without record", "malformed_file", _form(name="archive/data/1")),
    ("M44 two folders", "malformed_file", _form(name="other/data/0")),
    (
        "M44 legacy of an unknown version",
        "malformed_file",
        lambda: MAGIC + pickle.dumps(1002, 2) + FACTS + described({}) + pickle.dumps([], 2),
    ),
    (
        "M44 legacy lists another storage",
        "malformed_file",
        lambda: legacy_of({"a": Tensor(FOUR, (4,), (1,))}, {"1": (4, FOUR_BYTES)}),
    ),
    ("M44 stack underflow", "malformed_file", _opcodes(b"s")),
    ("M44 mark missing", "malformed_file", _opcodes(b"t")),
    ("M44 memo of nothing", "malformed_file", _opcodes(b"h\xfe")),
    ("M44 text that is not UTF-8", "malformed_file", _opcodes(b"X\x02\0\0\0\xff\xfe")),
    ("M44 byte that is no instruction", "malformed_file", _opcodes(b"\xff")),
    (
        "M44 one storage, two types",
        "malformed_file",
        _value(
            {"a": Tensor(FOUR, (4,), (1,)), "b": Tensor(Storage("0", 4, "IntStorage"), (4,), (1,))}
        ),
    ),
    ("M44 empty state dict", "malformed_file", _value({})),
    (
        "M44 two sets of weights",
        "malformed_file",
        _value(
            {
                "generator": {"a": Tensor(FOUR, (4,), (1,))},
                "critic": {"a": Tensor(FOUR, (4,), (1,))},
            }
        ),
    ),
    ("M45 a tensor is missing", "architecture_mismatch", _without("layer2.0.conv1.weight")),
    ("M45 a tensor too many", "architecture_mismatch", _changed(extra=np.zeros(3, np.float32))),
    (
        "M45 a tensor of another shape",
        "architecture_mismatch",
        _changed(**{"bn1.weight": np.zeros(17, np.float32)}),
    ),
    (
        "M46 complex weights",
        "unsupported_dtype",
        _one(Tensor(Storage("0", 2, "ComplexFloatStorage"), (2,), (1,))),
    ),
    (
        "M46 quantized storage",
        "unsupported_dtype",
        _one(Tensor(Storage("0", 16, "QInt8Storage"), (4,), (1,))),
    ),
    ("M47 3 million instructions", "too_complex", _value(Raw(b"N" + b"q\0" * 3_000_000))),
    # As much memory as the limits on instructions and bytes let a description ask for.
    (
        "M48 1.9 million empty dicts",
        "malformed_file",
        _value([Raw(b"](" + b"}" * 1_900_000 + b"e")]),
    ),
    (
        "M48 470,000 dicts of one",
        "malformed_file",
        _value([Raw(b"](" + b"}K\1Ns" * 470_000 + b"e")]),
    ),
    (
        "M48 900,000 tuples of one",
        "malformed_file",
        _value([Raw(b"](" + b"K\1\x85" * 900_000 + b"e")]),
    ),
    (
        "M48 600,000 ordered mappings",
        "malformed_file",
        _value([Raw(b"ccollections\nOrderedDict\nq\xf0(" + b"h\xf0)R" * 600_000 + b"e")]),
    ),
    (
        "M48 900,000 remembered lists",
        "malformed_file",
        _value(
            [Raw(b"](" + b"".join(b"]r%b" % struct.pack("<L", i) for i in range(900_000)) + b"e")]
        ),
    ),
    (
        "M48 60 MiB of text in wide characters",
        "malformed_file",
        _value([Raw(b"](" + _WIDE_TEXT * 15_300 + b"e")]),
    ),
)


TORCH_CASES = tuple(Case(name, "checkpoint", code, build) for name, code, build in _ROWS)
