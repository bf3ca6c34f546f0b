"""What UniSim's training is made of: loss, order of questions, rates, and what a manifest must hold."""

import json
from pathlib import Path

import pytest
import torch

from eval.unisim.manifest import read_manifest
from reward_plugin.errors import ConfigError
from reward_plugin.unisim.train.config import TASKS, OptimizerConfig, SourceConfig
from reward_plugin.unisim.train.loss import hinge, leads, reduced, right
from reward_plugin.unisim.train.questions import chunks, drawn, fingerprint, read_source, share
from reward_plugin.unisim.train.schedule import decays, learning_rate, parameter_groups
from tests.reward.unisim_questions import write_questions


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_questions(tmp_path_factory.mktemp("questions"), train=6, test=3)


def unit(*degrees: float) -> torch.Tensor:
    """Plane vectors of length 1 at angles, [len(degrees), 2]."""
    angles = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def test_the_hinge_is_zero_only_where_the_right_choice_leads_by_the_margin():
    lead = torch.tensor([0.20, 0.05, 0.01, 0.0, -0.3])
    expected = torch.tensor([0.0, 0.0, 0.04, 0.05, 0.35])
    zeros = torch.zeros(5, dtype=torch.int64)
    torch.testing.assert_close(hinge(lead, zeros, 0.05), expected)
    torch.testing.assert_close(hinge(-lead, zeros + 1, 0.05), expected)


def test_the_hinge_pulls_by_the_sign_of_the_label_and_not_beyond_the_margin():
    lead = torch.tensor([0.01, 0.01, 0.5, -0.5], requires_grad=True)
    hinge(lead, torch.tensor([0, 1, 0, 1]), 0.05).sum().backward()
    assert lead.grad is not None
    assert lead.grad.tolist() == [-1.0, 1.0, 0.0, 0.0]


def test_a_tie_is_right_for_nobody():
    assert right(torch.tensor([0.0, 0.0, 0.1, -0.1]), torch.tensor([0, 1, 0, 1])).tolist() == [
        False,
        False,
        True,
        True,
    ]


def test_a_loss_is_the_sum_over_the_batch_or_its_mean_and_leaves_out_what_was_not_there():
    losses, valid = torch.tensor([0.1, 0.2, 5.0]), torch.tensor([True, True, False])
    assert reduced(losses, valid, 4, "sum") == pytest.approx(0.3)
    assert reduced(losses, valid, 4, "mean") == pytest.approx(0.075)


def test_leads_compare_the_anchor_of_each_task():
    pictures, texts = unit(0, 30, 60), unit(90, 10)
    near, far = torch.cos(torch.deg2rad(torch.tensor([30.0, 60.0])))
    assert leads("img_2afc", pictures[None], texts[None]) == pytest.approx(float(near - far))
    # the picture at 30 degrees, texts at 90 and 10
    assert leads("text_2afc", pictures[None, 1:2], texts[None]) == pytest.approx(
        float(torch.cos(torch.deg2rad(torch.tensor(60.0))) - torch.cos(torch.deg2rad(torch.tensor(20.0))))
    )
    for task in ("it_2afc", "iqa"):  # the text at 90 degrees, pictures at 0 and 30
        assert leads(task, pictures[None, :2], texts[None, :1]) == pytest.approx(-0.5)


