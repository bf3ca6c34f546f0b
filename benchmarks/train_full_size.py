"""Training at FLUX.1-dev's full size on one GPU, with random weights: images/s, utilisation, memory.

Called as `python -m benchmarks.train_throughput --full`. Not yet run on a GPU: the tests run it at tiny size
on a CPU. It downloads nothing, and needs little host memory: weights are made on the device. The trainer's
own loop runs on it; only the text encoders (random embeddings) and the reward (random scores) are not there.
Three ways are measured: configs/flux_dev_unipercept.yaml with and without recomputing activations, and its
windowed form, configs/flux_dev_fast.yaml. Utilisation counts a model's work once, so that recomputation
lowers it, and is given against the rate of large bf16 matrix products that this very card reaches.
"""

from __future__ import annotations

import gc
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from flow_grpo.cli import parse
from flow_grpo.config import TrainConfig
from flow_grpo.cost import Shape
from flow_grpo.plan import make_plan
from reward_plugin.types import ScoreTable

ROOT = Path(__file__).parents[1]
WAYS = {
    "all steps, recomputing": ("unipercept", ["--model.gradient_checkpointing", "true"]),
    "all steps": ("unipercept", ["--model.gradient_checkpointing", "false"]),
    "window of 3": ("fast", ["--model.gradient_checkpointing", "false"]),
}
TRANSFORMER = {"guidance_embeds": True}
VAE: dict[str, Any] = {
    **{"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 16},
    **{
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
}
TINY_TRANSFORMER = {
    **{"in_channels": 64, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 8},
    **{"num_attention_heads": 2, "joint_attention_dim": 4096, "axes_dims_rope": (2, 2, 4)},
}
TINY_VAE = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4}


class RandomRewards:
    """Scores from nowhere, at once."""

    dimensions = ("iaa", "iqa", "ista", "adherence")

    def submit(self, images: Sequence[Any], prompts: Sequence[str] | None = None) -> Future[ScoreTable]:
        """A random score for each picture."""
        values = np.random.default_rng(0).normal(50, 10, (len(images), 4)).astype(np.float32)
        future: Future[ScoreTable] = Future()
        future.set_result(ScoreTable(self.dimensions, values, (None,) * len(images)))
        return future


def random_pipeline(device: str, dtype: torch.dtype, tiny: bool) -> Any:
    """A FluxPipeline of FLUX.1-dev's shape without text encoders, its weights made on the device."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    with torch.device("meta"):
        transformer = FluxTransformer2DModel(**{**TRANSFORMER, **(TINY_TRANSFORMER if tiny else {})})
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            **{**VAE, **(TINY_VAE if tiny else {})},
        )
    generator = torch.Generator(device).manual_seed(0)
    for model in (transformer, vae):
        model.to(dtype).to_empty(device=device).requires_grad_(False)
        for name, value in model.named_parameters():
            if value.ndim > 1:
                value.normal_(0, 0.02, generator=generator)
            else:
                value.fill_(float("norm" in name and name.endswith("weight")))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    pipeline = FluxPipeline(scheduler, vae, None, None, None, None, transformer)

    def encode_prompt(text: str, device: Any, max_sequence_length: int) -> Any:
        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, device=device).to(dtype)

        return draw(1, max_sequence_length, 4096), draw(1, 768), None

    pipeline.encode_prompt = encode_prompt
    pipeline.tokenizer_2 = lambda text: SimpleNamespace(input_ids=text.split())
    return pipeline


@contextmanager
def random_weights(tiny: bool) -> Iterator[None]:
    """Within it the trainer's model is a random one, whatever its path."""
    import flow_grpo.policy.flux
    import flow_grpo.run
    from flow_grpo.policy.text import TextSide

    flux: Any = flow_grpo.policy.flux
    run: Any = flow_grpo.run

    def load_parts(config: Any, _: str, device: Any, whole: bool = True) -> Any:
        pipeline = random_pipeline(str(device), getattr(torch, config.dtype), tiny)
        return pipeline, TextSide(pipeline, lambda: pipeline)

    former = flux.load_parts, run.build_policy
    flux.load_parts, run.build_policy = load_parts, flux.FluxPolicy
    try:
        yield
    finally:
        flux.load_parts, run.build_policy = former


def configuration(way: str, folder: Path, iterations: int, tiny: bool) -> TrainConfig:
    """The recipe's, on fewer prompts, without validation and, as published, without KL."""
    recipe, more = WAYS[way]
    values: dict[str, Any] = {
        **{"run_dir": folder, "iterations": iterations + 1, "prompts.per_iteration": 2},
        **{"prompts.held_back": 0, "stop.metric": "null", "checkpoint.every": 10**6, "log.samples_every": 0},
        **{"regularizer.kl_weight": 0, "reward.constraints": "{}"},
        **({"prompts.group_size": 4, "model.height": 64, "model.width": 64} if tiny else {}),
        **({"model.max_sequence_length": 16, "model.lora.rank": 4, "sampler.chunk": 4} if tiny else {}),
        **({"model.dtype": "float32"} if tiny else {}),
    }
    arguments = ["--config", str(ROOT / "configs" / f"flux_dev_{recipe}.yaml"), *more]
    return parse([*arguments, *(part for key, v in values.items() for part in (f"--{key}", str(v)))]).config


def measure(way: str, iterations: int, tiny: bool, rate: float) -> dict[str, Any]:
    """One way of training: medians over iterations after the first.

    Args:
        way: Of `WAYS`.
        iterations: To measure.
        tiny: The tiny shape.
        rate: Of bf16 matrix products, FLOP/s.
    """
    from flow_grpo.distributed import connect
    from flow_grpo.log import RunLog
    from flow_grpo.run import prepare, read_all_prompts
    from flow_grpo.train import train

    gc.collect()
    on_gpu = torch.cuda.is_available() and not tiny
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as name, random_weights(tiny):
        config = configuration(way, Path(name), iterations, tiny)
        accelerator = connect(config)
        run = prepare(config, accelerator, *read_all_prompts(config))
        log = RunLog(run.folder, accelerator, config.iterations)
        log.begin("", 0, -1)
        train(run, RandomRewards(), log, accelerator)  # type: ignore[arg-type]
        log.close()
        lines = (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines][1:]
    seconds = float(np.median([row["seconds"] for row in rows]))
    once = configuration(way, Path(name), iterations, tiny)
    plan = make_plan(once, Shape(blocks=1, single_blocks=1, width=16) if tiny else Shape())
    spared = 1.0
    if once.model.gradient_checkpointing:  # a forward of the 4.1 that an example costs: 2.1, and one without
        whole = plan.forwards + plan.trained * 3.1
        spared = (whole - plan.trained) / whole
    return {
        "way": way,
        "images_per_second": plan.images / seconds,
        "utilisation": plan.pflop * 1e15 * spared / seconds / rate,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if on_gpu else float("nan"),
        "seconds": {key: float(np.median([row[key] for row in rows])) for key in rows[0] if "seconds" in key},
    }


def matmul_rate(device: str, size: int) -> float:
    """FLOP/s of square bf16 matrix products, the best of a few."""
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        for _ in range(5):
            b = a @ a
        float(b[0, 0])  # waits for the device
        best = min(best, (time.perf_counter() - start) / 5)
    return 2 * size**3 / best


def full(device: str, tiny: bool, iterations: int) -> dict[str, Any]:
    """Measure every way and print a table; a way that fails is a row with its reason."""
    rate = matmul_rate(device, 128 if tiny else 8192)
    print(f"bf16 matrix products: {rate / 1e12:.4g} TFLOP/s\n")
    print("| way | images/s | of that rate | peak GiB |\n| --- | ---: | ---: | ---: |")
    rows = []
    for way in WAYS:
        try:
            row = measure(way, iterations, tiny, rate)
            told = f"{row['images_per_second']:.3g} | {row['utilisation']:.1%} | {row['peak_gib']:.1f}"
        except RuntimeError as error:  # out of memory, for one
            row = {"way": way, "error": str(error).splitlines()[0]}
            told = f"{row['error']} | | "
        rows.append(row)
        print(f"| {way} | {told} |", flush=True)
    whole, window = rows[1].get("images_per_second"), rows[2].get("images_per_second")
    if whole and window:
        print(f"\nThe window makes {window / whole:.2f} times the images (aim: 1.3).")
    return {"rate": rate, "ways": rows, "torch": torch.__version__, "device": device}
