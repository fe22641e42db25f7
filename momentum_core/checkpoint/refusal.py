"""The words in which a file is refused: one stable code, one sentence, nothing of the server."""

from __future__ import annotations

from momentum_core.errors import CheckpointError

MAX_SHOWN = 80

SAVE_AGAIN = "save the weights with torch.save(model.state_dict(), path) or with safetensors"


def refuse(code: str, message: str) -> CheckpointError:
    """Make the error that refuses a file; the caller raises it.

    Args:
        code: the stable word for programs, such as `truncated_file`.
        message: what is wrong, what was found, what to do.
    """
    return CheckpointError(message, code=code)


def unsupported(kind: str, remedy: str) -> CheckpointError:
    """Make the error for a file of a format that is not read.

    Args:
        kind: what the file is, with its article.
        remedy: how to turn it into one that is read.
    """
    return refuse(
        "unsupported_format",
        f"the file is {kind}; what is read are the .pt and .pth files of torch.save (zip and "
        f"legacy form) and safetensors: {remedy}",
    )


def shown(text: object) -> str:
    """Quote a stranger's text for a message: printable ASCII, at most 80 characters."""
    if not isinstance(text, str):
        return f"<{type(text).__name__}>"
    kept = text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."
    escaped = ascii(kept)
    return escaped if len(escaped) <= MAX_SHOWN + 2 else escaped[: MAX_SHOWN - 3] + "...'"
