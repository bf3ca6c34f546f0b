"""Pictures to model input: decoded and resized in threads, ahead of the model.

`pil` resizes as the published code does, to the bit: PIL's bicubic filter with antialiasing, across, then
down, each rounded to 8 bits. `torch` does the same on the model's device, where it costs next to nothing;
its filter has floating-point weights where PIL's are rounded, so a few values differ by one level of 255,
and scores by what `benchmarks/score_deltas.py` prints.

Shapes: B images, S image side.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Literal, TypeVar

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F

Resize = Literal["pil", "torch"]
Item = TypeVar("Item")
Result = TypeVar("Result")

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def ahead(
    work: Callable[[Item], Result], items: Iterable[Item], *, threads: int, waiting: int
) -> Generator[Result, None, None]:
    """The results of `work`, in order, computed in threads before they are asked for.

    Args:
        work: what is done to each item; what it raises is raised where its result is due.
        items: taken from only as far as needed.
        threads: how many work; 0 works in the caller, when a result is asked for.
        waiting: how many results may be under way or wait, which bounds the memory they take.
    """
    if threads == 0:
        yield from map(work, items)
        return
    source = iter(items)
    with ThreadPoolExecutor(threads, thread_name_prefix="prepare") as pool:
        try:
            due = deque(pool.submit(work, item) for item in islice(source, max(waiting, 1)))
            while due:
                result = due.popleft().result()
                due.extend(pool.submit(work, item) for item in islice(source, 1))
                yield result
        finally:  # also where the caller stops half-way
            pool.shutdown(wait=False, cancel_futures=True)


def picture(image: PIL.Image.Image, size: int, resize: str = "pil") -> np.ndarray:
    """An RGB image as uint8 [S, S, 3], or in its own size where the device will resize it."""
    if resize == "pil":
        image = image.resize((size, size), PIL.Image.Resampling.BICUBIC)
    return np.asarray(image)


def to_input(pictures: Sequence[np.ndarray], size: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Uint8 [height, width, 3] pictures to float32 [B, 3, S, S] with ImageNet's mean 0 and deviation 1.

    Pictures cross to the device as bytes. Those that are not yet S x S are resized there.
    """
    alike: dict[tuple[int, ...], list[int]] = {}
    for i, one in enumerate(pictures):
        alike.setdefault(one.shape, []).append(i)
    pixels = torch.empty(len(pictures), 3, size, size, device=device)
    for shape, rows in alike.items():
        stacked = torch.from_numpy(np.stack([pictures[i] for i in rows])).to(device)
        values = stacked.permute(0, 3, 1, 2).float()
        if shape[:2] != (size, size):
            for step in ((shape[0], size), (size, size)):
                values = F.interpolate(values, step, mode="bicubic", antialias=True).clamp_(0, 255).round_()
        pixels[rows] = values
    mean, std = (torch.tensor(three, device=device).view(3, 1, 1) for three in (IMAGENET_MEAN, IMAGENET_STD))
    return pixels.div_(255).sub_(mean).div_(std)
