"""What `python -m eval unisim` is asked for. Nothing here is imported for type checkers only."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from eval.unisim.samples import TASKS
from reward_plugin.unisim.prompts import PROMPTS

Kind: TypeAlias = Literal["encoder", "scorer", "generative", "pixels"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True)
class ModelConfig:
    """One model.

    Attributes:
        name: What tables and files call it: letters, digits and . _ + -
        kind: encoder (embeddings of pictures and texts), scorer (a reward model), generative (writes the
            letter of its choice), or pixels (a floor, which needs no model).
        path: Of an encoder or a generative model: folder or hub id.
        weights: Of an encoder: UniSim's published file, or an adapter folder, on top of `path`.
        revision: Branch, tag or commit of a hub id.
        scorer: Of a scorer: its name in `scorers`, or {name: ..., option: ...}.
        columns: Of a scorer: task, or task/attribute, -> dimension to choose by, instead of the one that
            fits; "-" in front where lower is better.
        techniques: Of encoders, and of scorers that compare with a text: how quality and attributes are
            rated; the best on a task's average counts, as published.
        examples: Of a generative model: questions with answers that come before each question.
        device: auto, cpu, cuda or cuda:N.
        dtype: auto (bfloat16 on CUDA, float32 on CPU), float32, bfloat16 or float16; by default what the kind
            of model was published with.
        batch_size: Pictures at once, 64 by default; of a generative model questions, 8 by default.
        options: Further options of the encoder or the generative model, by their names in Python.
        group: Such as general or specialised; agreement between tasks is also reported within each group.

    Raises:
        ValueError: An option is missing, or belongs to another kind.
    """

    name: str
    kind: Kind
    path: str | None = None
    weights: str | None = None
    revision: str | None = None
    scorer: dict[str, Any] | str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    techniques: list[str] = field(default_factory=lambda: ["naive", "clip_iqa"])
    examples: int = 0
    device: str = "auto"
    dtype: str | None = None
    batch_size: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    group: str | None = None

    def __post_init__(self) -> None:
        where = f"models, {self.name!r}"
        if not _NAME.fullmatch(self.name) or "__" in self.name:
            raise ValueError(
                f"{where}: a name is made of letters, digits and . _ + -, and has no __ in it: files are "
                "called by it"
            )
        if self.kind in ("encoder", "generative") and self.path is None:
            raise ValueError(f"{where}: path is missing; give the folder or hub id of the {self.kind}")
        if self.kind == "scorer" and self.scorer is None:
            raise ValueError(f"{where}: scorer is missing; give a name such as pickscore, or {{name: ...}}")
        self._foreign(where)
        if self.at_once < 1 or self.examples < 0:
            raise ValueError(
                f"{where}: batch_size is {self.batch_size} and examples {self.examples}; at least 1 and 0 "
                "are meant"
            )
        for name in self.techniques:
            if name not in PROMPTS:
                raise ValueError(f"{where}: technique {name!r}; there are {', '.join(PROMPTS)}")
        if not self.techniques:
            raise ValueError(
                f"{where}: techniques is empty; leave it out, or name one of {', '.join(PROMPTS)}"
            )
        for name in self.columns:
            if name.split("/")[0] not in TASKS:
                raise ValueError(
                    f"{where}: columns.{name}: there is no such task; there are {', '.join(TASKS)}"
                )

    @property
    def at_once(self) -> int:
        """`batch_size`, or the kind's own."""
        return (8 if self.kind == "generative" else 64) if self.batch_size is None else self.batch_size

    def _foreign(self, where: str) -> None:
        """Options that a kind does not have; a mistake that would otherwise go unseen."""
        kinds: dict[str, tuple[Kind, ...]] = {
            "path": ("encoder", "generative"),
            "weights": ("encoder",),
            "revision": ("encoder", "generative"),
            "scorer": ("scorer",),
            "columns": ("scorer",),
            "examples": ("generative",),
            "options": ("encoder", "generative"),
        }
        for option, owners in kinds.items():
            if self.kind not in owners and getattr(self, option):
                raise ValueError(
                    f"{where}: {option} belongs to {' and '.join(owners)}, and this is a {self.kind}"
                    + ("; a scorer's options stand in scorer: {name: ...}" if self.kind == "scorer" else "")
                )


@dataclass(frozen=True)
class UnisimConfig:
    """Compare models on UniSim-Bench: whether they choose as people do between pictures and texts.

    Attributes:
        title: Heading of the page.
        models: Whom to ask, in the order of the tables.
        manifests: Folder of the frozen questions, a file for each data set, named TASK__DATASET.jsonl.
        sets: Data sets to ask, as TASK/DATASET; by default those that `manifests` has. One that has no
            manifest yet is prepared first.
        only: Of these, the tasks (iqa), data sets (nights) or both (iqa/kadid) to ask; all by default.
        root: Folder below which the data lie, as the published benchmark has them.
        roots: Data set, or TASK/DATASET, -> its own folder instead.
        count: Questions to draw where a data set is prepared; as many as published by default.
        seed: Of what is drawn: questions, examples, resampled queries.
        examples_from: Folder of manifests that examples are drawn from, such as those of the training split.
            None of them is a question that is asked, nor has one of its pictures.
        confidence: Coverage of the intervals, in (0, 1).
        workers: Threads that read and decode.
        out: Folder of answers, embeddings, record, tables and page. Where it holds some, the run goes on.

    Raises:
        ValueError: There is nobody to ask, or two models share a name.
    """

    title: str = "UniSim-Bench"
    models: list[ModelConfig] = field(default_factory=list)
    manifests: str = "runs/unisim/manifests"
    sets: list[str] = field(default_factory=list)
    only: list[str] = field(default_factory=list)
    root: str | None = None
    roots: dict[str, str] = field(default_factory=dict)
    count: int | None = None
    seed: int = 0
    examples_from: str | None = None
    confidence: float = 0.95
    workers: int = 4
    out: str = "runs/unisim"

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("models is empty; name at least one, such as {name: floor, kind: pixels}")
        names = [model.name for model in self.models]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"models: two are called {name!r}; answers are kept by name")
        if self.root is None and not self.roots:
            raise ValueError("root is missing; give the folder below which the data lie, or roots")
        if self.examples_from is None and any(model.examples for model in self.models):
            raise ValueError("examples_from is missing; models that get examples need a folder of manifests")
        if not 0.0 < self.confidence < 1.0:
            raise ValueError(f"confidence is {self.confidence}; it lies between 0 and 1, like 0.95")
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}; it must be at least 1")

    def root_of(self, task: str, dataset: str) -> str | None:
        """Folder of a data set's pictures; None where none is given."""
        return self.roots.get(f"{task}/{dataset}", self.roots.get(dataset, self.root))

    def chooses(self, task: str, dataset: str) -> bool:
        """Whether `only` allows a data set."""
        return not self.only or bool({task, dataset, f"{task}/{dataset}"} & set(self.only))
