"""What is accepted as a picture, what it becomes, and why others are refused."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from reward_plugin.errors import BadImage
from reward_plugin.images import to_array, to_npy, to_png, to_rgb, to_rgb_each
from reward_plugin.types import ImageLike
from tests.reward.golden import FOLDER

PICTURE = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3) * 4


def encoded(image: PIL.Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def test_every_form_gives_the_same_picture(tmp_path: Path):
    file = tmp_path / "picture.png"
    file.write_bytes(to_png(PICTURE))
    forms: list[ImageLike] = [
        PICTURE,
        PIL.Image.fromarray(PICTURE),
        torch.from_numpy(PICTURE).permute(2, 0, 1),
        torch.from_numpy(PICTURE).permute(2, 0, 1).float() / 255,
        to_png(PICTURE),
        to_npy(PICTURE),
        encoded(PIL.Image.fromarray(PICTURE), "WEBP", lossless=True),
        file,
        str(file),
    ]
    for form in forms:
        np.testing.assert_array_equal(to_array(form), PICTURE)


def test_grey_and_transparent_pictures_become_rgb_as_published():
    for name in ("camera_gray.png", "noise_rgba.png"):
        path = FOLDER / "images" / name
        with PIL.Image.open(path) as image:
            assert image.mode != "RGB"
            np.testing.assert_array_equal(to_array(path), np.asarray(image.convert("RGB")))


def png_claiming(width: int, height: int) -> bytes:
    """A small PNG whose header promises a huge picture."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(bytes(1000)), b"IEND"]
    packed = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def npy_claiming(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + bytes(10)


def pickled_npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "0 bytes"),
        (b"<html>", "not one of PNG"),
        (to_png(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))[:900], "truncated"),
        (png_claiming(30_000, 30_000), "larger than|more than"),
        (png_claiming(9_000, 9_000), "more than 64000000 pixels"),
        (npy_claiming((100_000, 100_000, 3)), "needs 30000000000 bytes, but 10 are there"),
        (encoded(PIL.Image.fromarray(np.full((4, 4), 40_000, np.uint16))), "I;16 has more than 8 bits"),
        (PIL.Image.new("F", (4, 4)), "F has more than 8 bits"),
        (npy_claiming((4, 4)), "uint8"),
        (pickled_npy(), "object"),
        (to_npy(PICTURE)[:20], "header"),
        ("nowhere/picture.png", "nowhere/picture.png: no such file"),
        (PICTURE.transpose(2, 0, 1), "height, width, 3"),
        (PICTURE.astype(np.float32), "uint8"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (torch.from_numpy(PICTURE), "3, height, width"),
        (torch.full((3, 4, 4), float("nan")), r"\[0, 1\]"),
        (torch.full((3, 4, 4), 255.0), r"\[0, 1\]"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "int64"),
        (17, "int is not an image"),
    ],
)
def test_bad_pictures_are_refused_with_the_reason(image: ImageLike, reason: str):
    with pytest.raises(BadImage, match=reason):
        to_rgb(image)


def test_one_bad_picture_does_not_cost_the_others():
    good, errors = to_rgb_each([PICTURE, b"junk", PICTURE])
    assert len(good) == 2
    assert [error is None for error in errors] == [True, False, True]
