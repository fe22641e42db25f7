"""From the bytes of one image to pixels of one size, by Pillow, behind the checks before it."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from momentum_core.checkpoint.limits import Limits
from momentum_core.checkpoint.refusal import refuse
from momentum_core.errors import CheckpointError
from momentum_core.image_archive.image_form import ImageForm
from momentum_core.image_archive.image_header import Frame, ImageKind, read_frame

# The decoders by name: Pillow's own search would try forty others.
_DECODERS: dict[ImageKind, type[ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WEBP": WebPImageFile,
}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MODES = {1: "L", 3: "RGB"}
_MAX_RATIO = 16
"""Long side over short side: resizing the short one makes the long one as much longer."""


def decode_image(content: bytes, form: ImageForm, limits: Limits) -> bytes:
    """Return an image's pixels in row-major order: side x side x channels, one byte each.

    The image is turned upright, resized (bilinear, with antialiasing, as torchvision's transforms
    do) and cut to its centre; one that has the size already is left as it is. Transparency is
    dropped, 16 bits become 8.

    Args:
        content: the whole file: JPEG, PNG or WebP.
        form: what it becomes.
        limits: how large it may be before that.

    Raises:
        CheckpointError: `bad_image` or `image_too_large`.
    """
    frame = read_frame(content, limits)
    if max(frame.width, frame.height) > _MAX_RATIO * min(frame.width, frame.height):
        raise refuse("bad_image", f"it is more than {_MAX_RATIO} times as long as wide")
    try:
        return _shaped(_decoded(frame), form).tobytes()
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:
        # The border to a foreign decoder: whatever it raises, in whatever way, is its answer to
        # the image. Its words may quote the file and stay out.
        raise refuse("bad_image", f"it cannot be decoded ({type(error).__name__})") from error


def _decoded(frame: Frame) -> Image.Image:
    image: Image.Image = _DECODERS[frame.kind](io.BytesIO(frame.content))
    if image.size != (frame.width, frame.height):
        raise refuse("bad_image", "it declares two sizes")
    image.load()
    if image.mode.startswith("I"):
        # Pillow would cut 16 bits off at 255; the upper eight are what other programs show.
        high = np.asarray(image).astype(np.uint32) >> 8
        image = Image.fromarray(np.minimum(high, 255).astype(np.uint8))
    turn = _TURNS.get(frame.orientation)
    return image if turn is None else image.transpose(turn)


def _shaped(image: Image.Image, form: ImageForm) -> Image.Image:
    mode = _MODES[form.channels]
    if image.mode == "P":
        # A palette of greys may carry colours, and its indices cannot be interpolated.
        image = image.convert("RGB")
    if image.mode != mode:
        image = image.convert(mode)
    if image.size == (form.side, form.side):
        return image
    short = min(image.size)
    width, height = (side * form.resize_side // short for side in image.size)
    left, top = (round((side - form.side) / 2) for side in (width, height))
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + form.side, top + form.side))
