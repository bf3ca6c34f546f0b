"""Contact sheet: the best and the worst pictures of each dimension, with their scores.

All lengths are in pixels.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
from PIL import ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from reward_plugin.errors import BadImage, ConfigError
from reward_plugin.images import Exif, to_rgb
from reward_plugin.score.formats import check_folder, write_atomically
from reward_plugin.score.rows import Row, scores_of
from reward_plugin.score.show import shorten
from reward_plugin.score.summary import decimals

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
MARK = "contact sheet of reward_plugin"  # in the file's comment
TILE, GAP, MARGIN = 148, 12, 28
COLUMNS = 8
CAPTION, HEADING, TITLE, LABEL = 46, 40, 44, 60  # heights, and the width of "highest" and "lowest"
PAPER, INK, GREY, FRAME = "#fafaf8", "#1c1c1a", "#77776f", "#e9e9e4"
BEST, WORST = "#1f7a4d", "#b3402f"


def check_sheet(path: Path) -> None:
    """ConfigError where a sheet cannot be written to this path, or would take another picture's place."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"sheet {path}: its suffix must be one of {', '.join(FORMATS)}")
    check_folder("sheet", path)
    if path.exists() and not is_sheet(path):
        raise ConfigError(f"sheet {path}: is there, and no contact sheet; give another file")


def is_sheet(path: Path) -> bool:
    """Whether a file is a contact sheet that was written here."""
    try:
        with PIL.Image.open(path, formats=tuple(set(FORMATS.values()))) as image:
            return MARK.encode() in (image.info.get("comment"), image.info.get("Comment", "").encode())
    except (OSError, ValueError, SyntaxError):
        return False


def write_sheet(path: Path, rows: Sequence[Row], dimensions: Sequence[str], exif: Exif = "ignore") -> None:
    """Draw a sheet and write it atomically."""
    buffer = io.BytesIO()
    kind, note = FORMATS[path.suffix.lower()], PngInfo()
    note.add_text("Comment", MARK)
    sheet = draw_sheet(rows, dimensions, exif)
    sheet.save(buffer, kind, quality=92, optimize=True, comment=MARK.encode(), pnginfo=note)
    write_atomically(path, buffer.getvalue())


def draw_sheet(rows: Sequence[Row], dimensions: Sequence[str], exif: Exif = "ignore") -> PIL.Image.Image:
    """For each dimension a row of the best and one of the worst; no picture is in both.

    Dimensions without a score are left out.
    """
    ranked = {name: best_and_worst(rows, name) for name in dimensions}
    blocks = {name: pair for name, pair in ranked.items() if pair[0]}
    columns = max([len(part) for pair in blocks.values() for part in pair], default=0)
    columns = max(columns, 3)
    band = TILE + CAPTION + GAP
    height = (
        MARGIN + TITLE + sum(HEADING + band * (2 if worst else 1) for _, worst in blocks.values()) + MARGIN
    )
    width = 2 * MARGIN + LABEL + columns * (TILE + GAP) - GAP
    sheet = PIL.Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    failed = sum(bool(row.get("error")) for row in rows)
    title = f"{len(rows)} pictures" + (f", {failed} without a complete score" if failed else "")
    draw.text((MARGIN, MARGIN), title, INK, ImageFont.load_default(20))
    top = MARGIN + TITLE
    for name, (best, worst) in blocks.items():
        scores = scores_of(rows, name)
        draw.line((MARGIN, top, width - MARGIN, top), FRAME, 2)
        draw.text((MARGIN, top + 11), name, INK, ImageFont.load_default(18))
        digits = decimals(float(np.nanmin(scores)), float(np.nanmax(scores)))
        mean = f"mean {np.nanmean(scores):.{digits}f}"
        draw.text((width - MARGIN, top + 13), mean, GREY, ImageFont.load_default(14), anchor="ra")
        top += HEADING
        # a higher score is not a better one in every dimension
        for label, chosen, colour in (("highest", best, BEST), ("lowest", worst, WORST)):
            if not chosen:
                continue
            draw.text((MARGIN, top + TILE // 2 - 8), label, colour, ImageFont.load_default(14))
            for column, row in enumerate(chosen):
                _tile(
                    sheet, draw, MARGIN + LABEL + column * (TILE + GAP), top, row, name, digits, colour, exif
                )
            top += band
    return sheet


def best_and_worst(rows: Sequence[Row], dimension: str, count: int = COLUMNS) -> tuple[list[Row], list[Row]]:
    """Up to `count` rows from either end, best first and worst first; the same row is never in both."""
    scores = scores_of(rows, dimension)
    order = [int(i) for i in np.argsort(scores, kind="stable") if np.isfinite(scores[i])]
    low = min(count, len(order) // 2)
    high = min(count, len(order) - low)
    return [rows[i] for i in reversed(order[len(order) - high :])], [rows[i] for i in order[:low]]


def _tile(
    sheet: PIL.Image.Image,
    draw: ImageDraw.ImageDraw,
    left: int,
    top: int,
    row: Row,
    dimension: str,
    digits: int,
    colour: str,
    exif: Exif,
) -> None:
    draw.rectangle((left, top, left + TILE - 1, top + TILE - 1), FRAME)
    try:
        picture = to_rgb(row["image"], exif=exif)
    except BadImage:  # scored in an earlier run, and gone since
        draw.text((left + TILE // 2, top + TILE // 2), "not there any more", GREY, anchor="mm", font_size=12)
    else:
        scale = TILE / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        # small pictures are enlarged in whole pixels, so that what was scored is what is seen
        filter_ = PIL.Image.Resampling.LANCZOS if scale < 1 else PIL.Image.Resampling.NEAREST
        thumb = picture.resize(size, filter_)
        sheet.paste(thumb, (left + (TILE - thumb.width) // 2, top + (TILE - thumb.height) // 2))
    score = f"{float(row[dimension]):.{digits}f}"
    draw.text((left, top + TILE + 5), score, colour, ImageFont.load_default(15))
    small = ImageFont.load_default(12)
    name = Path(row["image"]).name.encode("latin-1", "replace").decode("latin-1")  # what the font has
    letters = len(name)
    while letters > 3 and draw.textlength(shorten(name, letters), small) > TILE:
        letters -= 1
    draw.text((left, top + TILE + 25), shorten(name, letters), GREY, small)
