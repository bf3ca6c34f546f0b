"""What `python -m eval vqa` is asked for. Nothing here is imported for type checkers only."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from eval.vqa_sets import FIELDS, PUBLISHED


@dataclass(frozen=True)
class QuestionSet:
    """A file of questions.

    Attributes:
        data: A .json list of {"image", "question", "answer", ...}, options inside the question, or .jsonl.
        images: Folder that image names are relative to. By default each is looked for in `images` and `image`
            beside the file, beside the file itself, and in the working directory, as the published script
            does.
    """

    data: str | None = None
    images: str | None = None


@dataclass(frozen=True)
class VqaBenchmarkConfig:
    """Ask a model multiple-choice questions about pictures, and count by domain, category and criterion.

    Attributes:
        title: Heading of the page. model: UniPercept or ArtiMuse checkpoint, a folder or a hub id. root:
        Folder in which the published files lie as on the hub: ROOT/IAA/UniPercept-Bench-IAA.json. sets:
        Domain -> where its questions lie. IAA, IQA and ISTA need nothing more, given `root`. data: One file
        instead of `sets`. images: Folder of that file's pictures. domain: That file's domain; by default
        what its name begins or ends with, or what its entries say. fields: Attribute (domain, category,
        criterion, template) -> key of the entries that holds it. by: Write answers and read the letter
        (text, as published), or take the likeliest letter in one forward
            pass (likelihood).
        max_new_tokens: Longest answer in tokens; the published script allows 1024, a letter needs few.
        batch_size: Answers written at once; those about one picture stay together.
        device: auto, cpu, cuda or cuda:N.
        dtype: auto (bfloat16 on CUDA, float32 on CPU), float32, bfloat16 or float16.
        attention: Attention implementation of transformers.
        revision: Branch, tag or commit of a hub id.
        quantise: Kind of quantisation to load the model in.
        system_message: Replaces the system turn that the checkpoint asks for.
        exif: Turn pictures as their EXIF orientation says (apply), or take the pixels as they are stored, as
            the published code does (ignore).
        retry: Ask again what failed before, in a run that goes on.
        confidence: Coverage of the intervals, in (0, 1).
        out: Folder of answers, results, tables and page. Where it holds answers, the run goes on.

    Raises:
        ValueError: There is nothing to ask, or an unknown attribute is named.
    """

    title: str = "Questions about pictures"
    model: str = "Thunderbolt215215/UniPercept"
    root: str | None = None
    sets: dict[str, QuestionSet] = field(default_factory=dict)
    data: str | None = None
    images: str | None = None
    domain: str | None = None
    fields: dict[str, str] = field(default_factory=dict)
    by: Literal["text", "likelihood"] = "text"
    max_new_tokens: int = 1024
    batch_size: int = 16
    device: str = "auto"
    dtype: str = "auto"
    attention: str = "sdpa"
    revision: str | None = None
    quantise: str | None = None
    system_message: str | None = None
    exif: Literal["ignore", "apply"] = "ignore"
    retry: bool = False
    confidence: float = 0.95
    out: str = "runs/vqa"

    def __post_init__(self) -> None:
        if self.data is not None and self.sets:
            raise ValueError(f"data is {self.data}, and sets has {', '.join(self.sets)}; give one of the two")
        if self.data is None and not self.sets:
            raise ValueError("nothing to ask: give --data FILE and --images FOLDER, or sets in a config")
        if self.data is None and (self.images is not None or self.domain is not None):
            raise ValueError("images and domain belong to data; inside sets each domain has its own")
        for name in self.fields:
            if name not in FIELDS:
                raise ValueError(f"fields: there is no attribute {name!r}; there are {', '.join(FIELDS)}")
        for name, place in self.sets.items():
            if place.data is None and (self.root is None or name not in PUBLISHED):
                raise ValueError(
                    f"sets.{name} has no data; give its file, or root for {', '.join(PUBLISHED)} of "
                    "UniPercept-Bench"
                )
        if not 0.0 < self.confidence < 1.0:
            raise ValueError(f"confidence is {self.confidence}; it lies between 0 and 1, like 0.95")

    def chosen(self) -> dict[str, QuestionSet]:
        """Domain -> file, all filled in."""
        if self.data is not None:
            return {self.domain or _domain(self.data): QuestionSet(self.data, self.images)}
        found = {}
        for name, place in self.sets.items():
            data = place.data
            if data is None:
                assert self.root is not None
                data = str(Path(self.root) / name / f"UniPercept-Bench-{name}.json")
            found[name] = QuestionSet(data, place.images)
        return found


def _domain(data: str) -> str:
    """`IAA` for UniPercept-Bench-IAA.json; otherwise the file's own name."""
    stem = Path(data).stem
    words = stem.replace("_", "-").split("-")
    return next((name for name in PUBLISHED if name in (words[0].upper(), words[-1].upper())), stem)
