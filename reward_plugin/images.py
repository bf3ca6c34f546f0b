"""The one place where PIL images, arrays, tensors, encoded bytes and files meet.

Everything becomes an RGB `PIL.Image` the way the published scorers do it: `Image.convert("RGB")`, so grey is
repeated over three channels, transparency is dropped (not blended), of an animation the first frame counts,
and EXIF orientation is not applied unless asked for. docs/images_accepted.md says what every kind of picture
gets; a test runs its rows.
"""

from __future__ import annotations

import io
import math
import os
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import PIL.Image

from reward_plugin.errors import BadImage
from reward_plugin.types import ImageLike

if TYPE_CHECKING:
    import torch

#: Encoded formats that are opened; few, because every decoder that a stranger can reach is attack surface.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
#: Largest width x height that is decoded: 64 million pixels are 192 MB of RGB.
MAX_PIXELS = 64_000_000
#: PIL modes that `convert("RGB")` clips at 255 instead of scaling.
DEEP_MODES = frozenset({"I", "F"})
#: How a .npy file begins.
NPY_MAGIC = b"\x93NUMPY"
#: Bytes that hold the longest header of such a file that is looked at; version 1 has no longer one.
NPY_HEADER = 10 + 65535
#: How far a float tensor may leave [0, 1] by rounding before it is taken for one in another range.
RANGE_SLACK = 1e-3
#: What becomes of EXIF (or XMP) orientation: pixels as they are stored, as published, or turned upright.
Exif = Literal["ignore", "apply"]
ORIENTATION = 0x0112  # the EXIF tag
TURNS = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
#: What an encoded picture without a file is called in messages.
ENCODED = "the encoded image"
#: `warnings.catch_warnings` changes the whole process, and pictures are opened in several threads.
_OPENING = threading.Lock()


def to_rgb(
    image: ImageLike | memoryview, max_pixels: int = MAX_PIXELS, exif: Exif = "ignore"
) -> PIL.Image.Image:
    """Any accepted form of a picture as a fully decoded RGB image without metadata.

    A plain RGB `PIL.Image` comes back as it is, not copied.

    Args:
        image: see `ImageLike`.
        max_pixels: largest width x height.
        exif: `apply` turns the picture as its orientation tag says; arrays and tensors have none.

    Raises:
        BadImage: with the rule it breaks: unreadable, truncated, too large, wrong dtype, shape or value
        range.
    """
    if isinstance(image, PIL.Image.Image):
        return _decoded(image, max_pixels, exif)
    if isinstance(image, np.ndarray):
        return _from_array(image, max_pixels)
    if isinstance(image, bytes | bytearray | memoryview):
        if bytes(image[: len(NPY_MAGIC)]) == NPY_MAGIC:
            return _from_array(_read_npy(image), max_pixels)
        return _opened(io.BytesIO(image), ENCODED, max_pixels, exif)
    if isinstance(image, str | Path):
        if os.path.exists(image) and not os.path.isfile(image):  # reading a pipe would wait for ever
            raise BadImage(f"{image}: not a file")
        return _opened(Path(image), str(image), max_pixels, exif)
    if (
        type(image).__module__.partition(".")[0] == "torch"
    ):  # without importing torch for those who never use it
        return _from_array(_tensor_to_array(image), max_pixels)
    raise BadImage(
        f"a {type(image).__name__} is not an image; pass a PIL image, uint8 array, tensor, bytes or path"
    )


def to_pixels(
    image: ImageLike | memoryview, max_pixels: int = MAX_PIXELS, exif: Exif = "ignore"
) -> PIL.Image.Image | np.ndarray:
    """The same as `to_rgb`, but of a .npy file the uint8 [H, W, 3] array over its own bytes, uncopied."""
    if isinstance(image, bytes | memoryview) and bytes(image[: len(NPY_MAGIC)]) == NPY_MAGIC:
        array = _read_npy(image)
        _check_size(array.shape[1], array.shape[0], max_pixels)
        return array
    return to_rgb(image, max_pixels, exif)


