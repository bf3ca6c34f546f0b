"""Images per second of the rating engine on a GPU, over batch sizes, with random weights of InternVL3-8B's
shape.

    python -m benchmarks.score_gpu --json benchmarks/results/score_gpu.json

Not yet run on a GPU: the tests run it at tiny size on a CPU. It downloads nothing. Printed as a table:

* images/s of the model alone, pixels already on the device, and of `RatingEngine.rate` on 1024 x 1024
  pictures, resizing included;
* the share of the bf16 rate that this card itself reaches in a large matrix product (the operations counted
  are those of `random_model.operations`);
* peak memory, weights included;
* for comparison the way the published package computes: one image at a time, three whole passes with the
  vision tower in each, logits of every position, cache and all hidden states kept; in today's transformers
  with sdpa attention, which is no slower than the package's own vision attention.

Aims: 4 times the published way, 60 per cent of the card's rate at the best batch, 40 GB at batch 32.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import transformers

from benchmarks.random_model import INTERNVL3_8B, TINY, Sizes, operations, random_checkpoint
from reward_plugin import quantise
from reward_plugin.checkpoint import Checkpoint
from reward_plugin.internvl import RatingEngine
from reward_plugin.prepare import to_input
from reward_plugin.prompting import LETTER_TOKENS, UNIPERCEPT_QUESTIONS, conversation


def timed(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Seconds that `work` takes, after one call to warm up, averaged over about `seconds`."""

    def once(times: int) -> float:
        _wait(device)
        start = time.perf_counter()
        for _ in range(times):
            work()
        _wait(device)
        return (time.perf_counter() - start) / times

    work()
    return once(max(1, int(seconds / once(1))))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_rate(device: torch.device, dtype: torch.dtype, side: int, seconds: float) -> float:
    """Operations per second in a product of two square matrices."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / timed(lambda: a @ b, device, seconds)


@torch.inference_mode()
def published_way(checkpoint: Checkpoint, pixels: torch.Tensor) -> torch.Tensor:
    """Scores [3] of one image [1, 3, S, S], computed as `unipercept-reward` does."""
    model, scores = checkpoint.model, []
    for question in UNIPERCEPT_QUESTIONS.values():
        text = conversation(question, checkpoint.num_image_tokens, checkpoint.system_message)
        ids = torch.tensor([checkpoint.tokenizer(text).input_ids], device=model.device)
        features = model.model.get_image_features(pixels.to(model.dtype), return_dict=True).pooler_output
        embeddings = model.get_input_embeddings()(ids)
        embeddings[ids == model.config.image_token_id] = features.flatten(0, 1).to(embeddings.dtype)
        output = model.model.language_model(
            inputs_embeds=embeddings, use_cache=True, output_hidden_states=True, return_dict=True
        )
        logits = model.lm_head(output.last_hidden_state)
        letters = checkpoint.tokenizer.convert_tokens_to_ids(list(LETTER_TOKENS))
        chances = logits[0, -1, letters].float().softmax(-1)
        scores.append(chances @ torch.arange(101.0, device=model.device))
    return torch.stack(scores)


def measure(
    sizes: Sizes,
    batches: Sequence[int],
    *,
    device: torch.device,
    dtype: torch.dtype = torch.bfloat16,
    attention: str = "sdpa",
    compile: bool = False,
    resize: str = "pil",
    kind: str | None = None,
    seconds: float = 3.0,
    matmul_side: int = 8192,
    picture_side: int = 1024,
    after_row: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Everything in the table; see the module.

    A batch size that fails has its reason in its row and costs no other. `after_row` is called with what has
    been measured so far, so that nothing is lost where the machine is taken away.
    """
    rate = matmul_rate(device, dtype, matmul_side, seconds)
    checkpoint = random_checkpoint(sizes, device, dtype, attention)
    noise = np.random.default_rng(0).integers(0, 256, (8, picture_side, picture_side, 3), dtype=np.uint8)
    pictures = [PIL.Image.fromarray(one) for one in noise]
    resized = [np.asarray(picture.resize((sizes.image, sizes.image))) for picture in pictures]
    one = to_input(resized[:1], sizes.image, device)
    _forget_peak(device)
    reference = published_way(checkpoint, one).float()
    options = {"dtype": str(dtype), "attention": attention, "compile": compile, "resize": resize}
    result = _machine(device) | {
        "options": options | {"quantise": kind},
        "matmul_tflops": rate / 1e12,
        "tflop_per_image": operations(sizes) / 1e12,
        "published_peak_gb": _peak(device),
        "rows": [],
    }
    published = 1 / timed(lambda: published_way(checkpoint, one), device, seconds)
    if kind:
        quantise.apply(checkpoint.model, kind)
    for batch in batches:
        row: dict[str, Any] = {"batch": batch}
        result["rows"].append(row)
        try:
            if not kind:  # in turns with ours, so that whatever else changes falls on both
                published = 1 / timed(lambda: published_way(checkpoint, one), device, seconds)
            if compile:
                torch.compiler.reset()  # code for this batch size, not for any
            engine = RatingEngine(
                checkpoint, UNIPERCEPT_QUESTIONS, batch_size=batch, compile=compile, resize=resize
            )
            row |= _row(engine, batch, pictures, resized, reference, seconds)
            row["published"] = published
            row["share"] = row["model"] * operations(sizes) / rate
            row["times_published"] = row["model"] / published
        except Exception as error:  # a table with a gap is worth more than none
            row["error"] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:120]}"
        after_row(result)
        if "OutOfMemory" in row.get("error", ""):
            break  # the next ones are larger
    return result


