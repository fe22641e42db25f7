"""A tar writer that can lie: every field of a header can be set by hand."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TarMember:
    name: str | bytes
    content: bytes = b""
    kind: bytes = b"0"
    link: str = ""
    size: bytes | None = None
    checksum: bytes | None = None
    magic: bytes = b"ustar\x0000"
    prefix: bytes = b""

    def build(self) -> bytes:
        name = self.name.encode() if isinstance(self.name, str) else self.name
        size = b"%011o\0" % len(self.content) if self.size is None else self.size
        head = (
            name[:100].ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + size.ljust(12, b"\0")
        )
        head += b"00000000000\0" + b" " * 8 + self.kind + self.link.encode()[:100].ljust(100, b"\0")
        head += self.magic + bytes(64) + b"0000000\0" * 2 + self.prefix.ljust(155, b"\0")
        head = head.ljust(512, b"\0")
        checksum = b"%06o\0 " % sum(head) if self.checksum is None else self.checksum
        head = head[:148] + checksum + head[156:]
        return head + self.content + bytes(-len(self.content) % 512)


def raw_tar(members: list[TarMember], *, end: bytes = bytes(1024)) -> bytes:
    return b"".join(member.build() for member in members) + end


def pax(**fields: str | bytes) -> TarMember:
    """An extended header for the member behind it."""
    content = b""
    for key, value in fields.items():
        raw = value if isinstance(value, bytes) else value.encode()
        record = b" " + key.replace("_", ".").encode() + b"=" + raw + b"\n"
        length = len(record) + 1
        while len(str(length)) + len(record) != length:
            length = len(str(length)) + len(record)
        content += str(length).encode() + record
    return TarMember("pax", content, kind=b"x")
