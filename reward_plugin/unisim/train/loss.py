"""The hinge on differences of cosines. Pure functions of tensors.

Shapes:  n questions of a task, D dimensions of an embedding; embeddings have length 1.
"""

from __future__ import annotations

import torch

from reward_plugin.unisim.train.config import Task


def leads(task: Task, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """By how much the first choice's cosine leads the other's, [n], in [-2, 2].

    Args:
        task: What is compared with what.
        images: [n, 3, D] (reference, first, other), [n, 2, D] (first, other), or [n, 1, D] of `text_2afc`.
        texts: [n, 2, D] (first, other) of `text_2afc`; [n, 1, D], the prompt or the words for quality, of
            `it_2afc` and `iqa`; unused in `img_2afc`.
    """
    if task == "img_2afc":
        anchor, choices = images[:, :1], images[:, 1:]
    elif task == "text_2afc":
        anchor, choices = images, texts
    else:
        anchor, choices = texts, images
    cosines = (anchor * choices).sum(-1)
    return cosines[:, 0] - cosines[:, 1]


def hinge(lead: torch.Tensor, labels: torch.Tensor, margin: float) -> torch.Tensor:
    """max(0, margin - y lead), [n]; y = 1 where the first choice is right (label 0), -1 where the other is.

    Equation 2 of arXiv 2412.10594: zero once the right choice leads by the margin.
    """
    return (margin - _signs(labels) * lead).clamp(min=0)


def right(lead: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Whether the right choice leads, bool [n]. A tie is none, whichever is right."""
    return _signs(labels) * lead > 0


def reduced(losses: torch.Tensor, valid: torch.Tensor, batch: int, reduction: str) -> torch.Tensor:
    """This process's part of a task's loss, a scalar; the parts of all processes add up to it.

    Args:
        losses: [n].
        valid: bool [n]; a question whose picture could not be opened is none, and adds nothing.
        batch: Questions of the task in the step, over all processes.
        reduction: sum, or mean: the sum over `batch`.
    """
    total = torch.where(valid, losses, 0.0).sum()
    return total / batch if reduction == "mean" else total


def _signs(labels: torch.Tensor) -> torch.Tensor:
    return 1 - 2 * labels