def test_every_question_comes_once_before_any_comes_again_whatever_the_batch():
    row = [place for step in range(7) for place in drawn(step, 5, 7, "iqa", seed=3)]
    turns = [row[start : start + 7] for start in range(0, 35, 7)]
    assert all(sorted(turn) == list(range(7)) for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 1
    assert row == [place for step in range(5) for place in drawn(step, 7, 7, "iqa", seed=3)]
    assert row != [place for step in range(7) for place in drawn(step, 5, 7, "iqa", seed=4)]
    assert row != [place for step in range(7) for place in drawn(step, 5, 7, "img_2afc", seed=3)]


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_share_a_step_out_without_changing_it(processes: int):
    whole = drawn(9, 8, 30, "img_2afc", seed=0)
    assert [place for rank in range(processes) for place in share(whole, rank, processes)] == whole


def test_micro_batches_hold_every_question_of_every_task_once():
    parts = list(chunks({"iqa": 5, "it_2afc": 5}, 2))
    assert [part["iqa"] for part in parts] == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert list(chunks({"iqa": 5}, None)) == [{"iqa": slice(0, 5)}]


def test_the_rate_climbs_then_falls_to_its_floor():
    config = OptimizerConfig(lr=5e-6, min_lr=1e-6, warmup=500)
    assert learning_rate(0, 1500, config) == pytest.approx(1e-8)
    assert learning_rate(499, 1500, config) == learning_rate(500, 1500, config) == pytest.approx(5e-6)
    assert learning_rate(1000, 1500, config) == pytest.approx(3e-6)
    assert learning_rate(1500, 1500, config) == pytest.approx(1e-6)


def test_vectors_and_biases_do_not_decay():
    assert decays("vision_model.encoder.layers.0.mlp.fc1.lora_A.default.weight", 2)
    assert not decays("visual_projection.bias", 1)
    assert not decays("ln_post.weight", 2)
    parameters = {"weight": torch.nn.Parameter(torch.ones(2, 2)), "bias": torch.nn.Parameter(torch.ones(2))}
    groups = parameter_groups(parameters, 0.35)
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(1, 0.35), (1, 0.0)]


def test_a_manifest_reads_as_the_evaluation_reads_it(questions: Path):
    for file in sorted(questions.glob("train/*.jsonl")):
        theirs = read_manifest(file)
        (task,) = (task for task in TASKS if task == theirs.task)
        ours = read_source(SourceConfig(str(file), str(questions)), task)
        assert ours.name == theirs.dataset
        for one, other in zip(ours.questions, theirs.samples, strict=True):
            assert one.images == tuple(questions / name for name in other.images)
            assert (one.texts, one.label) == (other.texts, other.label)


def test_the_first_questions_of_a_manifest(questions: Path):
    source = SourceConfig(str(questions / "train/iqa-ladder.jsonl"), str(questions))
    few = read_source(source, "iqa", limit=2).questions
    assert few == read_source(source, "iqa").questions[:2]
    assert fingerprint({"iqa": few}) != fingerprint({"iqa": few[:1]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 2}, "3: label is 2; it is 0 or 1"),
        ({"label": True}, "3: label is True"),
        ({"images": ["a.png"]}, "3: images is .'a.png'.; iqa has 2"),
        ({"texts": ["a"]}, "3: texts is .'a'.; iqa has 0"),
    ],
)
def test_a_wrong_line_is_named(questions: Path, tmp_path: Path, change: dict, message: str):
    lines = (questions / "train/iqa-ladder.jsonl").read_text().splitlines()
    lines[2] = json.dumps(json.loads(lines[2]) | change)
    (tmp_path / "changed.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(ConfigError, match=message):
        read_source(SourceConfig(str(tmp_path / "changed.jsonl"), str(questions)), "iqa")


def test_a_wrong_file_is_named(questions: Path, tmp_path: Path):
    file = questions / "train/iqa-ladder.jsonl"
    with pytest.raises(ConfigError, match="task 'iqa', but it is listed under img_2afc"):
        read_source(SourceConfig(str(file), str(questions)), "img_2afc")
    with pytest.raises(ConfigError, match="is not there; root"):
        read_source(SourceConfig(str(file), str(tmp_path)), "iqa")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_source(SourceConfig(str(tmp_path / "none.jsonl"), str(questions)), "iqa")
    cut = tmp_path / "cut.jsonl"
    cut.write_text("\n".join(file.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(ConfigError, match="samples 6, but 5 questions follow"):
        read_source(SourceConfig(str(cut), str(questions)), "iqa")
