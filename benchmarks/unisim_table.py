"""Trains the pocket CLIP on one, two and three data sets of each UniSim task, and measures all of them.

    python -m benchmarks.unisim_table [--steps N] [--json FILE]

The shape of the ablation in arXiv 2412.10594: does a task gain from more data sets, and what becomes of
data sets and tasks that are never trained on? Questions are those of `python -m pocket.unisim_tasks`, the
recipe is configs/unisim/pocket.yaml, and every training takes as many steps. A training that was interrupted
goes on when the command is started again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eval.proportion import wilson
from pocket.unisim_tasks import SETS, manifest_name

if TYPE_CHECKING:
    from reward_plugin.unisim.metric import UniSim

CORE = ("img_2afc", "it_2afc", "text_2afc", "iqa")
Counts = dict[str, tuple[int, int]]


def sets_of(task: str, trained: bool = True) -> list[str]:
    """Names of a task's data sets, in the order in which a training takes them."""
    return [name for name, kind in SETS.items() if kind.task == task and kind.trained == trained]


def arguments(config: Path, data: Path, run_dir: Path, count: int, steps: int | None) -> list[str]:
    """The command line of a training on the first `count` data sets of each task."""
    chosen = ["--config", str(config), "--run_dir", str(run_dir), "--export", '["peft"]']
    for task in CORE:
        sources = [
            {"manifest": str(data / "train" / manifest_name(name)), "root": str(data)}
            for name in sets_of(task)[:count]
        ]
        chosen += [f"--data.train.{task}", json.dumps(sources)]
    return chosen if steps is None else [*chosen, "--steps", str(steps)]


def load(folder: Path, adapter: Path | None = None) -> UniSim:
    """A CLIP, with an adapter merged in, as a metric."""
    from reward_plugin.unisim.metric import UniSim

    return UniSim.load(str(folder), None if adapter is None else str(adapter), device="cpu")


def measure(metric: UniSim, data: Path, names: Sequence[str] = tuple(SETS)) -> Counts:
    """Right answers and questions of data sets."""
    from eval.unisim.manifest import read_manifest
    from reward_plugin.unisim.questions import Question

    found = {}
    for name in names:
        samples = read_manifest(data / "test" / manifest_name(name)).samples
        asked = [
            Question(s.task, [data / image for image in s.images], s.texts, s.attribute) for s in samples
        ]
        answers = metric.answer(asked)
        right = sum(answer.choice == s.label for answer, s in zip(answers, samples, strict=True))
        found[name] = (right, len(samples))
    return found


def pooled(counts: Counts, names: Sequence[str]) -> tuple[int, int]:
    """Right answers and questions of several data sets."""
    return sum(counts[name][0] for name in names), sum(counts[name][1] for name in names)


def groups() -> dict[str, list[str]]:
    """Rows of the table: core tasks, each with its data sets, then what is never trained on."""
    core = {f"{task}, 3 sets": sets_of(task) for task in CORE}
    unseen = {f"{task}, unseen set": sets_of(task, trained=False) for task in CORE}
    tasks = dict.fromkeys(kind.task for kind in SETS.values() if kind.task not in CORE)
    others = {f"{task}, never trained": sets_of(task, trained=False) for task in tasks}
    return core | {name: sets for name, sets in (unseen | others).items() if sets}


def table(results: Mapping[str, Counts]) -> str:
    """Markdown: share of right answers in percent with its 95 % Wilson interval."""
    names = list(results)
    lines = ["| questions | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
    for title, sets in groups().items():
        cells = [cell(*pooled(results[name], sets)) for name in names]
        lines.append(f"| **{title}** | " + " | ".join(cells) + " |")
        if len(sets) > 1:
            for one in sets:
                cells = [f"{results[name][one][0] / results[name][one][1]:.1%}" for name in names]
                lines.append(f"| {one} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(right: int, count: int) -> str:
    """`83.1% (81.2 to 84.9)`."""
    interval = wilson(right, count)
    assert interval is not None
    return f"{right / count:.1%} ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=Path("configs/unisim/pocket.yaml"))
    parser.add_argument("--data", type=Path, default=Path("runs/unisim_questions"))
    parser.add_argument("--base", type=Path, default=Path("pocket/weights/clip"))
    parser.add_argument("--runs", type=Path, default=Path("runs/unisim_table"))
    parser.add_argument("--counts", type=int, nargs="*", default=[1, 2, 3], help="data sets of each task")
    parser.add_argument("--steps", type=int, help="of each training (default: the recipe's)")
    parser.add_argument("--json", type=Path, help="keep what was measured")
    args = parser.parse_args()
    from reward_plugin.train_unisim import main as train
    from reward_plugin.unisim.train.record import versions

    results = {"CLIP": measure(load(args.base), args.data)}
    for count in args.counts:
        run_dir = args.runs / f"sets_{count}"
        if (code := train(arguments(args.config, args.data, run_dir, count, args.steps))) != 0:
            return code
        results[f"{count} set{'s' * (count > 1)} each"] = measure(
            load(args.base, run_dir / "export" / "peft"), args.data
        )
        if args.json:
            kept = {"command": " ".join(["python -m benchmarks.unisim_table", *sys.argv[1:]])}
            whole = {**kept, "versions": versions(), "questions": results}
            args.json.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    print(table({name: results[name] for name in sorted(results, key=lambda name: (name != "CLIP", name))}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
