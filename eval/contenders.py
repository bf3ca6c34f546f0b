"""What is compared: from the entries of a configuration to weights on disk.

A checkpoint of a run holds the adapter in the trainer's form; it is written out once as a LoRA file below the
comparison's folder, and stays there when the run has removed the checkpoint.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from eval.config import ModelSpec
from eval.generate import find_lora, lora_identity
from flow_grpo.checkpoint import NAME
from flow_grpo.files import replacing

ADAPTERS = "adapters"
_SOURCE = "source.json"
#: Key of a specification -> file of a checkpoint.
_FILES = {"averaged": "ema.safetensors", "current": "adapter.safetensors"}


@dataclass(frozen=True)
class Contender:
    """One model of a comparison.

    Attributes:
        name: Of its folder of pictures too.
        path: The pipeline.
        lora: LoRA file on it; none: the pipeline alone.
        run: The training run that the LoRA is of, if it is known.
        step: Iteration of that run; none for its exported LoRA and for models without a run.
        seed: Of the noise; none: as all.
    """

    name: str
    path: str
    lora: Path | None = None
    run: str | None = None
    step: int | None = None
    seed: int | None = None

    def record(self) -> dict[str, Any]:
        """For `models` in the record."""
        return {
            "name": self.name,
            "path": self.path,
            "lora": None if self.lora is None else str(self.lora),
            "lora_sha256": None if self.lora is None else lora_identity(self.lora)["lora"],
            "run": self.run,
            "step": self.step,
            "seed": self.seed,
        }


def find_contenders(
    specs: Sequence[ModelSpec], model: str, out: Path, export: bool = True
) -> list[Contender]:
    """All models of a comparison; checkpoints are written out below `out`.

    Args:
        specs: As configured.
        model: The pipeline of those that name none.
        out: The comparison's folder.
        export: Whether to write out what a run has now; otherwise only what was written out counts.

    Raises:
        ValueError: A LoRA, run or checkpoint is missing; named with the remedy.
    """
    found = []
    for spec in specs:
        path = spec.path or model
        if spec.steps is not None:
            assert spec.run_dir is not None, "ModelSpec checks it"
            for step, file in checkpoint_loras(spec, out / ADAPTERS, export).items():
                name = f"{spec.name}@{step}"
                found.append(Contender(name, path, file, spec.run_dir, step, spec.seed))
            continue
        place = spec.lora if spec.lora is not None else spec.run_dir
        lora = None if place is None else find_lora(place)
        found.append(Contender(spec.name, path, lora, spec.run_dir, None, spec.seed))
    if len(found) < 2:
        raise ValueError(f"models: only {found[0].name} is there; a comparison needs another one")
    return found


def checkpoint_loras(spec: ModelSpec, folder: Path, export: bool = True) -> dict[int, Path]:
    """Step -> LoRA file of the checkpoints that are asked for, in order.

    Those that the run still has are written out (again); of the others, what was written out before is used.
    """
    assert spec.run_dir is not None
    run_dir = Path(spec.run_dir)
    present = (
        {}
        if not export
        else {
            int(match[1]): path
            for path in (run_dir / "checkpoints").glob("step-*")
            if (match := NAME.fullmatch(path.name)) and (path / "state.json").is_file()
        }
    )
    source = {"run_dir": str(run_dir.resolve()), "weights": spec.weights}
    kept = _written(folder, spec.name, source)
    known = sorted({*present, *kept})
    steps = known if spec.steps == "all" else [step for step in spec.steps or () if isinstance(step, int)]
    if not steps:
        raise ValueError(f"models: {run_dir} has no checkpoint yet; wait for one, or leave out {spec.name}")
    missing = [step for step in steps if step not in known]
    if missing:
        raise ValueError(
            f"models: {run_dir} has no checkpoint of step {missing[0]}, only of {known}; checkpoint.keep "
            "of the run says how many stay"
        )
    return {
        step: write_lora(present[step], run_dir, folder / f"{spec.name}@{step}", source)
        if step in present
        else kept[step]
        for step in steps
    }


def write_lora(checkpoint: Path, run_dir: Path, target: Path, source: Mapping[str, Any]) -> Path:
    """Write one set of a checkpoint's weights as a LoRA; the same weights give the same file.

    Raises:
        ValueError: The run has no readable configuration, or the checkpoint no such weights.
    """
    from safetensors.torch import load_file

    from flow_grpo.policy.lora import LoraConfig, export_lora

    file = checkpoint / _FILES[source["weights"]]
    if not file.is_file():
        raise ValueError(f"models: {checkpoint} has no {file.name}; it is no whole checkpoint")
    settings = _lora_settings(run_dir)
    config = LoraConfig(rank=settings["rank"], alpha=settings["alpha"])
    written = export_lora(target, load_file(str(file)), config)
    with replacing(target / _SOURCE) as beside:
        beside.write_text(json.dumps(dict(source), indent=1) + "\n", encoding="utf-8")
    return written


def _lora_settings(run_dir: Path) -> dict[str, Any]:
    path = run_dir / "config.yaml"
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["lora"]
        return {name: settings[name] for name in ("rank", "alpha")}
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ValueError(
            f"models: {path} does not say model.lora.rank and alpha, which scale the checkpoints; "
            "give the folder of a training run"
        ) from error


def _written(folder: Path, name: str, source: Mapping[str, Any]) -> dict[int, Path]:
    """Step -> LoRA file written out before from the same run."""
    found = {}
    for place in folder.glob("*"):
        match = re.fullmatch(re.escape(name) + r"@(\d+)", place.name)
        if match is None:
            continue
        try:
            same = json.loads((place / _SOURCE).read_text(encoding="utf-8")) == source
        except (OSError, json.JSONDecodeError):
            continue
        if same:
            found[int(match[1])] = find_lora(place)
    return found