def to_array(image: ImageLike, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The same picture as a contiguous uint8 [H, W, 3] array."""
    return np.asarray(to_rgb(image, max_pixels))


def to_png(image: ImageLike, max_pixels: int = MAX_PIXELS) -> bytes:
    """The same picture, losslessly encoded; fast rather than small."""
    buffer = io.BytesIO()
    to_rgb(image, max_pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def to_npy(image: ImageLike, max_pixels: int = MAX_PIXELS) -> bytes:
    """The same picture as a .npy file: no compression, for a server on the same machine."""
    buffer = io.BytesIO()
    np.save(buffer, to_array(image, max_pixels), allow_pickle=False)
    return buffer.getvalue()


def to_rgb_each(
    images: Sequence[ImageLike], max_pixels: int = MAX_PIXELS, exif: Exif = "ignore"
) -> tuple[list[PIL.Image.Image], list[str | None]]:
    """Decode a batch of which some items may be bad.

    Returns:
        the good images, in order, and one entry per item: None, or why it is not among them.
    """
    good: list[PIL.Image.Image] = []
    errors: list[str | None] = []
    for image in images:
        try:
            good.append(to_rgb(image, max_pixels, exif))
            errors.append(None)
        except BadImage as error:
            errors.append(str(error))
    return good, errors


def _opened(source: io.BytesIO | Path, what: str, max_pixels: int, exif: Exif) -> PIL.Image.Image:
    try:
        with _OPENING, warnings.catch_warnings():  # reads the header only
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)  # the limit below is stricter
            image = PIL.Image.open(source, formats=FORMATS)
        with image:
            return _decoded(image, max_pixels, exif)
    except BadImage as error:
        raise BadImage(f"{what}: {error}") from None
    except FileNotFoundError:
        raise BadImage(f"{what}: no such file") from None
    except PIL.Image.DecompressionBombError:
        raise BadImage(f"{what}: larger than {max_pixels} pixels; scale it down first") from None
    except PIL.UnidentifiedImageError:
        empty = source.stat().st_size == 0 if isinstance(source, Path) else not source.getbuffer().nbytes
        reason = "0 bytes" if empty else f"not one of {', '.join(FORMATS)}, or damaged at the start"
        raise BadImage(f"{what}: {reason}") from None
    except Exception as error:
        raise BadImage(f"{what}: cannot be opened: {_reason(error)}") from None


def _decoded(image: PIL.Image.Image, max_pixels: int, exif: Exif) -> PIL.Image.Image:
    """Check the size, which the header alone tells, before a single pixel is decoded."""
    _check_size(image.width, image.height, max_pixels)
    if image.mode in DEEP_MODES or image.mode.startswith("I;16"):
        raise BadImage(f"mode {image.mode} has more than 8 bits a channel; convert it to 8 bits first")
    try:
        rgb = image if type(image) is PIL.Image.Image and image.mode == "RGB" else image.convert("RGB")
    except Exception as error:
        raise BadImage(f"cannot be decoded: {_reason(error)}") from None
    # looked at after decoding, because PIL itself turns a TIFF upright then, and removes its tag
    if exif == "apply" and (turn := TURNS.get(_orientation(image))) is not None:
        rgb = rgb.transpose(turn)
    if rgb is not image:
        rgb.info = {}  # an orientation that is left in would be applied again by the next reader
    return rgb


def _orientation(image: PIL.Image.Image) -> int:
    """1 (upright) to 8; 1 as well where the metadata is damaged: the pixels may still be good."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:
        return 1


def _reason(error: Exception) -> str:
    """What a decoder says. PIL's raise OSError where they look, and anything where they do not."""
    return str(error) if isinstance(error, OSError) and str(error) else f"{type(error).__name__}: {error}"


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise BadImage(f"{width}x{height} has no pixels")
    if width * height > max_pixels:
        raise BadImage(f"{width}x{height} is more than {max_pixels} pixels; scale it down first")


def _from_array(array: np.ndarray, max_pixels: int) -> PIL.Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise BadImage(
            f"array of {array.dtype} {array.shape}; it must be uint8 [height, width, 3]"
            + _array_remedy(array.dtype, array.shape)
        )
    _check_size(array.shape[1], array.shape[0], max_pixels)
    return PIL.Image.fromarray(np.ascontiguousarray(array))


def _array_remedy(dtype: np.dtype, shape: tuple[int, ...]) -> str:
    """How to bring an array of another layout into ours, for the layouts that people have."""
    if dtype != np.uint8:
        return "; scale floats in [0, 1] by 255, round, and cast" if dtype.kind == "f" else "; cast it"
    if len(shape) == 3 and shape[0] == 3:
        return "; transpose(1, 2, 0) makes it so"
    if len(shape) == 3 and shape[2] == 4:
        return "; drop the alpha channel with [..., :3]"
    if len(shape) == 2 or (len(shape) == 3 and shape[2] == 1):
        return "; repeat the grey channel three times"
    return "; pass the pictures of a batch one by one" if len(shape) == 4 else ""


def _tensor_to_array(tensor: torch.Tensor) -> np.ndarray:
    import torch

    if tensor.ndim != 3 or tensor.shape[0] != 3:
        raise BadImage(
            f"tensor of shape {tuple(tensor.shape)}; it must be [3, height, width]"
            + _tensor_remedy(tuple(tensor.shape))
        )
    if tensor.dtype != torch.uint8:
        if not tensor.is_floating_point():
            raise BadImage(f"tensor of {tensor.dtype}; it must be uint8, or float in [0, 1]")
        tensor = tensor.detach().float()
        low, high = (float(bound) for bound in tensor.aminmax()) if tensor.numel() else (0.0, 0.0)
        if math.isnan(low):
            raise BadImage("tensor with NaN values; a float image must lie in [0, 1]")
        if low < -RANGE_SLACK or high > 1 + RANGE_SLACK:
            raise BadImage(f"tensor values from {low:g} to {high:g}; a float image must lie in [0, 1]")
        tensor = (tensor.clamp(0, 1) * 255).round().to(torch.uint8)
    return tensor.permute(1, 2, 0).cpu().numpy()


def _tensor_remedy(shape: tuple[int, ...]) -> str:
    """How to bring a tensor of another layout into ours."""
    if len(shape) == 3 and shape[2] == 3:
        return "; permute(2, 0, 1) makes it so"
    if len(shape) == 3 and shape[0] == 4:
        return "; drop the alpha channel with [:3]"
    if len(shape) == 2 or (len(shape) == 3 and shape[0] == 1):
        return "; repeat the grey channel three times"
    return "; pass the pictures of a batch one by one" if len(shape) == 4 else ""


def _read_npy(data: bytes | bytearray | memoryview) -> np.ndarray:
    """The array of a .npy file, without copying it and without ever unpickling.

    The header is checked against the bytes that follow it before anything is allocated, so it cannot claim
    memory.
    """
    stream = io.BytesIO(data[:NPY_HEADER])  # of a view that is a copy
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        shape, fortran_order, dtype = readers[np.lib.format.read_magic(stream)](stream)
    except (ValueError, KeyError) as error:
        raise BadImage(f"damaged .npy header: {error}") from None
    if dtype != np.uint8 or fortran_order or len(shape) != 3 or shape[2] != 3:
        raise BadImage(f".npy array of {dtype} {shape}; it must be uint8 [height, width, 3] in C order")
    start, size = stream.tell(), math.prod(shape)
    if len(data) - start != size:
        raise BadImage(f".npy array of shape {shape} needs {size} bytes, but {len(data) - start} are there")
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)
