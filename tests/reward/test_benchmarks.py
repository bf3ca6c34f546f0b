"""The benchmark commands, at a size at which they run anywhere."""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from benchmarks import make_checkpoint, score_deltas, score_gpu, score_throughput
from benchmarks.random_model import INTERNVL3_8B, TINY, config_of, operations
from reward_plugin.checkpoint import load_checkpoint
from reward_plugin.images import to_rgb_each
from reward_plugin.internvl import RatingEngine
from reward_plugin.prompting import UNIPERCEPT_QUESTIONS
from tests.reward.golden import CHECKPOINT, expected


def test_the_gpu_table_at_tiny_size():
    seen = []
    result = score_gpu.measure(
        TINY,
        [1, 0, 3],
        device=torch.device("cpu"),
        dtype=torch.float32,
        seconds=0.01,
        matmul_side=64,
        picture_side=64,
        after_row=lambda so_far: seen.append(len(so_far["rows"])),
    )
    one, failed, three = result["rows"]
    assert [row["batch"] for row in result["rows"]] == [1, 0, 3] and seen == [1, 2, 3]
    for row in (one, three):
        assert row["difference"] < 1e-3  # ours computes what three whole passes compute
        assert row["share"] > 0 and row["times_published"] == row["model"] / row["published"]
    assert failed["error"].startswith("ConfigError: batch_size 0")
    text = score_gpu.table(json.loads(json.dumps(result)))
    assert text.count("\n| ") == 5 and "| 0 | ConfigError" in text and "times the published way" in text


def test_the_operations_are_those_of_the_real_model():
    # 7.94 billion parameters; 12.5 TFLOP an image with shared prefix and vision tower, as counted by hand
    from transformers import InternVLForConditionalGeneration

    with torch.device("meta"):
        model = InternVLForConditionalGeneration(config_of(INTERNVL3_8B))
    assert abs(sum(weight.numel() for weight in model.parameters()) / 7.94e9 - 1) < 0.01
    assert abs(operations(INTERNVL3_8B) / 12.5e12 - 1) < 0.05


def test_a_made_checkpoint_loads_and_tells_images_apart(tmp_path: Path):
    count = make_checkpoint.make(tmp_path, make_checkpoint.SHAPES["tiny"])
    checkpoint = load_checkpoint(tmp_path)
    assert count == sum(weight.numel() for weight in checkpoint.model.parameters())
    images, _ = expected("scores")
    scores = RatingEngine(checkpoint, UNIPERCEPT_QUESTIONS).rate(to_rgb_each(images[:2])[0])
    assert np.isfinite(scores).all() and np.abs(scores[0] - scores[1]).max() > 0.01


def test_a_sixty_million_checkpoint_is_one():
    shapes = make_checkpoint.shapes_of(make_checkpoint.SHAPES["60m"], 370)
    assert 55e6 < sum(int(np.prod(size)) for _, size in shapes) < 65e6


def test_the_deltas_name_each_option_and_what_cannot_run():
    images, _ = expected("scores")
    text = score_deltas.table(CHECKPOINT, images[:1], "cpu", ["resize=torch", "quantise=fp8"])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert rows[2][0] == "resize=torch" and 0 < float(rows[2][1]) < 0.5
    assert rows[3][0] == "quantise=fp8" and "CUDA only" in rows[3][1]


def test_both_sides_take_turns(tmp_path: Path, monkeypatch):
    # The package itself is not here; this stands where it would be, so the turns and the table can be seen.
    package = tmp_path / "unipercept_reward.py"
    package.write_text(
        "class UniPerceptRewardInferencer:\n"
        "    def __init__(self, model_path, device, dtype): print('noise on standard output')\n"
        "    def reward(self, image_paths): return [dict(iaa=1.0, iqa=2.0, ista=3.0) for _ in image_paths]\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    images, values = expected("scores")
    options = score_throughput.parse(
        [
            "--peer",
            sys.executable,
            "--images",
            str(images[0]),
            "--rounds",
            "2",
            "--seconds",
            "0",
            "--threads",
            "1",
        ]
    )
    result = score_throughput.measure(options)
    assert abs(result["largest_difference"] - np.abs(values[0] - [1, 2, 3]).max()) < 1e-3
    assert [len(rates) for rates in result["images_per_second"].values()] == [2, 2]
    assert result["ratio"]["lowest"] <= result["ratio"]["median"] <= result["ratio"]["highest"]
    assert "| unipercept-reward |" in score_throughput.table(result)
