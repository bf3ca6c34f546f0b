"""What it takes to see again how an iteration came to numbers that are not finite."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flow_grpo import checkpoint
from flow_grpo.files import replacing
from flow_grpo.noise import seed_of
from flow_grpo.order import prompts_of_iteration
from flow_grpo.rollout import training_seed
from flow_grpo.run import Run

if TYPE_CHECKING:
    from accelerate import Accelerator

REPLAY_FILE = "replay.json"


@contextmanager
def leaving_replay(run: Run, accelerator: Accelerator) -> Iterator[None]:
    """Around one iteration: where a number is not finite, leave `replay.json` in the run directory.

    All draws follow from seed and identity, so resuming from the checkpoint named there comes to the same
    place again.

    Raises:
        FloatingPointError: With the file added to its message.
    """
    try:
        yield
    except FloatingPointError as error:
        target = run.folder / REPLAY_FILE
        if accelerator.is_main_process:
            text = json.dumps(replay_record(run, accelerator.num_processes, str(error)), indent=1)
            with replacing(target) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")
        raise FloatingPointError(
            f"{error}\nPrompts and seeds of the iteration, and the checkpoint from which to replay it, are "
            f"in {target}."
        ) from error


def replay_record(run: Run, processes: int, error: str) -> dict[str, Any]:
    """The iteration in progress, JSON-ready.

    Returns:
        error, iteration (from 1, as in metrics.jsonl), config (file), checkpoint (the newest; None: begin at
        the start) and pictures, each with process, row (of the process's prompts), member, prompt, index (of
        the prompt in its file) and seed (of the starting noise).
    """
    config = run.config
    count, size = config.prompts.per_iteration, config.prompts.group_size
    positions = prompts_of_iteration(run.iteration, len(run.prompts), count, config.seed)
    identity = training_seed(config.seed, run.iteration)
    pictures = []
    for group, position in enumerate(positions):
        prompt = run.prompts[position]
        process, row = divmod(group, count // processes)
        for member in range(size):
            seed = seed_of(*identity(prompt, None if config.sampler.shared_noise else member))
            pictures.append(
                {
                    "process": process,
                    "row": row,
                    "member": member,
                    "prompt": prompt.text,
                    "index": prompt.index,
                    "seed": seed,
                }
            )
    newest = checkpoint.latest(run.checkpoints)
    return {
        "error": error,
        "iteration": run.iteration + 1,
        "config": str(run.folder / "config.yaml"),
        "checkpoint": None if newest is None else str(newest),
        "pictures": pictures,
    }
