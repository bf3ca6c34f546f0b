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
from typing import Any

from eval.proportion import wilson
from pocket.unisim_tasks import SETS, manifest_name

CORE = ("img_2afc", "it_2afc", "text_2afc", "iqa")
#: What quality and attributes are called, as published.
WORDS = {
    "quality": "A high-quality photo.",
    "brightness": "A bright photo.",
    "colorfulness": "A very colorful photo.",
    "contrast": "A high contrast photo.",
    "sharpness": "A very sharp photo",
}
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


def load(folder: Path, adapter: Path | None = None) -> Any:
    """A CLIP, with an adapter merged in."""
    import torch
    from transformers import CLIPModel

    from reward_plugin.scorers.clip_folder import load_model
    from reward_plugin.unisim.adapter import merge_adapter
    from reward_plugin.unisim.layout import apply

    clip = load_model(CLIPModel, folder, torch.float32)
    return clip if adapter is None else apply(clip, merge_adapter(clip.state_dict(), adapter), adapter)


def measure(clip: Any, folder: Path, data: Path, names: Sequence[str] = tuple(SETS)) -> Counts:
    """Right answers and questions of data sets, for a CLIP whose processing is in a folder."""
    from eval.unisim.manifest import read_manifest
    from reward_plugin.scorers.clip_folder import load_processing

    tokenizer, processor = load_processing(folder)
    found = {}
    for name in names:
        samples = read_manifest(data / "test" / manifest_name(name)).samples
        texts = list(dict.fromkeys([*WORDS.values(), *(text for s in samples for text in s.texts)]))
        images = list(dict.fromkeys(image for s in samples for image in s.images))
        words = dict(zip(texts, embed_texts(clip, tokenizer, texts), strict=True))
        looks = dict(zip(images, embed_images(clip, processor, [data / n for n in images]), strict=True))
        right = sum(answer(sample, looks, words) == sample.label for sample in samples)
        found[name] = (right, len(samples))
    return found


def answer(sample: Any, looks: Mapping[str, Any], words: Mapping[str, Any]) -> int:
    """Index of the choice that the embeddings make."""
    pictures = [looks[name] for name in sample.images]
    if sample.task == "ooo":
        first, second, third = pictures
        scores = [second @ third, first @ third, first @ second]  # the two others are most alike
    elif sample.task == "img_2afc":
        scores = [pictures[0] @ picture for picture in pictures[1:]]
    elif sample.task == "text_2afc":
        scores = [pictures[0] @ words[text] for text in sample.texts]
    else:
        text = sample.texts[0] if sample.texts else WORDS[sample.attribute or "quality"]
        scores = [words[text] @ picture for picture in pictures]
    return max(range(len(scores)), key=lambda index: float(scores[index]))


def embed_texts(clip: Any, tokenizer: Any, texts: Sequence[str]) -> Any:
    """Embeddings of length 1, [V, D]."""
    import torch

    length = clip.config.text_config.max_position_embeddings
    tokens = tokenizer(
        list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    )
    with torch.inference_mode():
        pooled = clip.text_model(tokens.input_ids, tokens.attention_mask).pooler_output
        return torch.nn.functional.normalize(clip.text_projection(pooled), dim=-1)


def embed_images(clip: Any, processor: Any, files: Sequence[Path], batch: int = 256) -> Any:
    """Embeddings of length 1, [N, D]."""
    import torch

    from reward_plugin.images import to_rgb

    made = []
    for start in range(0, len(files), batch):
        images = [to_rgb(file) for file in files[start : start + batch]]
        pixels = processor(images, return_tensors="pt").pixel_values
        with torch.inference_mode():
            pooled = clip.vision_model(pixel_values=pixels).pooler_output
            made.append(torch.nn.functional.normalize(clip.visual_projection(pooled), dim=-1))
    return torch.cat(made)


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

    results = {"CLIP": measure(load(args.base), args.base, args.data)}
    for count in args.counts:
        run_dir = args.runs / f"sets_{count}"
        if (code := train(arguments(args.config, args.data, run_dir, count, args.steps))) != 0:
            return code
        results[f"{count} set{'s' * (count > 1)} each"] = measure(
            load(args.base, run_dir / "export" / "peft"), args.base, args.data
        )
        if args.json:
            kept = {"command": " ".join(["python -m benchmarks.unisim_table", *sys.argv[1:]])}
            whole = {**kept, "versions": versions(), "questions": results}
            args.json.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    print(table({name: results[name] for name in sorted(results, key=lambda name: (name != "CLIP", name))}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
