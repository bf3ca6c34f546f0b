"""The benchmark of branched sampling at a size at which it runs anywhere."""

import json

import pytest

from benchmarks import rollout_branch
from flow_grpo.cli import parse
from flow_grpo.policy.flux import FluxPolicy
from flow_grpo.prompts import Prompt


def test_the_table_at_tiny_size(arguments):
    config = parse(arguments()).config
    prompts = [Prompt("a red apple", index=0), Prompt("the sky", index=1)]
    result = rollout_branch.measure(FluxPolicy(config.model), prompts, config, [1, 2], 2)
    first, second = result["rows"]
    # 4 members, 4 steps: of 16 evaluations of a prompt 1 + 4 x 3 are left, or 2 + 4 x 2.
    assert (first["evaluations"], second["evaluations"]) == (13 / 16, 10 / 16)
    for row in result["rows"]:
        assert len(row["seconds"]) == 2 and row["interval"][0] <= row["ratio"] <= row["interval"][1]
    text = rollout_branch.table(json.loads(json.dumps(result)))
    assert text.count("\n| ") == 4 and "| 0.812 |" in text


def test_ratios_are_averaged_as_ratios():
    assert rollout_branch.geometric_mean([0.5, 2.0]) == pytest.approx(1)
    low, high = rollout_branch.interval([0.5, 2.0] * 20)
    assert 0.7 < low < 1 < high < 1.4
