"""The one value of EXIF that changes an image: how the camera was held."""

from __future__ import annotations

import struct

_ORIENTATION, _SHORT = 0x0112, 3
_MAX_FIELDS = 1000


def exif_orientation(exif: bytes) -> int:
    """Return the orientation in a block of EXIF, or 1 (upright) if there is none that makes sense.

    Args:
        exif: the block from its byte order mark on.

    Source: CIPA DC-008 (Exif 3.0), 4.5.2 and 4.6.4.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 8:
        return 1
    (at,) = struct.unpack_from(order + "L", exif, 4)
    if at + 2 > len(exif):
        return 1
    (num_fields,) = struct.unpack_from(order + "H", exif, at)
    for index in range(min(num_fields, _MAX_FIELDS)):
        field = exif[at + 2 + 12 * index : at + 14 + 12 * index]
        if len(field) < 12:
            return 1
        tag, kind, count, value = struct.unpack(order + "HHLH2x", field)
        if (tag, kind, count) == (_ORIENTATION, _SHORT, 1):
            return value if 1 <= value <= 8 else 1
    return 1
