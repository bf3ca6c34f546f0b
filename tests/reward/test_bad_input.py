"""Every row of docs/images_accepted.md, alone and all of them in one batch of real scorers."""

import io
import json
import os
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from starlette.testclient import TestClient

from reward_plugin.__main__ import main
from reward_plugin.app import Limits, build_app
from reward_plugin.client import RewardClient
from reward_plugin.errors import BadImage
from reward_plugin.images import MAX_PIXELS, Exif, to_rgb
from reward_plugin.scorers import build_scorers, pixels
from reward_plugin.scoring import score_all
from reward_plugin.types import ImageLike, Scorer, ScoreTable
from reward_plugin.wire import ScoreRequest, encode_request
from tests.reward.golden import CHECKPOINT
from tests.reward.transports import InMemory

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(7)
#: Smooth, so that lossy formats keep it, and without any symmetry.
ROWS, COLUMNS = np.mgrid[0:20, 0:28]
PICTURE = np.dstack([20 + 9 * ROWS, 40 + 7 * COLUMNS, np.full_like(ROWS, 90)]).astype(np.uint8)
NOISE = RNG.integers(0, 256, (40, 40, 3), np.uint8)
GREY = PICTURE[..., 0]
ALPHA = RNG.integers(0, 256, GREY.shape, np.uint8)
PIL_PICTURE = PIL.Image.fromarray(PICTURE)
TENSOR = torch.from_numpy(PICTURE).permute(2, 0, 1)

#: Makes a row's picture in a folder of its own, and what it must become (None: refused).
Case = Callable[[Path], tuple[ImageLike, np.ndarray | None]]


def saved(image: PIL.Image.Image, name: str, expected: np.ndarray | None, folder: Path, **options: object):
    path = folder / name
    image.save(path, **options)  # type: ignore[arg-type]
    return path, expected


def decoded(image: PIL.Image.Image, name: str, folder: Path, **options: object):
    """A file whose format loses something: compared with what PIL itself reads from it."""
    path, _ = saved(image, name, None, folder, **options)
    return path, np.asarray(PIL.Image.open(path).convert("RGB"))


def written(data: bytes, name: str, folder: Path):
    (folder / name).write_bytes(data)
    return folder / name, None


def given(image: ImageLike, expected: np.ndarray | None, folder: Path):
    return image, expected


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG file from raw rows, which begin with a filter byte each."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [head, b"IDAT" + zlib.compress(rows), b"IEND"]
    packed = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def png16(folder: Path):
    deep = (PICTURE.astype(np.uint16) * 256 + 77).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    path, _ = written(png(28, 20, 16, 2, rows), "deep.png", folder)
    return path, PICTURE


def encoded(form: str) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(NOISE).save(buffer, form)
    return buffer.getvalue()


def palette() -> tuple[PIL.Image.Image, np.ndarray]:
    image = PIL_PICTURE.quantize(16)
    return image, np.array(image.getpalette(), np.uint8).reshape(-1, 3)[np.asarray(image)]


def oriented(turn: int) -> bytes:
    exif = PIL.Image.Exif()
    exif[0x0112] = turn
    return exif.tobytes()


def pipe(folder: Path):
    os.mkfifo(folder / "pipe.png")
    return folder / "pipe.png", None


def animated(name: str, folder: Path, **options: object):
    frames = [PIL_PICTURE.quantize(64), PIL.Image.fromarray(PICTURE[::-1]).quantize(64)]
    colours = np.array(frames[0].getpalette(), np.uint8).reshape(-1, 3)
    first = colours[np.asarray(frames[0])]
    if name.endswith(".webp"):
        frames, first = [PIL_PICTURE, PIL.Image.fromarray(PICTURE[::-1].copy())], PICTURE
    return saved(frames[0], name, first, folder, save_all=True, append_images=frames[1:], **options)


def three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=-1)


def rgba() -> np.ndarray:
    return np.dstack([PICTURE, ALPHA])


UPRIGHT = np.rot90(PICTURE, -1)  # orientation 6: turn clockwise
DAMAGED_EXIF = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(20)
CLAIMS = png(30_000, 30_000, 8, 2, bytes(1000))

