"""What `python -m eval rating` is asked for. Nothing here is imported for type checkers only."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from eval.metrics import Bootstrap
from eval.rating_sets import SETS, Dimension


@dataclass(frozen=True)
class RatingSet:
    """Where a set lies, if not where the published layout has it below `root`.

    Attributes:
        data: Its file: a .json list of {"image": NAME, "gt_score": NUMBER}, or .jsonl, one of them a line.
        images: Folder that the names are relative to; by default `image` or `images` beside the file, else
            the file's own folder.
        dimension: What was rated: iaa, iqa or ista; known for the published sets. Without it every dimension
            is compared.
    """

    data: str | None = None
    images: str | None = None
    dimension: Dimension | None = None


@dataclass(frozen=True)
class RatingConfig:
    """Compare scores with people's ratings, on any number of data sets and with any number of scorers.

    Attributes:
        title: Heading of the page.
        root: Folder in which the published sets lie as UniPercept's repository has them (its benchmark/VR).
        sets: Name -> where it lies. Names of published sets need nothing more, given `root`.
        only: Names of the sets to run; all by default.
        data: One file instead of `sets`.
        images: Folder of that file's pictures.
        dimension: What that file rates.
        columns: Set -> dimensions of the scorers to compare with it, instead of those that fit.
        all_dimensions: Compare every dimension with every set, also iqa with a rating of aesthetics.
        duplicates: A picture that a file has twice counts twice (keep, as published), or once, with the first
            rating (first). Either way it is reported.
        model: UniPercept checkpoint, a folder or a hub id.
        scorers: Scorers to run instead or as well: names such as pixels,laion; a list of `{name: ..., option:
            ...}`, `prefix: TEXT` for a second one of a kind; or a YAML file with such a list.
        url: Address of a reward server that scores instead; several for several servers.
        token_file: File with the server's shared secret; without it, the variable REWARD_TOKEN.
        device: Of `model`: auto, cpu, cuda or cuda:N.
        dtype: Of `model`: auto (bfloat16 on CUDA, float32 on CPU), float32, bfloat16 or float16.
        prompt: Prompt of every picture, for scorers that compare with one.
        exif: Turn pictures as their EXIF orientation says (apply), or take the pixels as they are stored, as
            the published scorers do (ignore).
        batch_size: Pictures scored at once.
        workers: Threads that read and decode.
        retry: Score again what failed before, in a run that goes on.
        bootstrap: How intervals are made.
        out: Folder of rows, results, tables and page. Where it holds rows, the run goes on.

    Raises:
        ValueError: There is nothing to rate, or an unknown set is named.
    """

    title: str = "Scores against ratings"
    root: str | None = None
    sets: dict[str, RatingSet] = field(default_factory=dict)
    only: list[str] = field(default_factory=list)
    data: str | None = None
    images: str | None = None
    dimension: Dimension | None = None
    columns: dict[str, list[str]] = field(default_factory=dict)
    all_dimensions: bool = False
    duplicates: Literal["keep", "first"] = "keep"
    model: str | None = None
    scorers: list[dict[str, Any]] | str = field(default_factory=list)
    url: list[str] | str | None = None
    token_file: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    prompt: str | None = None
    exif: Literal["ignore", "apply"] = "ignore"
    batch_size: int = 16
    workers: int = 4
    retry: bool = False
    bootstrap: Bootstrap = field(default_factory=lambda: Bootstrap(resamples=2000))
    out: str = "runs/rating"

    def __post_init__(self) -> None:
        if self.data is not None and self.sets:
            raise ValueError(f"data is {self.data}, and sets has {', '.join(self.sets)}; give one of the two")
        if self.data is None and not self.sets:
            raise ValueError("nothing to rate: give --data FILE and --images FOLDER, or sets in a config")
        if self.data is None and (self.images is not None or self.dimension is not None):
            raise ValueError("images and dimension belong to data; inside sets each set has its own")
        for option in ("only", "columns"):
            for name in getattr(self, option):
                if name not in self.places():
                    raise ValueError(
                        f"{option}: there is no set {name!r}; there are {', '.join(self.places())}"
                    )
        for name, place in self.places().items():
            if place.data is None and (self.root is None or name not in SETS):
                raise ValueError(
                    f"sets.{name} has no data; give its file, or root for one of the published sets "
                    f"({', '.join(SETS)})"
                )

    def places(self) -> dict[str, RatingSet]:
        """Every set by its name, complete but for what the published layout knows."""
        if self.data is not None:
            return {Path(self.data).stem: RatingSet(self.data, self.images, self.dimension)}
        return self.sets

    def chosen(self) -> dict[str, RatingSet]:
        """The sets to run, with files, folders and dimensions filled in."""
        found = {}
        for name, place in self.places().items():
            if self.only and name not in self.only:
                continue
            known = SETS.get(name)
            data, images = place.data, place.images
            if data is None:
                assert known is not None and self.root is not None
                data = str(Path(self.root) / known.folder / known.file)
            dimension = place.dimension or (known.dimension if known else None)
            found[name] = RatingSet(data, images or _beside(data), dimension)
        return found


def _beside(data: str) -> str:
    folder = Path(data).parent
    beside = [folder / name for name in ("image", "images")]
    return str(next((path for path in beside if path.is_dir()), folder))
