"""The run's record: resolved configuration, versions, JSON lines, contact sheets; wandb on top when asked."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flow_grpo.files import replacing, sweep
from flow_grpo.speed import phase_line

if TYPE_CHECKING:
    from accelerate import Accelerator

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "numpy")


class RunLog:
    """Writes into a run directory; on other processes than the first it does nothing.

    Args:
        run_dir: The run's folder; created.
        accelerator: Says which process this is, and carries wandb.
        total: Iterations, for the progress bar.
        ideal: Seconds of an iteration at the GPUs' peak rate, for its share of that (mfu); None: unknown.
    """

    def __init__(
        self, run_dir: Path, accelerator: Accelerator, total: int, ideal: float | None = None
    ) -> None:
        from tqdm import tqdm

        self.ideal = ideal

        self.run_dir, self.accelerator, self.active = run_dir, accelerator, accelerator.is_main_process
        self.bar = tqdm(total=total, unit="it", disable=not self.active, desc="train", dynamic_ncols=True)

    def begin(self, config_text: str, step: int, validated: int) -> None:
        """Write configuration and versions, and drop what a former attempt has recorded too much.

        Args:
            config_text: The resolved configuration.
            step: Completed iterations.
            validated: The iteration whose validation was the last.
        """
        if not self.active:
            return
        (self.run_dir / "samples").mkdir(parents=True, exist_ok=True)
        sweep(self.run_dir)
        _write(self.run_dir / "config.yaml", config_text)
        _write(self.run_dir / "versions.json", json.dumps(versions(), indent=1) + "\n")
        for name, last in (("metrics.jsonl", step), ("eval.jsonl", validated)):
            _truncate(self.run_dir / name, last)
        self.bar.update(step)

    def iteration(self, row: Mapping[str, Any]) -> None:
        """Append one line of metrics and move the progress bar, which tells where the time went."""
        if self.ideal is not None:
            row = {**row, "mfu": round(self.ideal / row["seconds"], 4)}
        self._append("metrics.jsonl", row)
        self.bar.update(1)
        self.bar.set_postfix_str(f"reward {row['reward']:.2f}, {phase_line(row)}")
        self._track(row, "")

    def validation(self, row: Mapping[str, Any]) -> None:
        """Append one line of validation means."""
        self._append("eval.jsonl", row)
        self._track(row, "eval/")
        self.say(
            f"validation at step {row['step']}: "
            + ", ".join(f"{k} {v:.4g}" for k, v in row.items() if k != "step")
        )

    def samples(self, step: int, images: np.ndarray, columns: int) -> None:
        """Write a contact sheet of pictures [N, H, W, 3], `columns` a row."""
        if self.active:
            from PIL import Image

            with replacing(self.run_dir / "samples" / f"step-{step:06d}.png") as temporary:
                Image.fromarray(contact_sheet(images, columns)).save(temporary, format="PNG")

    def say(self, text: str) -> None:
        """A line for the reader, above the progress bar."""
        if self.active:
            self.bar.write(text)
            sys.stdout.flush()  # in a file it would otherwise come after errors, which are not held back

    def close(self) -> None:
        """Finish the progress bar and the tracker."""
        self.bar.close()
        self.accelerator.end_training()

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        if self.active:
            clean = {
                key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in row.items()
            }
            with (self.run_dir / name).open("a", encoding="utf-8") as file:
                file.write(json.dumps(clean) + "\n")

    def _track(self, row: Mapping[str, Any], prefix: str) -> None:
        values = {prefix + key: value for key, value in row.items() if key != "step"}
        self.accelerator.log(values, step=row["step"])


def start_wandb(accelerator: Accelerator, project: str, run_dir: Path, config: Mapping[str, Any]) -> None:
    """Start tracking; offline, into the run directory, where no key is set up."""
    if not (os.environ.get("WANDB_API_KEY") or (Path.home() / ".netrc").is_file()):
        os.environ.setdefault("WANDB_MODE", "offline")
    settings = {"wandb": {"dir": str(run_dir), "name": run_dir.name, "resume": "allow"}}
    accelerator.init_trackers(project, config=dict(config), init_kwargs=settings)


def contact_sheet(images: np.ndarray, columns: int) -> np.ndarray:
    """uint8 [N, H, W, 3] pictures side by side, missing ones white."""
    N, H, W, _ = images.shape
    rows = math.ceil(N / columns)
    sheet = np.full((rows * columns, H, W, 3), 255, dtype=np.uint8)
    sheet[:N] = images
    return sheet.reshape(rows, columns, H, W, 3).transpose(0, 2, 1, 3, 4).reshape(rows * H, columns * W, 3)


def versions() -> dict[str, str]:
    """Python, libraries, and the commit of the code if it is a git checkout."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        found[name] = importlib.metadata.version(name)
    git = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {**found, "commit": git.stdout.strip() or "unknown"}


def _truncate(path: Path, step: int) -> None:
    """Keep the lines up to `step`; an unfinished last line of a killed process goes too."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if row["step"] <= step:
            kept.append(line + "\n")
    _write(path, "".join(kept))


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
