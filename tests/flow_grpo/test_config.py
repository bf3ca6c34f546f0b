"""Reading configurations: shipped files load, and each mistake is one message that names the key."""

from pathlib import Path

import pytest
import yaml

from flow_grpo.checks import check_processes, check_prompts
from flow_grpo.cli import as_yaml, parse

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_configurations_load(path):
    config = parse(["--config", str(path)]).config
    assert config.reward.weights and config.stop.metric not in config.reward.weights


def test_both_recipes_are_shipped():
    assert {"pocket.yaml", "flux_dev_unipercept.yaml"} <= {path.name for path in SHIPPED}


def test_the_flux_recipe_is_the_published_one():
    config = parse(["--config", str(ROOT / "configs" / "flux_dev_unipercept.yaml")]).config
    assert (config.model.lora.rank, config.model.lora.alpha, config.model.lora.init) == (64, 128, "gaussian")
    assert (config.prompts.per_iteration, config.prompts.group_size) == (48, 24)
    assert (config.sampler.num_steps, config.validation.num_steps) == (6, 28)
    assert (config.sampler.noise_level, config.grpo.clip_range, config.advantage.std) == (0.9, 1e-4, "batch")
    assert (config.optimizer.lr, config.optimizer.weight_decay, config.optimizer.updates_per_rollout) == (
        3e-4,
        1e-4,
        2,
    )


def test_the_resolved_configuration_reads_back_as_itself(arguments, tmp_path):
    config = parse(arguments(optimizer__betas="[0.8, 0.9]")).config
    (tmp_path / "again.yaml").write_text(as_yaml(config))
    assert parse(["--config", str(tmp_path / "again.yaml")]).config == config


def test_keys_on_the_command_line_come_on_top(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"seed": 3, "reward": {"url": "http://a:1"}}))
    assert parse(["--config", str(path), "--seed", "4"]).config.seed == 4
    assert parse(["--config", str(path)]).config.seed == 3


def refused(capsys, *command):
    with pytest.raises(SystemExit) as stop:
        parse(command)
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "content, key",
    [
        ({"modle": {"path": "x"}}, "modle"),
        ({"model": {"lora": {"rnak": 4}}}, "rnak"),
        ({"sampler": {"noise": 0.3}}, "noise"),
        ({"reward": {"weight": {"iaa": 1}}}, "weight.iaa"),
        ({"modle": {}}, "modle"),
        ({"sampler": {"noise": {}}}, "sampler.noise"),
        ({"model": {"lora": {"rnak": {"deeper": {}}}}}, "model.lora.rnak"),
        ({"model.lora.rnak": {}}, "model.lora.rnak"),
    ],
)
def test_an_unknown_key_is_named(capsys, tmp_path, content, key):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(content))
    message = refused(capsys, "--config", str(path))
    assert key in message and "usage" in message


@pytest.mark.parametrize(
    "option, value, key",
    [
        ("--sampler", "{noise: {}}", "sampler.noise"),
        ("--model.lora", "{rnak: {}}", "model.lora.rnak"),
        ("--sampler", "{seed: {}}", "sampler.seed"),  # a key, but of another section
        ("--modle", "{}", "modle"),
    ],
)
def test_an_unknown_key_on_the_command_line_is_named(capsys, option, value, key):
    assert key in refused(capsys, option, value)


def test_an_empty_section_changes_nothing_and_a_null_one_is_named(capsys, tmp_path):
    path, reward = tmp_path / "c.yaml", ["--reward.url", "http://a:1"]
    path.write_text("sampler: {}\nmodel: {lora: {}}\n")
    unchanged = parse(reward).config
    assert parse(["--config", str(path), *reward]).config == unchanged
    assert parse([*reward, "--model", "{lora: {}}"]).config == unchanged
    path.write_text("sampler:\n#  num_steps: 8\n")
    assert "sampler is null" in refused(capsys, "--config", str(path))
    path.write_text("model:\n  lora:\n")
    assert "model.lora is null" in refused(capsys, "--config", str(path))


def test_a_wrong_type_and_a_missing_file_are_named(capsys, tmp_path):
    assert "iterations" in refused(capsys, "--iterations", "many")
    assert "nowhere.yaml" in refused(capsys, "--config", str(tmp_path / "nowhere.yaml"))
    assert "--iteration" in refused(capsys, "--iteration", "3")  # no abbreviations


@pytest.mark.parametrize(
    "key, value, rule",
    [
        ("prompts.group_size", 1, "at least 2"),
        ("prompts.group_size", 3, "multiple of optimizer.updates_per_rollout = 2"),
        ("optimizer.lr", 0, "greater than 0"),
        ("optimizer.ema_decay", 1.0, "below 1"),
        ("sampler.num_steps", 1, "sampler.window"),
        ("sampler.window.size", 0, "sampler.window"),
        ("sampler.window.stop", 4, "must hold at least one step, fit its range, and leave out the last step"),
        ("sampler.noise_level", 0, "greater than 0"),
        ("regularizer.kl_weight", -1, "must not be negative"),
        ("advantage.clip", 0, "greater than 0"),
        ("grpo.clip_range", -1e-4, "greater than 0"),
        ("validation.max_prompts", 0, "greater than 0"),
        ("optimizer.betas", "[0.9, 1.0]", "below 1"),
        ("reward.weights", "{}", "at least one dimension"),
        ("reward.weights", "{iaa: 0}", "at least one dimension"),
        ("reward.url", "http://a:1", "give exactly one"),
        ("reward.scorers", "null", "give exactly one"),
        ("stop.metric", "colourfulness", "must be a held-out dimension"),
    ],
)
def test_rules_between_keys(capsys, arguments, key, value, rule):
    options = {"optimizer.updates_per_rollout": 2, key: value}
    message = refused(capsys, *arguments(**options))
    # A window's rule is about all of its keys together.
    assert key.removesuffix(".stop") in message and rule in " ".join(message.split())


@pytest.mark.parametrize("kind", ["cps", "dance_sde"])
def test_guard_is_refused_where_it_is_not_defined(capsys, arguments, kind):
    message = refused(capsys, *arguments(algorithm="guard", sampler__kind=kind))
    assert "sampler.kind" in message and "not defined for algorithm guard" in message
    assert parse(arguments(algorithm="guard")).config.algorithm == "guard"


def test_cps_noise_is_an_angle(capsys, arguments):
    assert "at most 1 with cps" in refused(capsys, *arguments(sampler__kind="cps", sampler__noise_level=1.2))


def test_a_stop_metric_needs_validation_prompts(capsys, arguments):
    options = {"prompts.validation": "null", "stop.metric": "sharpness"}
    assert "set prompts.validation or prompts.held_back" in refused(capsys, *arguments(**options))
    assert parse(arguments(**options, prompts__held_back=2)).config.prompts.held_back == 2
    assert "use one of the two" in refused(capsys, *arguments(prompts__held_back=2))


def test_groups_must_divide_over_processes_and_fit_the_file(arguments):
    config = parse(arguments()).config
    check_processes(config, 2)
    with pytest.raises(ValueError, match=r"prompts\.per_iteration is 2: .* multiple of the 3 processes"):
        check_processes(config, 3)
    with pytest.raises(ValueError, match="more than the 1 prompts"):
        check_prompts(config, 1)
