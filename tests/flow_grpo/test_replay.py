"""Numbers that are not finite end a run, on every process, with what it takes to come to them again."""

import json

import pytest

from flow_grpo.noise import seed_of
from flow_grpo.train import main
from tests.flow_grpo.conftest import PROMPTS
from tests.flow_grpo.ranks import group

# After one step at this rate the weights overflow: with two updates in the second update, else when the next
# iteration samples.
EXPLODING = {"optimizer.lr": 1e30, "validation.every": 100}


@pytest.mark.parametrize(
    "updates, iteration, said",
    [
        (2, 1, "the loss is not finite for prompt rows [0, 1] of process 0"),
        (1, 2, "the velocity is not finite"),
    ],
)
def test_a_run_that_explodes_says_where_and_leaves_prompts_and_seeds(
    arguments, tmp_path, capsys, updates, iteration, said
):
    run = tmp_path / "run"
    assert main(arguments(**EXPLODING, **{"optimizer.updates_per_rollout": updates})) == 1
    message = capsys.readouterr().err
    assert said in message and str(run / "replay.json") in message
    record = json.loads((run / "replay.json").read_text())
    assert said in record["error"] and record["iteration"] == iteration
    checkpoint = None if iteration == 1 else str(run / "checkpoints" / "step-000001")
    assert record["checkpoint"] == checkpoint and record["config"] == str(run / "config.yaml")
    assert [(one["row"], one["member"]) for one in record["pictures"]] == [
        (row, member) for row in range(2) for member in range(4)
    ]
    for one in record["pictures"]:
        assert one["prompt"] == PROMPTS[one["index"]] and one["process"] == 0
        assert one["seed"] == seed_of(0, "train", iteration - 1, one["index"], one["member"])


def test_two_processes_stop_together_and_leave_one_file(arguments, tmp_path):
    """Neither waits for the other, and one file tells the rows of both."""
    options = {**EXPLODING, "optimizer.updates_per_rollout": 2}
    ends = group(2, arguments(**options), tmp_path / "logs")
    assert [end.wait() for end in ends] == [1, 1]
    assert "in iteration 1, update 2 of 2 (optimizer step 2)" in ends[0].text()
    pictures = json.loads((tmp_path / "run" / "replay.json").read_text())["pictures"]
    assert [(one["process"], one["row"]) for one in pictures] == [(0, 0)] * 4 + [(1, 0)] * 4