CASES: dict[str, Case] = {
    "PNG, WebP, BMP, TIFF file": partial(saved, PIL_PICTURE, "a.webp", PICTURE, lossless=True),
    "JPEG file": partial(decoded, PIL_PICTURE, "a.jpg"),
    "encoded bytes": partial(given, encoded("PNG"), NOISE),
    "1×1 pixel": partial(saved, PIL.Image.fromarray(PICTURE[:1, :1]), "a.png", PICTURE[:1, :1]),
    "60000×1 pixels": partial(
        saved, PIL.Image.new("RGB", (60_000, 1), "teal"), "a.png", np.full((1, 60_000, 3), (0, 128, 128))
    ),
    "grey": partial(saved, PIL.Image.fromarray(GREY), "a.png", three(GREY)),
    "grey with transparency": partial(
        saved, PIL.Image.fromarray(np.dstack([GREY, ALPHA])), "a.png", three(GREY)
    ),
    "RGBA": partial(saved, PIL.Image.fromarray(rgba()), "a.png", PICTURE),
    "palette": lambda folder: saved(palette()[0], "a.png", palette()[1], folder),
    "palette with transparency": lambda folder: saved(
        palette()[0], "a.png", palette()[1], folder, transparency=0
    ),
    "black and white, 1 bit": partial(
        saved, PIL.Image.fromarray(GREY > 100), "a.png", three(np.where(GREY > 100, 255, 0).astype(np.uint8))
    ),
    "CMYK JPEG": partial(decoded, PIL_PICTURE.convert("CMYK"), "a.jpg"),
    "16 bits a channel, colour PNG": png16,
    "16 bits a channel, grey PNG": partial(
        saved, PIL.Image.fromarray(GREY.astype(np.uint16) * 256), "a.png", None
    ),
    "floating-point TIFF": partial(saved, PIL.Image.fromarray(GREY.astype(np.float32)), "a.tif", None),
    "animated GIF": partial(animated, "a.gif"),
    "animated WebP": partial(animated, "a.webp", lossless=True),
    "EXIF-rotated": partial(saved, PIL_PICTURE, "a.png", PICTURE, exif=oriented(6)),
    "EXIF-rotated, with `exif: apply`": partial(saved, PIL_PICTURE, "a.png", UPRIGHT, exif=oriented(6)),
    "EXIF data damaged, with `exif: apply`": partial(saved, PIL_PICTURE, "a.png", PICTURE, exif=DAMAGED_EXIF),
    "truncated": partial(written, encoded("JPEG")[:-400], "a.jpg"),
    "truncated in its header": partial(written, encoded("PNG")[:20], "a.png"),
    "zero bytes": partial(written, b"", "a.png"),
    "not a picture": partial(written, b"<html>not found</html>", "a.jpg"),
    "another format (PPM)": partial(saved, PIL_PICTURE, "a.ppm", None),
    "no such file": lambda folder: (folder / "gone.png", None),
    "a folder or a pipe": pipe,
    "decompression bomb: a small file that claims 30000×30000": partial(written, CLAIMS, "a.png"),
    "20000×20000": lambda folder: written(
        png(20_000, 20_000, 1, 0, bytes(20_000 * (1 + 20_000 // 8))), "a.png", folder
    ),
    "9000×9000": partial(written, png(9_000, 9_000, 8, 2, bytes(1000)), "a.png"),
    "uint8 array [H, W, 3]": partial(given, PICTURE, PICTURE),
    "array in BGR order": partial(given, PICTURE[..., ::-1], PICTURE[..., ::-1]),
    "array [3, H, W]": partial(given, PICTURE.transpose(2, 0, 1), None),
    "RGBA array [H, W, 4]": partial(given, rgba(), None),
    "grey array [H, W]": partial(given, GREY, None),
    "float array": partial(given, PICTURE / 255, None),
    "batch of arrays [N, H, W, 3]": partial(given, PICTURE[None], None),
    "array without pixels": partial(given, PICTURE[:0], None),
    "float tensor [3, H, W] in [0, 1]": partial(given, TENSOR.float() / 255, PICTURE),
    "bfloat16 tensor [3, H, W] in [0, 1]": partial(
        given, torch.ones(3, 20, 28).bfloat16() / 2, np.full((20, 28, 3), 128, np.uint8)
    ),
    "uint8 tensor [3, H, W]": partial(given, TENSOR, PICTURE),
    "tensor [H, W, 3]": partial(given, torch.from_numpy(PICTURE), None),
    "RGBA tensor [4, H, W]": partial(given, torch.from_numpy(rgba()).permute(2, 0, 1), None),
    "grey tensor [1, H, W]": partial(given, TENSOR[:1], None),
    "batch of tensors [N, 3, H, W]": partial(given, TENSOR[None], None),
    "tensor with NaN": partial(
        given, torch.cat([TENSOR[:, :10] / 255, torch.full((3, 1, 28), torch.nan)], 1), None
    ),
    "tensor in [-1, 1]": partial(given, TENSOR / 127.5 - 1, None),
    "tensor in [0, 255]": partial(given, TENSOR.float(), None),
    "integer tensor": partial(given, TENSOR.long(), None),
    "anything else": partial(given, {"path": "a.png"}, None),  # type: ignore[arg-type]
}


def table() -> dict[str, tuple[str, str]]:
    """The rows of the document: picture -> (gets, how or why not)."""
    text = (ROOT / "docs" / "images_accepted.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return {name: (gets, why) for name, gets, why in rows[2:]}


TABLE = table()


def exif_of(name: str) -> Exif:
    return "apply" if "exif: apply" in name else "ignore"


def test_the_document_and_the_cases_name_the_same_pictures():
    assert list(TABLE) == list(CASES)
    assert {gets for gets, _ in TABLE.values()} == {"scored", "refused"}
    text = (ROOT / "docs" / "images_accepted.md").read_text(encoding="utf-8")
    assert f"{MAX_PIXELS // 1_000_000} million pixels" in text


@pytest.mark.parametrize("name", TABLE)
def test_each_row_gets_what_the_document_says(name: str, tmp_path: Path):
    gets, why = TABLE[name]
    image, expected = CASES[name](tmp_path)
    if gets == "scored":
        assert expected is not None
        rgb = to_rgb(image, exif=exif_of(name))
        assert rgb.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(rgb), expected)
        np.testing.assert_array_equal(np.asarray(to_rgb(rgb, exif="apply")), expected)  # not turned twice
    else:
        (reason,) = re.findall("`(.+)`", why)
        with pytest.raises(BadImage, match=re.escape(reason)) as refused:
            to_rgb(image, exif=exif_of(name))
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_orientation_is_turned_as_pil_does(turn: int):
    from PIL import ImageOps

    image = PIL_PICTURE.copy()
    image.info["exif"] = oriented(turn)
    np.testing.assert_array_equal(
        np.asarray(to_rgb(image, exif="apply")), np.asarray(ImageOps.exif_transpose(image))
    )
    assert to_rgb(image) is image


def folders(tmp_path: Path) -> dict[str, Path]:
    made = {name: tmp_path / f"{i:02}" for i, name in enumerate(CASES)}
    for folder in made.values():
        folder.mkdir()
    return made


def test_no_row_costs_the_batch_that_it_is_in(tmp_path: Path):
    scorers = build_scorers(
        [{"name": "unipercept", "path": str(CHECKPOINT), "device": "cpu"}, {"name": "pixels"}]
    )
    images = [CASES[name](folder)[0] for name, folder in folders(tmp_path).items()]
    together = score_all(scorers, images)
    there = [error is None for error in together.errors]
    assert there == [gets == "scored" for gets, _ in TABLE.values()]
    np.testing.assert_array_equal(np.isfinite(together.values).all(axis=1), there)
    np.testing.assert_array_equal(np.isnan(together.values).all(axis=1), np.logical_not(there))
    good = [image for image, fine in zip(images, there, strict=True) if fine]
    np.testing.assert_allclose(together.values[there], score_all(scorers, good).values, rtol=0, atol=1e-4)


def test_the_command_gives_every_file_of_the_table_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    paths = {name: CASES[name](folder)[0] for name, folder in folders(tmp_path).items()}
    files = {
        name: str(path)
        for name, path in paths.items()
        if isinstance(path, Path) and exif_of(name) == "ignore"
    }
    out = tmp_path / "scores.jsonl"
    code = main(["score", *files.values(), "--scorers", '[{"name": "pixels"}]', "--out", str(out)])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert code == 3 and [row["image"] for row in rows] == list(files.values())
    for name, row in zip(files, rows, strict=True):
        assert (row["error"] is None) == (TABLE[name][0] == "scored") == (row["sharpness"] is not None), row


def test_no_row_costs_a_servers_batch(tmp_path: Path):
    images = [CASES[name](folder)[0] for name, folder in folders(tmp_path).items()]
    sent = [
        image.read_bytes() if isinstance(image, Path) and image.is_file() else image for image in images
    ]  # so that the server decodes, and not the client
    scorers: list[Scorer] = [Sizes(), pixels.build()]
    with TestClient(build_app(scorers, limits=Limits(max_items=len(sent)))) as app:
        with RewardClient("http://server", batch_size=len(sent), transport=InMemory(app)) as client:
            table = client.score(sent)
    expected = score_all(scorers, images)
    np.testing.assert_array_equal(table.values, expected.values)
    assert [error is None for error in table.errors] == [gets == "scored" for gets, _ in TABLE.values()]
    for (name, (gets, why)), error in zip(TABLE.items(), table.errors, strict=True):
        for words in re.findall("`(.+)`", why) if gets == "refused" else []:
            assert words in (error or ""), name


class Sizes:
    """Width and height: what a turned picture exchanges."""

    name = "sizes"
    dimensions = ("width", "height")
    ranges = dict.fromkeys(dimensions, (1.0, 1e6))

    def score(self, images: Sequence[ImageLike], prompts: Sequence[str] | None = None) -> ScoreTable:
        return ScoreTable.computed(self.dimensions, [to_rgb(image).size for image in images])


@pytest.mark.parametrize(("exif", "size"), [("ignore", [28, 20]), ("apply", [20, 28])])
def test_a_server_turns_encoded_pictures_as_it_is_told(exif: Exif, size: list[int]):
    buffer = io.BytesIO()
    PIL_PICTURE.save(buffer, "JPEG", exif=oriented(6))
    kind, body = encode_request(ScoreRequest((buffer.getvalue(),)))
    app = build_app([Sizes()], exif=exif, scored_by="sizes")
    response = TestClient(app).post("/v1/score", content=body, headers={"Content-Type": kind})
    assert response.json()["values"] == [size]
    assert TestClient(app).get("/v1/scorers").json()["scored_by"] == "sizes"