def _machine(device: torch.device) -> dict[str, Any]:
    return {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def _row(
    engine: RatingEngine,
    batch: int,
    pictures: list[PIL.Image.Image],
    resized: list[np.ndarray],
    reference: torch.Tensor,
    seconds: float,
) -> dict[str, Any]:
    device = engine.model.device
    pixels = to_input([resized[i % len(resized)] for i in range(batch)], engine.image_size, device)

    @torch.inference_mode()
    def model() -> torch.Tensor:
        return engine.expectation(engine.letter_logits(pixels))

    difference = float((model()[0] - reference).abs().max())
    _forget_peak(device)
    alone = timed(model, device, seconds)
    many = [pictures[i % len(pictures)] for i in range(4 * batch)]
    whole = timed(lambda: engine.rate(many), device, seconds)
    return {
        "model": batch / alone,
        "pictures": len(many) / whole,
        "peak_gb": _peak(device),
        "difference": difference,
    }


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> float | None:
    """Highest memory in use since `_forget_peak`, in GB of 10^9 bytes, weights included."""
    return torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None


def table(result: dict[str, Any]) -> str:
    """The result in markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        f"{result['device']}, {versions}: {result['matmul_tflops']:.4g} TFLOP/s in a matrix product; "
        f"{result['tflop_per_image']:.3g} TFLOP an image",
        "",
        "| batch | images/s, model | images/s, from pictures | share of that rate | peak memory, GB "
        "| images/s, published way | ratio |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    done = [row for row in result["rows"] if "error" not in row]
    for row in result["rows"]:
        if "error" in row:
            lines.append(f"| {row['batch']} | {row['error']} | | | | | |")
            continue
        lines.append(
            f"| {row['batch']} | {row['model']:.2f} | {row['pictures']:.2f} | {row['share']:.1%} "
            f"| {_gb(row['peak_gb'])} | {row['published']:.2f} | {row['times_published']:.2f} |"
        )
    if done:
        lines += [
            "",
            f"Largest difference of a score from the published way {max(r['difference'] for r in done):.2g}; "
            f"its peak memory {_gb(result['published_peak_gb']) or 'not known'}. "
            f"Best: {max(r['times_published'] for r in done):.2f} times the published way (aim 4), "
            f"{max(r['share'] for r in done):.1%} of the card's rate (aim 60 %)."
            + "".join(f" Batch 32 takes {_gb(r['peak_gb'])} GB (aim 40)." for r in done if r["batch"] == 32),
        ]
    return "\n".join(lines)


def _gb(peak: float | None) -> str:
    return "" if peak is None else f"{peak:.1f}"


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--attention", default="sdpa", help="sdpa or flash_attention_2")
    parser.add_argument("--resize", default="pil", choices=("pil", "torch"))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--quantise", choices=quantise.KINDS)
    parser.add_argument("--seconds", type=float, default=3.0, help="about how long each figure is measured")
    parser.add_argument("--tiny", action="store_true", help="a tiny model in float32: checks the script")
    parser.add_argument("--json", type=Path, help="file to write the whole result to")
    options = parser.parse_args()

    def keep(result: dict[str, Any]) -> None:
        last = result["rows"][-1]
        print(
            f"batch {last['batch']}: {last.get('error') or format(last['model'], '.2f') + ' images/s'}",
            flush=True,
        )
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    result = measure(
        TINY if options.tiny else INTERNVL3_8B,
        options.batches,
        device=torch.device(options.device),
        dtype=torch.float32 if options.tiny else torch.bfloat16,
        attention=options.attention,
        compile=options.compile,
        resize=options.resize,
        kind=options.quantise,
        seconds=options.seconds,
        matmul_side=256 if options.tiny else 8192,
        after_row=keep,
    )
    print(table(result))


if __name__ == "__main__":
    main()
