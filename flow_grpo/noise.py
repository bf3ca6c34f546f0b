"""Randomness by identity: every draw is seeded by what it is for, never by batch, rank or order of execution.

So N processes draw the same noise as one, a resumed run the same as an undisturbed one, and no random state
has to be carried along.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch


def seed_of(*identity: int | str) -> int:
    """A 63-bit seed from a tuple of integers and strings, the same on every machine and Python."""
    digest = hashlib.blake2b(repr(identity).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def normal(seeds: Sequence[int], shape: Sequence[int]) -> torch.Tensor:
    """Standard normal float32 [len(seeds), *shape] on the CPU, one generator for each seed.

    Drawn on the CPU because CPU and CUDA generators differ: the same run gives the same noise on both.
    """
    rows = [torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows)


def permutation(length: int, seed: int) -> list[int]:
    """A random order of range(length)."""
    return torch.randperm(length, generator=torch.Generator().manual_seed(seed)).tolist()


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A CPU tensor on the device; the host does not wait for what the device has to do before."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
