"""What cannot work is one message that names it, before or instead of an iteration that would be wrong."""

import pytest

import flow_grpo.launch
from flow_grpo.cli import parse
from flow_grpo.train import main
from tests.flow_grpo.interrupted import Interrupted


@pytest.mark.parametrize(
    "options, text",
    [
        (
            {"algorithm": "guard", "sampler.kind": "cps"},
            "sampler.kind is 'cps': it is not defined for algorithm guard",
        ),
        (
            {"model.lora.rank": 0, "regularizer.kl_weight": 0.1},
            "model.lora.rank is 0: it must be greater than 0",
        ),
        (
            {"prompts.group_size": 3, "optimizer.updates_per_rollout": 2},
            "multiple of optimizer.updates_per_rollout = 2",
        ),
        ({"prompts.group_size": 1}, "prompts.group_size is 1: it must be at least 2"),
    ],
    ids=["guard with cps", "KL without adapters", "indivisible group", "group of one"],
)
def test_the_command_line_refuses(arguments, capsys, options, text):
    with pytest.raises(SystemExit) as end:
        parse(arguments(**options))
    assert end.value.code == 2 and text in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, processes, text",
    [
        ({}, "3", "prompts.per_iteration is 2: it must be a multiple of the 3 processes"),
        ({"prompts.per_iteration": 7}, "1", "is more than the 6 prompts in"),
    ],
    ids=["indivisible prompts", "too few prompts"],
)
def test_a_dry_run_refuses(arguments, capsys, monkeypatch, options, processes, text):
    monkeypatch.setenv("WORLD_SIZE", processes)
    assert main([*arguments(**options), "--dry_run"]) == 1
    assert text in capsys.readouterr().err


def test_a_resolution_that_does_not_fit_is_refused_with_its_unit(arguments, capsys):
    assert main(arguments(**{"model.height": 36})) == 1  # 16 pixels for FLUX.1, 8 for the tiny model
    assert "model.height is 36 and model.width 32; both must be multiples of 8" in capsys.readouterr().err


def test_a_prompt_that_the_encoder_does_not_see_whole_is_named(arguments, tmp_path, capsys):
    prompts = tmp_path / "long.txt"
    long = "a red apple on the grass and a blue boat under the sky"
    prompts.write_text(f"a cat\n{long}\n")
    options = {"prompts.train": prompts, "model.max_sequence_length": 8, "prompts.validation": "null"}
    assert main(arguments(iterations=1, **options)) == 0
    said = capsys.readouterr().err
    assert f"is cut to model.max_sequence_length 8: '{long}'" in said
    assert "'a cat'" not in said and said.count("is cut to") == 1


def test_scores_for_fewer_pictures_than_were_sent_end_the_run(arguments, monkeypatch, capsys):
    def lose_the_last(rewards, images, prompts):
        return rewards.submit(images[:-1], prompts[:-1])

    monkeypatch.setattr(
        flow_grpo.launch, "build_rewards", lambda config: Interrupted(config, 0, lose_the_last)
    )
    assert main(arguments(**{"prompts.validation": "null"})) == 1
    assert "there are 6 scores for 8 pictures" in capsys.readouterr().err
