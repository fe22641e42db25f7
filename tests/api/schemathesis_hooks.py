"""What schemathesis does not know by itself."""

from __future__ import annotations

import schemathesis


@schemathesis.serializer("application/offset+octet-stream")
def as_it_is(_, value):
    """A piece of a file is its bytes."""
    return value.encode() if isinstance(value, str) else bytes(value)
