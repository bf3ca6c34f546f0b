"""Pictures read and decoded in threads, ahead of whoever scores them.

PIL decodes without holding the interpreter lock, so a few threads keep a GPU busy from JPEG files.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from reward_plugin.errors import BadImage
from reward_plugin.images import MAX_PIXELS, Exif, to_rgb
from reward_plugin.score.inputs import Item

if TYPE_CHECKING:
    import PIL.Image

#: Pixels that one batch may hold: 768 MB as RGB. Only batches of very large pictures are cut shorter for it.
BATCH_PIXELS = 4 * MAX_PIXELS


@dataclass(frozen=True)
class Loaded:
    """An item that was read, or why it could not be.

    Attributes:
        item: what it is.
        picture: decoded, or the file's bytes for a server; None where there is an error.
        weight: pixels or bytes of it.
        error: the reason, or None.
    """

    item: Item
    picture: PIL.Image.Image | bytes | None
    weight: int
    error: str | None = None


Load: TypeAlias = Callable[[Item], Loaded]


def decoder(exif: Exif) -> Load:
    """Reads an item's file into an RGB picture; its weight is in pixels."""

    def load(item: Item) -> Loaded:
        try:
            picture = to_rgb(item.image, exif=exif)
        except BadImage as error:
            return Loaded(item, None, 0, str(error))
        return Loaded(item, picture, picture.width * picture.height)

    return load


def byte_reader(max_bytes: int) -> Load:
    """Reads an item's file as it is, for a server to decode; its weight is in bytes."""

    def load(item: Item) -> Loaded:
        path = Path(item.image)
        try:
            size = path.stat().st_size
            if not path.is_file():
                return Loaded(item, None, 0, f"{item.image}: not a file")
            if size > max_bytes:
                return Loaded(
                    item, None, 0, f"{item.image}: {size} bytes; the server takes {max_bytes} at once"
                )
            return Loaded(item, path.read_bytes(), size)
        except FileNotFoundError:
            return Loaded(item, None, 0, f"{item.image}: no such file")
        except (OSError, ValueError) as error:  # not permitted; a name that no file can have
            return Loaded(item, None, 0, f"{item.image}: {getattr(error, 'strerror', None) or error}")

    return load


def batches(
    items: Sequence[Item], load: Load, *, size: int, workers: int, max_weight: int = BATCH_PIXELS
) -> Iterator[list[Loaded]]:
    """Items in order, read ahead by `workers` threads, in batches for one call of the scorers.

    A batch ends after `size` items, and before it would weigh more than `max_weight`; about as much is read
    ahead.
    """
    batch: list[Loaded] = []
    weight = 0
    for loaded in _ahead(items, load, size + workers, workers, max_weight):
        if len(batch) == size or (batch and weight + loaded.weight > max_weight):
            yield batch
            batch, weight = [], 0
        batch.append(loaded)
        weight += loaded.weight
    if batch:
        yield batch


def _ahead(
    items: Iterable[Item], load: Load, distance: int, workers: int, max_weight: int
) -> Iterator[Loaded]:
    """Items in order; `distance` of them are under way, or fewer that weigh `max_weight` together.

    One that is not read yet counts like the heaviest so far.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="read")
    waiting: deque[Future[Loaded]] = deque()
    heaviest = 0
    try:
        for item in items:
            waiting.append(pool.submit(load, item))
            while len(waiting) > distance or _weight(waiting, heaviest or max_weight // workers) > max_weight:
                loaded = waiting.popleft().result()
                heaviest = max(heaviest, loaded.weight)
                yield loaded
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _weight(waiting: Iterable[Future[Loaded]], unread: int) -> int:
    return sum(future.result().weight if future.done() else unread for future in waiting)
