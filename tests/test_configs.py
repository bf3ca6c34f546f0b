"""Every shipped configuration loads through its own command's parser, and refuses keys that do not exist."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

import eval.__main__ as eval_command
import reward_plugin.__main__ as reward_command
from flow_grpo.cli import parse
from reward_plugin.unisim.train.cli import parse as parse_unisim

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"


def load_train(path: Path) -> object:
    return parse(["--config", str(path)]).config


def load_reward(path: Path) -> object:
    return reward_command.build_parser().parse_args(["serve", "--config", str(path)]).serve


def load_eval(path: Path) -> object:
    parser = eval_command.build_parser()
    kind = path.stem.split("_")[0]
    command = kind if kind in ("rating", "vqa", "unisim") else "compare"
    return parser.instantiate(parser.parse_args([command, "--config", str(path)]))[command]


def load_lab(path: Path) -> object:
    """Matrices of runs, how they are judged, and otherwise trainers' configurations."""
    if path.stem == "evaluation":
        return load_eval(path)
    if path.stem not in ("matrix", "algorithms"):
        return load_train(path)
    return load_ablation(path)


def load_ablation(path: Path) -> object:
    parser = eval_command.build_parser()
    return parser.instantiate(parser.parse_args(["ablate", "--config", str(path)])).ablate


def load_accelerate(path: Path) -> object:
    from accelerate.commands.config.config_args import load_config_from_file

    return load_config_from_file(str(path))


def load_unisim(path: Path) -> object:
    return parse_unisim(["--config", str(path)]).config


LOADERS: dict[str, Callable[[Path], object]] = {
    ".": load_train,
    "lab": load_lab,
    "reward": load_reward,
    "eval": load_eval,
    "ablations": load_ablation,
    "accelerate": load_accelerate,
    "unisim": load_unisim,
}


def files(folder: str) -> list[Path]:
    return sorted((CONFIGS / folder).glob("*.yaml"))


every_file = pytest.mark.parametrize(
    ("folder", "path"),
    [(folder, path) for folder in LOADERS for path in files(folder)],
    ids=lambda value: value.relative_to(CONFIGS).as_posix() if isinstance(value, Path) else "",
)


def test_no_config_is_left_out():
    loaded = {path for folder in LOADERS for path in files(folder)}
    assert loaded == {*CONFIGS.rglob("*.yaml"), *CONFIGS.rglob("*.yml")}
    assert all(files(folder) for folder in LOADERS)


def differences(written: object, loaded: object, name: str = "") -> list[str]:
    """Keys whose value in a file is not what was loaded from it; what the file leaves out may be anything."""
    if isinstance(written, dict):
        there = loaded if isinstance(loaded, dict) else vars(loaded)
        parts = [differences(value, there[key], f"{name}.{key}") for key, value in written.items()]
        return [line for part in parts for line in part]
    if isinstance(loaded, tuple):
        loaded = list(loaded)
    if isinstance(written, list) and isinstance(loaded, list) and len(written) == len(loaded):
        parts = [
            differences(*pair, f"{name}[{i}]") for i, pair in enumerate(zip(written, loaded, strict=True))
        ]
        return [line for part in parts for line in part]
    # Accelerate has enums for its texts.
    same = written == loaded or written == getattr(loaded, "value", loaded)
    return [] if same else [f"{name}: {written!r} became {loaded!r}"]


@every_file
def test_every_key_of_the_file_arrives(folder: str, path: Path):
    assert not differences(yaml.safe_load(path.read_text()), LOADERS[folder](path))


@pytest.mark.parametrize("value", ["1", "{}", "{deeper: {}}"])
@every_file
def test_an_unknown_key_is_refused_by_name(folder: str, path: Path, value: str, tmp_path: Path, capsys):
    if folder == "reward" and value != "1":
        pytest.skip("jsonargparse drops a mapping without values unseen")
    changed = tmp_path / path.name
    changed.write_text(f"{path.read_text()}\nno_such_key: {value}\n")
    with pytest.raises((SystemExit, Exception)) as caught:  # each library has its own
        LOADERS[folder](changed)
    assert "no_such_key" in f"{caught.value} {capsys.readouterr().err}"


def test_the_demo_is_evaluated_as_it_is_trained():
    train, evaluation = (
        yaml.safe_load((CONFIGS / name).read_text()) for name in ("pocket.yaml", "eval/pocket.yaml")
    )
    assert evaluation["model"] == train["model"]["path"]
    for key in ("height", "width", "guidance_scale", "max_sequence_length"):
        assert evaluation["sampling"][key] == train["model"][key], key
    assert evaluation["sampling"]["num_steps"] == train["validation"]["num_steps"]
    assert evaluation["reward"]["weights"] == train["reward"]["weights"]
    assert evaluation["prompts"] not in (train["prompts"]["train"], train["prompts"]["validation"])


def strings(value: object) -> Iterator[str]:
    """All texts in a parsed YAML file."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from strings(item)
    elif isinstance(value, str):
        yield value


@every_file
def test_repository_files_that_it_names_exist(folder: str, path: Path):
    named = [
        text
        for text in strings(yaml.safe_load(path.read_text()))
        if text.startswith(("pocket/", "prompts/", "eval/"))
    ]
    missing = [text for text in named if not (ROOT / text).exists()]
    assert not missing
