"""Pictures in, rows out: what the four commands share.

Rows are written as they come. One that a file holds already is not made again; a picture that cannot be read
has a row with its error and costs no other.
"""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import PIL.Image
from tqdm import tqdm

from reward_plugin.errors import ConfigError
from reward_plugin.images import to_rgb_each
from reward_plugin.language.config import Common
from reward_plugin.score.identity import describe
from reward_plugin.score.inputs import Item
from reward_plugin.score.output import RowFile, open_rows

if TYPE_CHECKING:
    from reward_plugin.language.chat import Chat

Row: TypeAlias = dict[str, Any]
#: Pictures that could be read, each with its item -> what is said about each.
Work: TypeAlias = Callable[[Sequence[Item], Sequence[PIL.Image.Image]], list[Row]]

#: Exit code where some pictures have an error.
SOME_FAILED = 3
#: Keys that the commands write themselves.
OWN_KEYS = ("error", "scored_by")
#: Options that do not change what is said.
_NOT_DECIDING = ("model", "out", "retry", "recursive", "batch_size")


def identity(name: str, config: Common, **content: Any) -> str:
    """What made a row, in one short text: the command, and a digest of its options and the model's files."""
    options = {key: value for key, value in vars(config).items() if key not in _NOT_DECIDING}
    return describe({"name": name, **options, "path": config.model, **content})


def load_chat(config: Common) -> Chat:
    """The model, to be asked."""
    from reward_plugin.devices import resolve
    from reward_plugin.engines import shared_checkpoint
    from reward_plugin.language.chat import Chat

    device, dtype = resolve(config.device, config.dtype)
    checkpoint = shared_checkpoint(
        config.model,
        device=device,
        dtype=dtype,
        attention=config.attention,
        revision=config.revision,
        quantise=config.quantise,
    )
    return Chat(checkpoint, system_message=config.system_message, batch_size=config.batch_size)


def make_rows(
    items: Sequence[Item],
    config: Common,
    scored_by: str,
    load: Callable[[], Work],
    pictures_at_once: int,
    stale: Callable[[Row], bool] | None = None,
) -> list[Row]:
    """The row of each item: from the file, or made now and written or printed.

    Args:
        items: what to talk about; keys that they bring go into their rows.
        config: where to and how.
        scored_by: see `identity`.
        load: gets the model ready; not called where nothing is left to do.
        pictures_at_once: items that one call of the work takes.
        stale: of a row that the file holds, whether it is to be made again.

    Raises:
        ConfigError: an option, a list or the file is wrong.
    """
    check(config, items)
    out = None if config.out is None else open_rows(config.out, scored_by)
    rows: list[Row | None] = []
    try:
        rows = _found(items, out, lambda row: (config.retry and row["error"]) or (stale and stale(row)))
        todo = [index for index, row in enumerate(rows) if row is None]
        if out is not None and len(todo) < len(items):
            say(f"{len(items) - len(todo)} of {len(items)} are in {config.out} already")
        if todo:
            work = load()
            if out is not None:
                out.start(())
            shown = sys.stderr.isatty() and not (out is None and sys.stdout.isatty())
            with tqdm(total=len(todo), unit="img", disable=not shown, smoothing=0.1) as bar:
                for start in range(0, len(todo), pictures_at_once):
                    batch = todo[start : start + pictures_at_once]
                    new = _batch([items[index] for index in batch], config, scored_by, work)
                    _give(new, out)
                    for index, row in zip(batch, new, strict=True):
                        rows[index] = row
                    bar.update(len(batch))
    except KeyboardInterrupt:
        where = "" if out is None else f"; they are in {config.out}, and the same command goes on from there"
        say(f"interrupted: {sum(row is not None for row in rows)} of {len(items)} are done{where}")
        raise
    finally:
        if out is not None:
            out.close()
    return [row for row in rows if row is not None]


def exit_code(rows: Sequence[Row], out: Path | None) -> int:
    """Say how many there are; 3 where some have an error."""
    failed = sum(row["error"] is not None for row in rows)
    if failed:
        say(
            f"{failed} of {len(rows)} have an error"
            + ("; their rows say why" if out is None else f": see {out}")
        )
    if out is not None:
        say(f"{len(rows)} rows: {out}")
    return SOME_FAILED if failed else 0


def check(config: Common, items: Sequence[Item]) -> None:
    """Whatever can be wrong before minutes of loading."""
    for name in ("batch_size", "max_new_tokens"):
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} {getattr(config, name)}: it must be at least 1")
    if config.out is not None and config.out.suffix.lower() != ".jsonl":
        raise ConfigError(f"out {config.out}: answers are nested; give a .jsonl file")
    if config.retry and config.out is None:
        raise ConfigError("retry: it goes on with a file; give --out FILE")
    for key in {key for item in items for key in item.extra if key in OWN_KEYS}:
        raise ConfigError(f"a list of pictures has a key {key!r}, which is written here; rename it there")


def say(message: str) -> None:
    """One line for the person at the terminal."""
    print(f"reward_plugin: {message}", file=sys.stderr)


def _batch(items: Sequence[Item], config: Common, scored_by: str, work: Work) -> list[Row]:
    pictures, errors = to_rgb_each([item.image for item in items], exif=config.exif)
    readable = [item for item, error in zip(items, errors, strict=True) if error is None]
    said = iter(work(readable, pictures) if readable else [])
    rows = []
    for item, error in zip(items, errors, strict=True):
        content: Mapping[str, Any] = next(said) if error is None else {"error": error}
        prompt = {} if item.prompt is None else {"prompt": item.prompt}
        rows.append({"image": item.image, **prompt, **item.extra, **content})
        rows[-1]["error"] = rows[-1].pop("error", None)  # last but one in every row
        rows[-1]["scored_by"] = scored_by
    return rows


def _give(rows: Sequence[Row], out: RowFile | None) -> None:
    if out is not None:
        out.append(rows)
        return
    for row in rows:
        print(json.dumps(row, ensure_ascii=False), flush=True)


def _found(items: Sequence[Item], out: RowFile | None, again: Callable[[Row], object]) -> list[Row | None]:
    """The row of each item that the file holds already, or None; rows to be made again leave the file."""
    if out is None:
        return [None] * len(items)
    kept = [row for row in out.rows if not again(row)]
    if len(kept) < len(out.rows):
        out.keep(kept)
    there: defaultdict[tuple[Any, ...], deque[Row]] = defaultdict(deque)
    for row in out.rows:
        there[os.path.abspath(row["image"]), row.get("prompt"), row.get("question")].append(row)
    keys = [(*item.key, item.extra.get("question")) for item in items]
    return [there[key].popleft() if there[key] else None for key in keys]
