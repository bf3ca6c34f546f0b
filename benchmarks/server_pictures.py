"""Pictures that are not what they should be, each sent between two good ones."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np

from benchmarks.server_cases import ANY, Case, Draw, between
from benchmarks.server_stamp import blank
from reward_plugin.images import to_png


def damaged_picture(draw: Draw) -> Case:
    good = to_png(blank(16, draw.random.randrange(99)))
    cut = good[: draw.random.randrange(8, len(good) - 20)]
    junk = draw.random.randbytes(draw.random.randrange(300))
    return between(draw, draw.random.choice([cut, junk, b"", b"GIF89a", b"RIFF\0\0\0\0WEBPVP8 "]))


def picture_with_changed_bytes(draw: Draw) -> Case:
    data = bytearray(to_png(blank(16)))
    for _ in range(draw.random.randint(1, 9)):
        data[draw.random.randrange(8, len(data))] ^= 1 << draw.random.randrange(8)
    return between(draw, bytes(data), ANY)


def array_of_objects(draw: Draw) -> Case:
    stream = io.BytesIO()
    np.save(stream, np.array([[[draw.trapped()] * 3]], dtype=object), allow_pickle=True)
    return between(draw, stream.getvalue())


def array_that_lies(draw: Draw) -> Case:
    shapes = [
        "(9999999, 9999999, 3)",
        "(4, 4, 3), 1",
        "(-1, 4, 3)",
        "(0, 0, 3)",
        "(2, 2)",
        "(4, 4, 4)",
        "()",
    ]
    shape, kind = (
        draw.random.choice(shapes),
        draw.random.choice(["|u1", "<f8", "|O", "|S9", "|V3", "junk"]),
    )
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return between(draw, _npy(header, draw.random.randbytes(12)))


def array_header_that_lies(draw: Draw) -> Case:
    version = draw.random.choice([b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\xff\xff"])
    length = struct.pack("<I", draw.random.choice([0xFFFFFFFF, 0, 9, 200_000]))
    header = draw.random.choice([b"(" * 9000, b"__import__('os').abort()", b"{'descr':", b"1" * 5000])
    return between(draw, b"\x93NUMPY" + version + length + header)


def decompression_bomb(draw: Draw) -> Case:
    side = draw.random.choice([8_001, 20_000, 65_535, 2**31 - 1])
    return between(draw, bomb(side))


def bomb(side: int) -> bytes:
    """A small PNG that says it has `side` x `side` grey pixels; all that are there are zeros, well packed."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", _ZEROS), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


_ZEROS = zlib.compress(bytes(20_000_000), 9)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _npy(header: bytes, data: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n" + data


PICTURES: dict[str, Callable[[Draw], Case]] = {
    "damaged picture": damaged_picture,
    "picture with changed bytes": picture_with_changed_bytes,
    "array of objects": array_of_objects,
    "array that lies": array_that_lies,
    "array header that lies": array_header_that_lies,
    "decompression bomb": decompression_bomb,
}
