"""Hostile and broken archives of images (rows D of the attack table)."""

from __future__ import annotations

import bz2
import functools
import gzip
import lzma
from collections.abc import Callable
from dataclasses import replace

import zstandard

from tests.corpus.case import MARKER, Case
from tests.corpus.image_files import honest_jpeg, honest_png, small_folder
from tests.corpus.raw_tar import TarMember, pax, raw_tar
from tests.corpus.raw_zip import Entry, raw_zip

LINK = 0o120777 << 16


def images(
    num_train: int = 20, num_test: int = 10, classes: str = "abcdefghij"
) -> dict[str, bytes]:
    """Classes of small grey pictures."""
    made = {}
    for part, count in (("train", num_train), ("test", num_test)):
        for index in range(count):
            name = f"{part}/{classes[index % len(classes)]}/{index:03}.png"
            made[name] = honest_png(index + 100 * (part == "test"))
    return made


def zip_entries() -> list[Entry]:
    return [Entry(name, content) for name, content in images().items()]


def tar_members() -> list[TarMember]:
    return [TarMember(name, content) for name, content in images().items()]


def tar_of(files: dict[str, bytes]) -> bytes:
    return raw_tar([TarMember(name, content) for name, content in files.items()])


@functools.cache
def honest_zip_folder() -> bytes:
    """A small honest archive that is accepted."""
    return raw_zip(zip_entries())


@functools.cache
def honest_tar() -> bytes:
    """The same as a tar archive."""
    return tar_of(images())


def honest_tar_gz() -> bytes:
    return gzip.compress(honest_tar(), mtime=0)


def honest_tar_zst() -> bytes:
    return zstandard.compress(honest_tar())


def _tar(*more: TarMember) -> Callable[[], bytes]:
    return lambda: raw_tar([*tar_members(), *more])


def _zip(*more: Entry) -> Callable[[], bytes]:
    return lambda: raw_zip([*zip_entries(), *more])


def _first_entry(**changes: object) -> Callable[[], bytes]:
    def build() -> bytes:
        head, *rest = zip_entries()
        return raw_zip([replace(head, **changes), *rest])

    return build


def _first_member(**changes: object) -> Callable[[], bytes]:
    def build() -> bytes:
        head, *rest = tar_members()
        return raw_tar([replace(head, **changes), *rest])

    return build


def _folder(*names: str, content: bytes = b"x") -> Callable[[], bytes]:
    return lambda: raw_zip([Entry(name, content) for name in names])


def _shard(of_class: bytes) -> Callable[[], bytes]:
    """Make images with class files beside them, one of which holds this."""
    numbers = range(10)
    images = [Entry(f"{number}.png", honest_png(number)) for number in numbers]
    classes = [Entry(f"{number}.cls", b"1") for number in numbers[1:]]
    return lambda: raw_zip([*images, Entry("0.cls", of_class), *classes])


def _realpath_chain() -> bytes:
    """CVE-2025-4517: folders too long for realpath, and links that lead out behind them."""
    folder, steps = "d" * 247, "abcdefghijklmnop"
    members, path = [], ""
    for step in steps:
        members.append(TarMember(f"{path}{folder}", kind=b"5"))
        members.append(TarMember(f"{path}{step}", kind=b"2", link=folder))
        path += f"{step}/"
    link = TarMember(path + "l" * 254, kind=b"2", link="../" * len(steps))
    escape = TarMember("escape", kind=b"2", link=f"{path}{'l' * 254}/../../../../tmp")
    written = TarMember("escape/momentum-corpus-marker", b"x")
    return raw_tar([*members, link, escape, written])


def _gzip_bomb() -> bytes:
    """10 GiB of zeros in 10 MB, behind an honest beginning."""
    return gzip.compress(honest_tar()[:-1024], mtime=0) + gzip.compress(bytes(64 << 20), 1) * 160


def _zstd_bomb() -> bytes:
    return zstandard.compress(honest_tar()[:-1024]) + zstandard.compress(bytes(64 << 20)) * 160


