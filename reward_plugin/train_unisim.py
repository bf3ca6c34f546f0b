"""Train a UniSim encoder.

    accelerate launch -m reward_plugin.train_unisim --config configs/unisim/vit_b_32.yaml

See docs/unisim_training.md. Exit codes: 0 done; 1 after an error; 2 the command line is wrong; 75 after a
signal and a checkpoint; 130 after Ctrl-C without one.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from reward_plugin.errors import ConfigError, RewardError
from reward_plugin.unisim.train.checks import check_processes
from reward_plugin.unisim.train.cli import Invocation, as_yaml, parse
from reward_plugin.unisim.train.config import TrainConfig
from reward_plugin.unisim.train.questions import Source, flattened, read_all, texts_of
from reward_plugin.unisim.train.signals import EXIT_CODE, StopRequested, end_with_launcher, listening

if TYPE_CHECKING:
    from accelerate import Accelerator

    from reward_plugin.unisim.train.run import Run, Sources

#: Seconds that a process may be behind another: a slow disk, a larger share of the validation.
LAG = 1800.0


def launch(invocation: Invocation) -> None:
    """Check everything that is cheap to check, load the model, train, and export.

    Raises:
        RewardError: a key, a file or the model is not usable; nothing was changed.
        StopRequested: on all processes: a signal came, and a checkpoint was written.
        FloatingPointError: the loss is not finite.
    """
    from reward_plugin.unisim.train.record import Record
    from reward_plugin.unisim.train.run import accelerated, prepare, train

    config = invocation.config
    folder = Path(config.run_dir)
    train_on = read_all(config.data.train)
    held_out = read_all(config.validation.questions, config.validation.max_questions)
    resume = resume_from(invocation.resume, folder)
    accelerator = connect()
    check_processes(config, accelerator.num_processes)
    with ThreadPoolExecutor(config.data.workers, thread_name_prefix="pictures") as pool:
        run = prepare(config, train_on, held_out, accelerator.device, pool, **accelerated(accelerator))
        if resume is not None:
            run.restore(resume)
        with closing(Record(folder, run.rank == 0, config.steps)) as record, listening() as requests:
            record.begin(as_yaml(config), run.done)
            record.say(described(config, train_on, held_out, accelerator.num_processes))
            if resume is not None:
                record.say(f"resumed from {resume} at step {run.done}")
            train(run, record, requests)
            write_exports(run, record)


def connect() -> Accelerator:
    """Join the other processes of the launch; alone, there are none.

    Raises:
        ConfigError: the launch shares out the model, which is small and stays whole here.
    """
    import torch

    # Its functions keep the group that there is when they are imported, and transformers imports them:
    # destroying the group would leave its threads running, and a late one aborts a process that is done.
    import torch.distributed.nn
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # else accelerate does not connect processes on the CPU
        mixed_precision="no",  # model.dtype says what is computed in what
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=LAG))],
    )
    if accelerator.num_processes > 1:
        atexit.register(accelerator.state.destroy_process_group)
    kind = accelerator.distributed_type.value
    if kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        raise ConfigError(
            f"the launch asks for {kind}: every process holds all of this model; launch with a file such as "
            "configs/accelerate/eight_gpu.yaml"
        )
    return accelerator


def resume_from(choice: str, folder: Path) -> Path | None:
    """The checkpoint to start from, or none.

    Raises:
        ConfigError: a fresh start was asked for where a run has begun, or the path is no checkpoint.
    """
    from reward_plugin.unisim.train.state import latest

    if choice == "auto":
        return latest(folder / "checkpoints")
    if choice == "none":
        if (folder / "metrics.jsonl").exists() or latest(folder / "checkpoints"):
            raise ConfigError(
                f"run_dir is {str(folder)!r}, which holds a run; choose another, or --resume auto."
            )
        return None
    if not (Path(choice) / "state.json").is_file():
        raise ConfigError(
            f"--resume is {choice!r}, which is no checkpoint; give auto, none or a folder step-NNNNNN."
        )
    return Path(choice)


def described(config: TrainConfig, train_on: Sources, held_out: Sources, processes: int) -> str:
    """What would run, as text."""
    questions = flattened(train_on)
    lines = [f"{config.steps} steps of {config.data.batch} questions of each task, {processes} process(es)"]
    for task, sources in train_on.items():
        passes = config.steps * config.data.batch / len(questions[task])
        lines.append(f"  {task}: {_sizes(sources)}; seen {passes:.2g} times")
    if held_out:
        lines.append("validation every " + f"{config.validation.every} steps")
        lines += [f"  {task}: {_sizes(sources)}" for task, sources in held_out.items()]
    lines.append(f"{len(texts_of(questions))} different texts to train on, encoded once")
    return "\n".join(lines)


def write_exports(run: Run, record: object) -> None:
    """The formats that were asked for, by the first process."""
    from reward_plugin.unisim.train.export import export
    from reward_plugin.unisim.train.record import Record

    assert isinstance(record, Record)
    for kind in run.config.export if run.rank == 0 else ():
        path = export(Path(run.config.run_dir) / "export", run.encoder, run.config.model, kind)
        record.say(f"exported {path}")


def _sizes(sources: Sequence[Source]) -> str:
    return ", ".join(f"{source.name} ({len(source.questions)})" for source in sources)


def dry_run(config: TrainConfig) -> None:
    """Read the questions and print what the run would be, once for all processes."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    check_processes(config, processes)
    train_on = read_all(config.data.train)
    held_out = read_all(config.validation.questions, config.validation.max_questions)
    if os.environ.get("RANK", "0") == "0":
        print(described(config, train_on, held_out, processes))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    invocation = parse(arguments)
    end_with_launcher()
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    try:
        if invocation.dry_run:
            dry_run(invocation.config)
        else:
            launch(invocation)
    except StopRequested as request:
        if first:
            print(f"reward_plugin.train_unisim: asked to stop by {request}", file=sys.stderr)
        leave_together()
        return EXIT_CODE
    except (RewardError, FloatingPointError, OSError) as error:
        # Once for each machine: a file may be out of reach of one of them alone.
        if first:
            print(f"reward_plugin.train_unisim: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if first:
            print(
                "reward_plugin.train_unisim: interrupted; the same command goes on from the last checkpoint",
                file=sys.stderr,
            )
        return 130
    return 0


def leave_together() -> None:
    """Wait, before ending, for the others that end as well: the launcher stops all processes as soon as one
    has failed, and one of them may still be writing the checkpoint.
    """
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


if __name__ == "__main__":
    sys.exit(main())
