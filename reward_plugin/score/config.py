"""Options of `python -m reward_plugin score`; light, so that `--help` needs nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

# written here because ScoreConfig has an option named list
Names: TypeAlias = list[str]
Specs: TypeAlias = list[dict[str, Any]]


@dataclass(frozen=True)
class ScoreConfig:
    """What to score pictures with, and where the scores go.

    Attributes:
        model: UniPercept checkpoint, a folder or a hub id.
        scorers: Scorers to run instead or as well: names such as pixels,ocr; a list of `{name: ..., option:
            ...}`; or a YAML file with such a list under `scorers`, as a server's config has.
        url: Address of a reward server that scores instead; several for several servers.
        token_file: File with the server's shared secret; without it, the variable REWARD_TOKEN.
        device: Of `model`: auto, cpu, cuda or cuda:N.
        dtype: Of `model`: auto (bfloat16 on CUDA, float32 on CPU), float32, bfloat16 or float16.
        prompt: Prompt of the pictures that bring none, for scorers that compare with one.
        recursive: Look into the folders inside folders, too.
        exif: Turn pictures as their EXIF orientation says (apply), or take the pixels as they are stored, as
            the published scorers do (ignore).
        out: File of all rows, .jsonl, .csv or .parquet by its suffix. Where it exists, the run goes on: what
            is in it is not scored again.
        retry: Score again what failed before, in a run that goes on.
        filter: Which rows are wanted, such as 'iaa>60 and iqa>=70'; a missing score never passes.
        sheet: Contact sheet of best and worst pictures to draw, a .png or .jpg file.
        sheet_by: Dimensions of the contact sheet, such as iqa,ista; the first three by default.
        batch_size: Pictures scored at once.
        workers: Threads that read and decode.
        list: File for what passes the filter: .txt (paths), .jsonl, .csv or .parquet. Without it, it is
            printed.
    """

    model: str | None = None
    scorers: Specs | str = field(default_factory=list)
    url: Names | str | None = None
    token_file: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    prompt: str | None = None
    recursive: bool = False
    exif: Literal["ignore", "apply"] = "ignore"
    out: Path | None = None
    retry: bool = False
    filter: str | None = None
    sheet: Path | None = None
    sheet_by: Names | str = field(default_factory=list)
    batch_size: int = 16
    workers: int = 4
    list: Path | None = None  # last, because it hides the builtin from the lines after it