def _many_large() -> bytes:
    """600 entries that say they have 18 MB each, and would be within the ratio."""
    noise = honest_jpeg() * 500
    entry = Entry("", noise, method=8, declared_bytes=18 << 20)
    return raw_zip([replace(entry, name=f"train/a/{index}.jpg") for index in range(600)])


def _nested(levels: int) -> bytes:
    content = small_folder()
    for _ in range(levels):
        content = raw_zip([Entry("inner.zip", content)])
    return content


def _many_classes() -> bytes:
    picture = honest_png()
    return raw_zip([Entry(f"train/c{index}/1.png", picture) for index in range(2001)])


def _zip_slot(name: str) -> Callable[[], bytes]:
    return _zip(Entry(name, honest_png()))


_ROWS: tuple[tuple[str, str, Callable[[], bytes]], ...] = (
    ("D01 tar: ../evil", "unsafe_path", _tar(TarMember("../evil.png", b"x"))),
    ("D01 tar: a/../../evil", "unsafe_path", _tar(TarMember("a/../../evil.png", b"x"))),
    ("D01 tar: absolute path", "unsafe_path", _tar(TarMember(str(MARKER), b"x"))),
    (
        "D01 tar: absolute path in a prefix",
        "unsafe_path",
        _tar(TarMember("x", b"x", prefix=b"/tmp")),
    ),
    ("D01 tar: path in an extended header", "unsafe_path", _tar(pax(path="../x"), TarMember("ok"))),
    (
        "D01 tar: path in a GNU header",
        "unsafe_path",
        _tar(TarMember("L", b"../" * 60 + b"x\0", kind=b"L"), TarMember("ok")),
    ),
    ("D01 tar: NUL in a path", "unsafe_path", _tar(pax(path=b"train/a\0/../x"), TarMember("ok"))),
    ("D01 tar: path that is not UTF-8", "unsafe_path", _tar(TarMember(b"train/\xff\xfe/1.png"))),
    ("D01 tar: backslashes", "unsafe_path", _tar(TarMember("train\\..\\..\\x.png"))),
    ("D01 zip: ../evil", "unsafe_path", _zip_slot("../evil.png")),
    ("D01 zip: a/../../evil", "unsafe_path", _zip_slot("train/../../evil.png")),
    ("D01 zip: absolute path", "unsafe_path", _zip_slot(str(MARKER))),
    ("D01 zip: drive letter", "unsafe_path", _zip_slot("C:/evil.png")),
    ("D01 zip: backslashes", "unsafe_path", _zip_slot("..\\evil.png")),
    ("D01 zip: line feed in a name", "unsafe_path", _zip_slot("train/a\nb/1.png")),
    ("D01 zip: right-to-left mark", "unsafe_path", _zip_slot("train/a\u202eb/1.png")),
    ("D01 zip: name of 256 letters", "unsafe_path", _zip_slot(f"train/a/{'x' * 256}")),
    ("D01 zip: nine folders deep", "unsafe_path", _zip_slot("train/a/1/2/3/4/5/6/7.png")),
    (
        "D02 symbolic link out and a file through it",
        "unsafe_path",
        _tar(TarMember("train/a/l", kind=b"2", link="/tmp"), TarMember("train/a/l/x", b"x")),
    ),
    (
        "D02 symbolic link inside the archive",
        "unsafe_path",
        _tar(TarMember("train/a/l.png", kind=b"2", link="000.png")),
    ),
    (
        "D03 hard link to a system file",
        "unsafe_path",
        _tar(TarMember("train/a/l.png", kind=b"1", link="/etc/hostname")),
    ),
    ("D04 chain of CVE-2025-4517", "unsafe_path", _realpath_chain),
    ("D05 character device", "unsafe_path", _tar(TarMember("train/a/zero.png", kind=b"3"))),
    ("D05 block device", "unsafe_path", _tar(TarMember("train/a/disk.png", kind=b"4"))),
    ("D05 named pipe", "unsafe_path", _tar(TarMember("train/a/pipe.png", kind=b"6"))),
    ("D05 long link", "unsafe_path", _tar(TarMember("K", b"/etc\0", kind=b"K"), TarMember("l"))),
    (
        "D06 symbolic link in a zip",
        "unsafe_path",
        _zip(Entry("train/a/l.png", b"/etc/passwd", attributes=LINK, made_by=3 << 8)),
    ),
    (
        "D07 archive: two entries, one header",
        "unsafe_archive",
        _zip(Entry("train/a/z.png", honest_png(0), shares_header_of=0)),
    ),
    (
        "D08 archive: declares too little",
        "unsafe_archive",
        _first_entry(method=8, declared_bytes=9),
    ),
    (
        "D08 archive: declares too much",
        "unsafe_archive",
        _first_entry(method=8, declared_bytes=9000),
    ),
    ("D08 archive: declares 10 GiB in all", "expands_too_large", _many_large),
    ("D09 10 GiB of zeros in a gzip", "expands_too_large", _gzip_bomb),
    ("D09 10 GiB of zeros in a zstandard", "expands_too_large", _zstd_bomb),
    (
        "D09 zip entry of zeros",
        "expands_too_large",
        _zip(Entry("train/a/zeros.png", bytes(4 << 20), method=8)),
    ),
    (
        "D10 100,001 files in a zip",
        "too_many_files",
        lambda: raw_zip([Entry(f"train/a/{index}") for index in range(100_001)]),
    ),
    (
        "D10 100,001 files in a tar",
        "too_many_files",
        lambda: TarMember("train/a/1.png").build() * 100_001 + bytes(1024),
    ),
    ("D11 zip in a zip, five deep", "unsupported_format", lambda: _nested(5)),
    (
        "D11 tar in a zip",
        "unsupported_format",
        lambda: raw_zip([Entry("images.tar", honest_tar())]),
    ),
    ("D12 tar: a name twice", "unsafe_archive", _tar(TarMember("train/a/000.png", honest_png()))),
    (
        "D12 zip: a name in two spellings",
        "unsafe_archive",
        _zip(Entry("train//a/./000.png", honest_png())),
    ),
    ("D17 no images at all", "no_images", _folder("README.md", "a/notes.txt")),
    ("D17 too few without class folders", "invalid_data", _folder("1.png", "2.png")),
    ("D17 class file of a megabyte", "invalid_data", _shard(b"7" * (1 << 20))),
    ("D17 class file of no text", "invalid_data", _shard(b"\x00\xff\x1b[2J")),
    ("D17 empty class file", "invalid_data", _shard(b" \n")),
    ("D17 class 2,000 of 2,000", "invalid_data", _shard(b"2000")),
    ("D17 class number of 400 digits", "invalid_data", _shard(b"9" * 400)),
    ("D17 class beyond the network", "invalid_data", _shard(b"10")),
    ("D17 class files without images", "no_images", _folder("1.cls", "2.cls", content=b"1")),
    ("D17 hidden files only", "no_images", _folder("__MACOSX/a/._1.png", "a/.DS_Store")),
    ("D17 empty tar", "unsupported_format", lambda: bytes(10240)),
    ("D17 2,001 classes", "invalid_data", _many_classes),
    (
        "D17 class without a training image",
        "invalid_data",
        _zip(Entry("test/k/1.png", honest_png())),
    ),
    ("D17 empty class folder", "invalid_data", _zip(Entry("train/k/", b""))),
    ("D17 class name of 101 letters", "invalid_data", _zip_slot(f"train/{'c' * 101}/1.png")),
    (
        "D17 eleven classes for a network of ten",
        "invalid_data",
        lambda: raw_zip([*zip_entries(), Entry("train/<script>/1.png", honest_png())]),
    ),
    (
        "D17 too few to hold one back",
        "invalid_data",
        lambda: raw_zip(
            [Entry(f"{name}/{i}.png", honest_png(i)) for name in "abcdefghij" for i in range(4)]
        ),
    ),
    ("D21 archive: encrypted", "unsafe_archive", _first_entry(flags=1)),
    ("D21 archive: wrong checksum", "checksum_mismatch", _first_entry(crc=1)),
    ("D21 archive: two names", "unsafe_archive", _first_entry(local_name="train/a/other.png")),
    ("D21 archive: unknown packing", "unsafe_archive", _first_entry(method=14)),
    ("D21 archive: half a zip", "truncated_file", lambda: honest_zip_folder()[:900]),
    (
        "D21 archive: bytes in front",
        "unsupported_format",
        lambda: b"\x89PNG\r\n\x1a\n" + honest_zip_folder(),
    ),
    ("D22 tar cut off", "truncated_file", lambda: honest_tar()[:6000]),
    ("D22 tar without an end", "truncated_file", lambda: honest_tar()[:-1024]),
    ("D22 tar.gz cut off", "truncated_file", lambda: honest_tar_gz()[:-40]),
    ("D22 tar.zst cut off", "truncated_file", lambda: honest_tar_zst()[:-40]),
    ("D22 tar.gz with a byte changed", "unsafe_archive", lambda: _changed(honest_tar_gz(), -6)),
    ("D22 gzip of noise", "unsafe_archive", lambda: b"\x1f\x8b\x08\0" + b"\xa5" * 500),
    ("D22 zstandard of noise", "unsafe_archive", lambda: b"\x28\xb5\x2f\xfd" + b"\xa5" * 500),
    ("D22 gzip with noise behind it", "unsafe_archive", lambda: honest_tar_gz() + b"noise" * 9),
    ("D22 gzip that holds no tar", "malformed_file", lambda: gzip.compress(b"text " * 400)),
    ("D22 bytes behind the end", "unsafe_archive", lambda: honest_tar() + b"MZ".ljust(512, b"\0")),
    (
        "D22 header with a wrong sum",
        "malformed_file",
        lambda: raw_tar([*tar_members(), TarMember("x", checksum=b"0000001\0")]),
    ),
    ("D22 size that is no number", "malformed_file", _tar(TarMember("x", size=b"9z9"))),
    ("D22 negative size", "malformed_file", _tar(TarMember("x", size=b"\xff" * 12))),
    ("D22 size of 2**80", "malformed_file", _tar(TarMember("x", size=b"\x80\x01" + bytes(10)))),
    ("D22 size beyond the end", "truncated_file", _tar(TarMember("x.txt", size=b"77777777777\0"))),
    ("D22 sparse file", "unsafe_archive", _tar(TarMember("train/a/s.png", kind=b"S"))),
    (
        "D22 sparse file of pax",
        "unsafe_archive",
        _tar(pax(GNU_sparse_size="9999999999"), TarMember("train/a/s.png")),
    ),
    ("D22 unknown kind of member", "unsafe_archive", _tar(TarMember("train/a/v.png", kind=b"V"))),
    ("D22 name of 100 kB", "unsafe_archive", _tar(TarMember("L", b"x" * 100_000, kind=b"L"))),
    ("D22 20 headers for one file", "unsafe_archive", _tar(*[pax(comment="x")] * 20)),
    (
        "D22 damaged extended header",
        "malformed_file",
        _tar(TarMember("p", b"99 path=x\n", kind=b"x")),
    ),
    ("D22 extended size that is text", "malformed_file", _tar(pax(size="-1"), TarMember("x"))),
    (
        "D22 four members are no images",
        "bad_image",
        _tar(*(TarMember(f"train/a/x{index}.png", b"x") for index in range(4))),
    ),
    ("D23 tar.bz2", "unsupported_format", lambda: bz2.compress(honest_tar())),
    ("D23 tar.xz", "unsupported_format", lambda: lzma.compress(honest_tar())),
    ("D23 7z", "unsupported_format", lambda: b"7z\xbc\xaf\x27\x1c\0\x04" + bytes(64)),
    ("D23 RAR", "unsupported_format", lambda: b"Rar!\x1a\x07\x01\0" + bytes(64)),
    ("D23 Parquet", "unsupported_format", lambda: b"PAR1" + bytes(600)),
    ("D23 one image", "unsupported_format", honest_jpeg),
)


def _changed(content: bytes, at: int) -> bytes:
    changed = bytearray(content)
    changed[at] ^= 1
    return bytes(changed)


ARCHIVE_CASES = tuple(Case(name, "archive", code, build) for name, code, build in _ROWS)
