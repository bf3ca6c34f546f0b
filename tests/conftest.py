"""What holds for every test: no network, one thread, the same random numbers, no GPU test without a GPU."""

import os

# Before torch, transformers or wandb are imported anywhere: they read these once.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "WANDB_MODE": "offline",
    "MPLBACKEND": "Agg",
    "TOKENIZERS_PARALLELISM": "false",
}
# The models are tiny: a second thread costs more in waking up than it saves.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import random
import signal
import sys

import numpy as np
import pytest

# Ignored under nohup or in the background of a script, which the commands that tests start would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Start every test from the same global random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where CUDA is absent."""
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(
                pytest.mark.skip(reason="needs an NVIDIA GPU; torch.cuda.is_available() is False")
            )
