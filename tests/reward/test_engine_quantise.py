"""Quantised weights: where they go, what they cost, and what is refused."""

import importlib.util

import numpy as np
import pytest
import torch

from reward_plugin import quantise
from reward_plugin.checkpoint import load_checkpoint
from reward_plugin.errors import ConfigError
from reward_plugin.images import to_rgb_each
from reward_plugin.internvl import RatingEngine
from reward_plugin.prompting import UNIPERCEPT_QUESTIONS
from tests.reward.golden import CHECKPOINT, expected

installed = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="extra quantise is absent")


@installed
def test_int8_rounds_the_decoder_alone_and_keeps_the_scores_close():
    checkpoint = load_checkpoint(CHECKPOINT)
    before = {name: weight.clone() for name, weight in checkpoint.model.named_parameters()}
    model = quantise.apply(checkpoint.model, "int8")
    changed = {name for name, weight in model.named_parameters() if type(weight.data) is not torch.Tensor}
    blocks = {name for name in before if "language_model.layers." in name and name.endswith("proj.weight")}
    assert changed == blocks and len(blocks) == 7 * 3
    for name in blocks:
        weight = dict(model.named_parameters())[name].dequantize()
        step = before[name].abs().amax(1, keepdim=True) / 127
        assert ((weight - before[name]).abs() <= step * 0.51).all()
    images, values = expected("scores")
    scores = RatingEngine(checkpoint, UNIPERCEPT_QUESTIONS).rate(to_rgb_each(images[:2])[0])
    assert 1e-3 < np.abs(scores - values[:2]).max() < 2


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("int3", "quantise 'int3': write int8, int4, fp8, or null"),
        ("int4", r"'int4' computes on CUDA only, and the model is on cpu; use quantise int8"),
        ("fp8", r"'fp8' computes on CUDA only"),
    ],
)
def test_what_cannot_run_here_is_refused(kind, message):
    with pytest.raises(ConfigError, match=message):
        quantise.apply(torch.nn.Linear(2, 2), kind)
