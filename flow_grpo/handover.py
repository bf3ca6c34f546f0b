"""From the device to the scorers without holding up either: pictures leave while the next chunk is sampled.

On a GPU the host runs ahead of the device. A chunk's pictures are copied into pinned memory behind its
decoding, and a thread, not the sampling loop, waits for that copy. On the CPU the pictures are there at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

import numpy as np
import torch

from flow_grpo.policy.base import as_bytes

T = TypeVar("T")


@dataclass(frozen=True)
class Handed(Generic[T]):
    """A chunk that left the device.

    Attributes:
        images: uint8 [B, H, W, 3].
        finite: Whether every picture is; if not, nothing was handed in.
        scores: What handing it in returned; None where it is not finite.
    """

    images: np.ndarray
    finite: bool
    scores: Future[T] | None


class Handover(Generic[T]):
    """Hands pictures in, chunk by chunk, in order.

    Args:
        submit: Takes pictures and texts, and starts scoring them.
    """

    def __init__(self, submit: Callable[[list[np.ndarray], list[str]], Future[T]]) -> None:
        self._submit = submit
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="handover")
        self._given: list[Future[Handed[T]]] = []

    def give(self, pictures: torch.Tensor, texts: Sequence[str]) -> None:
        """Send a chunk on its way.

        Args:
            pictures: float32 [B, H, W, 3] in [0, 1]; a latent that is not finite shows in them, because a
                decoder normalises.
            texts: B prompts.
        """
        tensors, arrived = _to_host([as_bytes(pictures), pictures.isfinite().all()])
        self._given.append(self._worker.submit(self._hand_in, tensors, arrived, list(texts)))

    def wait(self) -> list[Handed[T]]:
        """All chunks; those that are finite are being scored.

        Raises:
            Exception: What `submit` raised.
        """
        return [future.result() for future in self._given]

    def _hand_in(
        self, tensors: Sequence[torch.Tensor], arrived: Callable[[], None], texts: list[str]
    ) -> Handed[T]:
        arrived()
        images, finite = tensors[0].numpy(), bool(tensors[1])
        return Handed(images, finite, self._submit(list(images), texts) if finite else None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._worker.shutdown(cancel_futures=True)


class Clock:
    """Seconds of consecutive phases on the device's own clock, which is the host's where there is no GPU.

    A GPU runs behind the host, so the host's clock would tell how long launching took.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._marks: list[tuple[str, float | torch.cuda.Event]] = [("", self._now())]

    def mark(self, phase: str) -> None:
        """What was started since the last mark belongs to this phase."""
        self._marks.append((phase, self._now()))

    def seconds(self) -> dict[str, float]:
        """Seconds of each phase; waits for the device."""
        if self._on_gpu:
            torch.cuda.synchronize()
        total: dict[str, float] = {}
        for (_, start), (phase, end) in zip(self._marks, self._marks[1:], strict=False):
            total[phase] = total.get(phase, 0.0) + _between(start, end)
        return total

    def _now(self) -> float | torch.cuda.Event:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _between(start: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
    if isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
        return float(start.elapsed_time(end)) / 1000
    assert isinstance(start, float) and isinstance(end, float)
    return end - start


def _to_host(tensors: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], Callable[[], None]]:
    """Tensors on the CPU, and what to call before reading them."""
    if tensors[0].device.type != "cuda":
        return [tensor.cpu() for tensor in tensors], lambda: None
    copies = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
    for copy, tensor in zip(copies, tensors, strict=True):
        copy.copy_(tensor, non_blocking=True)
    event = torch.cuda.Event(blocking=True)
    event.record()
    return copies, event.synchronize
