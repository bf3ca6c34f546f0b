"""The run's record: resolved configuration, versions, JSON lines, a progress bar."""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reward_plugin.unisim.train.state import appearing, sweep

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "safetensors", "numpy", "pillow")


class Record:
    """Writes into a run directory; on other processes than the first it does nothing.

    Args:
        folder: The run's; created.
        active: Whether this is the first process.
        total: Steps, for the progress bar.
    """

    def __init__(self, folder: Path, active: bool, total: int) -> None:
        from tqdm import tqdm

        self.folder, self.active = folder, active
        self.bar = tqdm(total=total, unit="step", disable=not active, desc="train", dynamic_ncols=True)

    def begin(self, config_text: str, step: int) -> None:
        """Write configuration and versions, and drop what a former attempt has recorded after `step`."""
        if not self.active:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep(self.folder)
        self._write("config.yaml", config_text)
        self._write("versions.json", json.dumps(versions(), indent=1) + "\n")
        for name in ("metrics.jsonl", "eval.jsonl", "unreadable.jsonl"):
            self._truncate(name, step or -1)  # a run from the start validates before its first step again
        self.bar.update(step)

    def step(self, row: Mapping[str, Any]) -> None:
        """Append one line of metrics and move the progress bar."""
        self._append("metrics.jsonl", row)
        self.bar.update(1)
        right = [value for key, value in row.items() if key.startswith("accuracy/") and value is not None]
        self.bar.set_postfix_str(
            f"loss {row['loss']:.3f}, right {sum(right) / max(1, len(right)):.0%}, "
            f"pictures {row['seconds/pictures'] / max(row['seconds'], 1e-9):.0%} of the time"
        )

    def validation(self, row: Mapping[str, Any]) -> None:
        """Append one line of validation accuracies."""
        self._append("eval.jsonl", row)
        told = (
            f"{key} {value:.1%}" for key, value in row.items() if isinstance(value, float) and "/" not in key
        )
        self.say(f"validation at step {row['step']}: {', '.join(told)}")

    def unreadable(self, step: int, reasons: tuple[str, ...]) -> None:
        """Pictures of a step that could not be opened."""
        for reason in reasons:
            self._append("unreadable.jsonl", {"step": step, "reason": reason})

    def say(self, text: str) -> None:
        """A line for the reader, above the progress bar."""
        if self.active:
            self.bar.write(text)
            sys.stdout.flush()  # in a file it would otherwise come after errors, which are not held back

    def close(self) -> None:
        """Finish the progress bar."""
        self.bar.close()

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        if self.active:
            clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
            with (self.folder / name).open("a", encoding="utf-8") as file:
                file.write(json.dumps(clean, ensure_ascii=False) + "\n")

    def _rows(self, name: str) -> list[dict[str, Any]]:
        """Lines of a file; the unfinished last one of a killed process is none."""
        file, rows = self.folder / name, []
        for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return rows

    def _truncate(self, name: str, step: int) -> None:
        if (self.folder / name).is_file():
            kept = [
                json.dumps(row, ensure_ascii=False) + "\n" for row in self._rows(name) if row["step"] <= step
            ]
            self._write(name, "".join(kept))

    def _write(self, name: str, text: str) -> None:
        with appearing(self.folder / name) as partial:
            partial.write_text(text, encoding="utf-8")


def versions() -> dict[str, str]:
    """Python, libraries, and the commit of the code if it is a git checkout."""
    found = {"python": platform.python_version()}
    found |= {name: importlib.metadata.version(name) for name in LIBRARIES}
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    git = subprocess.run(command, capture_output=True, text=True, check=False)
    return {**found, "commit": git.stdout.strip() or "unknown"}
