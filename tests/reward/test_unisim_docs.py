"""The snippets of docs/unisim.md run as they stand, on the pocket CLIP."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "unisim.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(2))
def test_a_snippet_runs_and_prints_what_it_says(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(ROOT)
    block = [block for block in BLOCKS if "pocket/weights" in block][number]
    scope: dict[str, object] = {}
    exec(block, scope)
    assert type(scope["metric"]).__name__ == "UniSim"
    assert len(capsys.readouterr().out.splitlines()) == block.count("print(")


def test_every_option_and_dimension_is_explained():
    import inspect

    from reward_plugin.scorers import unisim
    from reward_plugin.unisim.prompts import PROMPTS
    from reward_plugin.unisim.questions import SHAPES

    text = (ROOT / "docs" / "unisim.md").read_text()
    names = [*inspect.signature(unisim.build).parameters, *unisim.DIMENSIONS, *PROMPTS, *SHAPES]
    assert [name for name in names if f"`{name}`" not in text] == []
