"""The command around the loop: checks everything that is cheap to check, builds the run, and ends it well."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from flow_grpo import checkpoint
from flow_grpo.checks import check_processes, check_prompts
from flow_grpo.cli import Invocation, as_yaml, parse
from flow_grpo.config import TrainConfig
from flow_grpo.distributed import agreed, connect, is_lost, leave_together
from flow_grpo.log import RunLog, start_wandb
from flow_grpo.messages import shown_above_bar
from flow_grpo.plan import describe
from flow_grpo.policy.flux import check_model_path
from flow_grpo.policy.probe import out_of_memory
from flow_grpo.rollout import ScoringFailed, wait_ready
from flow_grpo.run import Run, prepare, read_all_prompts
from flow_grpo.signals import EXIT_CODE, StopRequested, end_with_launcher, listening
from flow_grpo.speed import ideal_seconds
from flow_grpo.split import launched_split, sharing
from flow_grpo.train import train
from reward_plugin.client import build_rewards
from reward_plugin.errors import RewardError

if TYPE_CHECKING:
    from accelerate import Accelerator


class ProcessLost(RuntimeError):
    """Another process of the run has ended."""


def launch(invocation: Invocation) -> None:
    """Check everything that is cheap to check, load the model, and train.

    Raises:
        ValueError, RewardError: The configuration, a file or the server is not usable; nothing was changed.
        ScoringFailed: On all processes: the server went away and a checkpoint was written, or never came.
        StopRequested: On all processes: a signal came, and a checkpoint was written.
        ProcessLost: Another process has ended; the message says where the state is.
    """
    config = invocation.config
    check_model_path(config.model.path)
    prompts, held_out = read_all_prompts(config)
    check_prompts(config, len(prompts))
    folder = Path(config.run_dir)
    resume = resume_from(invocation.resume, folder)
    accelerator = connect(config)
    check_processes(config, accelerator.num_processes)
    with build_rewards(config.reward.source()) as rewards:
        agreed(lambda: wait_ready(rewards, config.reward.ready_timeout))
        check_dimensions(config, rewards.dimensions)
        run = prepare(config, accelerator, prompts, held_out)
        if resume is not None:
            run.restore(resume)
        log = RunLog(folder, accelerator, config.iterations, ideal_seconds(config, accelerator))
        with listening():
            try:
                log.begin(as_yaml(config), run.iteration, run.validated)
                if (told := sharing(accelerator)) is not None:
                    log.say(told)
                if config.log.wandb:
                    start_wandb(accelerator, config.log.project, folder, vars(config))
                if resume is not None:
                    log.say(f"resumed from {resume} at iteration {run.iteration}")
                with shown_above_bar(accelerator.process_index, accelerator.num_processes):
                    train(run, rewards, log, accelerator)
            except (ScoringFailed, StopRequested) as error:
                raise type(error)(saved_message(run, accelerator, error)) from error
            except RuntimeError as error:
                if not is_lost(error):
                    raise
                raise ProcessLost(loss_message(run, accelerator, error)) from error
            finally:
                log.close()


def saved_message(run: Run, accelerator: Accelerator, error: BaseException) -> str:
    """Save the run, and what to tell of it."""
    when = " when the server is back" if isinstance(error, ScoringFailed) else ""
    return (
        f"{error}\nStopped after iteration {run.iteration}; the state is in {run.save(accelerator)}. "
        f"Start the same command again with --resume auto{when}."
    )


def loss_message(run: Run, accelerator: Accelerator, error: RuntimeError) -> str:
    """What to tell when another process has ended, after saving what can be saved without it."""
    if accelerator.is_main_process and not run.between and run.stepper.whole:
        run.save(accelerator)
    newest = checkpoint.latest(run.checkpoints)
    return (
        f"process {accelerator.process_index} lost another process during iteration {run.iteration + 1}: it "
        f"was killed, ran out of memory, or its machine is gone ({str(error).strip().splitlines()[0]})\n"
        + (f"The newest state is in {newest}. " if newest else "There is no checkpoint yet. ")
        + "Start the same command again with --resume auto; the number of processes may differ."
    )


def resume_from(choice: str, folder: Path) -> Path | None:
    """The checkpoint to start from, or none.

    Raises:
        ValueError: A fresh start was asked for where a run has begun, or the path is no checkpoint.
    """
    if choice == "auto":
        return checkpoint.latest(folder / "checkpoints")
    if choice == "none":
        if (folder / "metrics.jsonl").exists() or checkpoint.latest(folder / "checkpoints"):
            raise ValueError(
                f"run_dir is {str(folder)!r}, which holds a run; choose another, or --resume auto."
            )
        return None
    path = Path(choice)
    if not (path / "state.json").is_file():
        raise ValueError(
            f"--resume is {choice!r}, which is no checkpoint; give auto, none or a folder step-NNNNNN."
        )
    return path


def check_dimensions(config: TrainConfig, known: Sequence[str]) -> None:
    """Everything that the configuration measures must be among the scorers' dimensions.

    Raises:
        ValueError: Naming the dimension and the known ones.
    """
    named = {f"reward.weights.{name}": name for name in config.reward.weights}
    named.update({f"reward.ramps.{name}": name for name in config.reward.ramps})
    named.update({f"reward.constraints.{name}": name for name in config.reward.constraints})
    if config.stop.metric is not None:
        named["stop.metric"] = config.stop.metric
    named.update({f"stop.floors.{name}": name for name in config.stop.floors})
    named.update({f"stop.bounds.{name}": name for name in config.stop.bounds})
    for key, name in named.items():
        if name not in known:
            raise ValueError(f"{key}: no scorer gives {name!r}; known: {', '.join(known)}.")


def dry_run(invocation: Invocation) -> None:
    """Print what the run would be, once for all processes.

    Raises:
        ValueError: A file is missing, or the numbers do not fit each other.
    """
    config = invocation.config
    processes = invocation.processes or int(os.environ.get("WORLD_SIZE", "1"))
    check_model_path(config.model.path)
    check_processes(config, processes)
    prompts, held_out = read_all_prompts(config)
    check_prompts(config, len(prompts))
    if os.environ.get("RANK", "0") == "0":
        split = invocation.split or launched_split()
        counts = (processes, len(prompts), len(held_out))
        print(describe(config, *counts, gpu=invocation.gpu, mfu=invocation.mfu, split=split))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code: 0, 1 after an error, 75 after a signal and a checkpoint, 130 after
    Ctrl-C without one.
    """
    invocation = parse(arguments)
    end_with_launcher()
    try:
        if invocation.dry_run:
            dry_run(invocation)
        else:
            launch(invocation)
    except StopRequested as request:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"flow_grpo.train: asked to stop by {request}", file=sys.stderr)
        leave_together()
        return EXIT_CODE
    except ProcessLost as error:
        # Of the others nobody knows which are left, so each says it.
        print(f"flow_grpo.train: error: {error}", file=sys.stderr)
        return 1
    except (ValueError, RewardError, ScoringFailed, FloatingPointError, OSError) as error:
        # Once for each machine: a file or the server may be out of reach of one of them alone.
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"flow_grpo.train: error: {error}", file=sys.stderr)
        if isinstance(error, ScoringFailed):
            leave_together()
        return 1
    except torch.OutOfMemoryError as error:
        # By each process that it happened to.
        print(f"flow_grpo.train: error: {out_of_memory(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(
                "flow_grpo.train: interrupted; the same command goes on from the last checkpoint",
                file=sys.stderr,
            )
        return 130
    return 0
