"""Pictures of the next steps are opened, resized and cropped by threads while the model computes.

They stay 8 bit until they are on the device, where they are normalised: a quarter of the bytes to move, and
the threads spend their time in PIL, which lets others run.

Shapes:  n questions of a task, k pictures and t texts of each, H height, W width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reward_plugin.errors import BadImage, CheckpointError
from reward_plugin.images import to_rgb
from reward_plugin.unisim.train.config import Task
from reward_plugin.unisim.train.questions import Question

#: A micro-batch before its pictures are opened.
Plan = Mapping[Task, Sequence[Question]]


@dataclass(frozen=True)
class Part:
    """Questions of one task in a micro-batch.

    Attributes:
        pixels: uint8 [n, k, 3, H, W].
        texts: int64 [n, t], rows of the table of text embeddings.
        labels: int64 [n], 0 or 1.
        valid: bool [n]; False where a picture could not be opened.
        errors: Why, a sentence for each such question.
    """

    pixels: torch.Tensor
    texts: torch.Tensor
    labels: torch.Tensor
    valid: torch.Tensor
    errors: tuple[str, ...]


class Opener:
    """Opens files as the model's own preprocessing has them before it normalises.

    Args:
        processor: A CLIP's image processor, of the PIL kind.
        sample: Any picture; its size after processing is that of all.
    """

    def __init__(self, processor: Any, sample: Path) -> None:
        self._processor = processor
        self.shape = tuple(self._opened(sample).shape)

    def fill(self, files: Sequence[Path], target: torch.Tensor) -> str | None:
        """Put pictures into uint8 [k, 3, H, W]; what is wrong with one of them, or None."""
        for file, place in zip(files, target, strict=True):
            try:
                place.copy_(self._opened(file))
            except BadImage as error:
                target.zero_()
                return str(error)
        return None

    def _opened(self, file: Path) -> torch.Tensor:
        given = self._processor(
            [to_rgb(file)], return_tensors="pt", do_rescale=False, do_normalize=False
        ).pixel_values[0]
        if given.dtype != torch.uint8 or given.shape != getattr(self, "shape", given.shape):
            raise CheckpointError(
                f"preprocessor_config.json makes {given.dtype} {tuple(given.shape)} of {file}; UniSim needs "
                "pictures of one size: crop_size, or a size of height and width"
            )
        return given


def opened(
    plans: Iterable[Plan],
    opener: Opener,
    rows: Mapping[str, int],
    words: int,
    pool: ThreadPoolExecutor,
    depth: int,
) -> Generator[dict[Task, Part], None, None]:
    """Micro-batches with their pictures, in order; up to `depth` more are being opened meanwhile.

    Args:
        plans: What to open.
        opener: How.
        rows: Text -> its row in the table of text embeddings.
        words: The row of what `iqa` compares pictures with.
        pool: Threads that open.
        depth: Micro-batches ahead of the one that is given out.
    """
    waiting: deque[dict[Task, _Opening]] = deque()
    for plan in plans:
        waiting.append(
            {task: _Opening(task, given, opener, rows, words, pool) for task, given in plan.items()}
        )
        if len(waiting) > depth:
            yield {task: opening.wait() for task, opening in waiting.popleft().items()}
    while waiting:
        yield {task: opening.wait() for task, opening in waiting.popleft().items()}


class _Opening:
    """Questions whose pictures are being opened, each by one thread into its own place."""

    def __init__(
        self,
        task: Task,
        questions: Sequence[Question],
        opener: Opener,
        rows: Mapping[str, int],
        words: int,
        pool: ThreadPoolExecutor,
    ) -> None:
        shape = (len(questions), len(questions[0].images), *opener.shape)
        self._pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        texts = [[words] if task == "iqa" else [rows[text] for text in q.texts] for q in questions]
        self._texts = torch.tensor(texts, dtype=torch.int64).reshape(len(questions), -1)
        self._labels = torch.tensor([question.label for question in questions])
        self._waiting: list[Future[str | None]] = [
            pool.submit(opener.fill, question.images, place)
            for question, place in zip(questions, self._pixels, strict=True)
        ]

    def wait(self) -> Part:
        """All of them.

        Raises:
            CheckpointError: the model's preprocessing does not make pictures of one size.
        """
        reasons = [future.result() for future in self._waiting]
        valid = torch.tensor([reason is None for reason in reasons])
        errors = tuple(reason for reason in reasons if reason is not None)
        return Part(self._pixels, self._texts, self._labels, valid, errors)
