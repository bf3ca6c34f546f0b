"""The direction of imports between the packages, and that importing them is cheap."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("reward_plugin", "flow_grpo", "eval", "pocket")
# What the trainer may see of the reward package, and from where.
REWARD_FACE = {"types", "errors", "client", "combine", "images"}
REWARD_USERS = {"flow_grpo/rollout.py", "flow_grpo/train.py", "flow_grpo/launch.py"}


def source_files() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imported_names(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of everything imported in a file, function bodies included.

    `from a.b import c` yields `a.b.c`: whether `c` is a module or a name in one does not matter to the rules.
    """
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)


def forbidden(path: Path, name: str) -> str | None:
    """The rule that importing `name` in the file at `path` (relative to the root) breaks, or None."""
    importer, (imported, *rest) = path.parts[0], name.split(".")
    if imported == "torchvision":
        return "nothing needs torchvision: there is no CPU build of it to match torch's"
    if imported == "eval" and importer != "eval":
        return "nothing imports eval"
    if importer == "reward_plugin" and imported in {*PACKAGES, "diffusers"} - {"reward_plugin"}:
        return "reward_plugin stands alone: nothing of ours, no diffusers"
    if importer == "flow_grpo" and imported == "pocket":
        return "the trainer knows no pocket models"
    if importer == "flow_grpo" and imported == "reward_plugin":
        if path.as_posix() not in REWARD_USERS:
            return f"only {sorted(REWARD_USERS)} see rewards"
        if not rest or rest[0] not in REWARD_FACE:
            return f"flow_grpo sees only reward_plugin's {sorted(REWARD_FACE)}"
    return None


@pytest.mark.parametrize("path", source_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_the_right_way(path: Path):
    relative = path.relative_to(ROOT)
    broken = [
        f"{relative}:{line}: imports {name}, but {rule}"
        for line, name in imported_names(path)
        if (rule := forbidden(relative, name))
    ]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("reward_plugin/client.py", "flow_grpo.sde.step"),
        ("reward_plugin/scorers/clip.py", "diffusers.FluxPipeline"),
        ("flow_grpo/sample.py", "reward_plugin.client.build_rewards"),
        ("flow_grpo/train.py", "reward_plugin.app.build_app"),
        ("flow_grpo/train.py", "eval.metrics.mean"),
        ("pocket/clip/train.py", "torchvision.transforms"),
    ],
)
def test_the_rules_catch_a_wrong_import(path: str, name: str):
    assert forbidden(Path(path), name)


def test_relative_imports_are_resolved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    module = tmp_path / "flow_grpo" / "policy" / "flux.py"
    module.parent.mkdir(parents=True)
    module.write_text("from . import base\nfrom .lora import wrap\nfrom ..sde import step\n")
    assert [name for _, name in imported_names(module)] == [
        "flow_grpo.policy.base",
        "flow_grpo.policy.lora.wrap",
        "flow_grpo.sde.step",
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_loads_no_heavy_library(package: str):
    heavy = "{'torch', 'transformers', 'diffusers', 'matplotlib', 'fastapi', 'pandas'}"
    code = f"import sys, {package}; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
