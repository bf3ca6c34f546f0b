"""Finding the parts of a body while it arrives: the same parts, wherever it is cut, and nothing copied."""

import random
import tracemalloc

import pytest

from reward_plugin import multipart
from reward_plugin.errors import ProtocolError, TooLarge
from reward_plugin.multipart import MAX_HEADER, Part, PartReader, join, split

CONTENTS = (b"", b"\r\n", b"abc\r\n--", b"\r\n--boundar", bytes(range(256)) * 5, b"x--boundary--")


def body_of(*contents: bytes) -> bytearray:
    head = b'--boundary\r\nContent-Disposition: form-data; name="images"\r\n\r\n'
    return bytearray(b"\r\n".join([*(head + content for content in contents), b"--boundary--\r\n"]))


def read(body: bytearray, cuts: list[int], max_parts: int | None = None) -> list[bytes]:
    reader = PartReader("multipart/form-data; boundary=boundary", max_parts)
    for end in [*cuts, len(body)]:
        reader.feed(body, end)
    return [bytes(part.content) for part in reader.parts(body)]


def test_the_same_parts_come_out_wherever_the_body_is_cut(monkeypatch: pytest.MonkeyPatch):
    body, draw = body_of(*CONTENTS), random.Random(0)
    for step in (1 << 22, 64):
        monkeypatch.setattr(multipart, "STEP", step)
        assert read(body, []) == list(CONTENTS)
        for cut in range(len(body)):
            assert read(body, [cut]) == list(CONTENTS)
        for _ in range(100):
            assert read(body, sorted(draw.choices(range(len(body)), k=20))) == list(CONTENTS)


def test_what_is_not_here_yet_is_not_looked_at():
    body = body_of(b"abc")
    reader = PartReader("multipart/form-data; boundary=boundary")
    reader.feed(body + bytes(1000), len(body) - 8)
    with pytest.raises(ProtocolError, match="ends before"):
        reader.parts(body)


def test_contents_are_views_into_the_body():
    kind, body = join([Part("images", "x", bytes(10_000_000))])
    tracemalloc.start()
    (part,) = split(kind, body)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(part.content) == 10_000_000 and peak < 100_000


def test_too_many_parts_end_the_reading():
    body = body_of(*[b"x"] * 20)
    assert len(read(body, [], max_parts=20)) == 20
    with pytest.raises(TooLarge, match="more than 19 parts"):
        read(body[:1500], [], max_parts=19)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"--boundaryx\r\n", "neither -- nor a line break"),
        (b"--boundary\r\n" + b"x" * MAX_HEADER, "header exceeds 4096 bytes"),
        (b"--boundary\r\nname\r\n\r\nabc\r\n--boundary--", "line without a colon"),
        (b"--boundary\r\nContent-Transfer-Encoding: base64\r\n\r\nYQ==\r\n--boundary--", "as they are"),
        (b"preamble\r\n--boundary\r\n", "does not begin with its boundary"),
    ],
)
def test_damaged_bodies(body: bytes, reason: str):
    with pytest.raises(ProtocolError, match=reason):
        split("multipart/form-data; boundary=boundary", body)
