"""The snippets of docs/unisim.md run as they stand, on the pocket CLIP."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "unisim.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("block", [block for block in BLOCKS if "pocket/weights" in block])
def test_a_snippet_runs(block: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    exec(block, {})


def test_every_option_and_dimension_is_explained():
    import inspect

    from reward_plugin.scorers import unisim
    from reward_plugin.unisim.prompts import PROMPTS
    from reward_plugin.unisim.questions import SHAPES

    text = (ROOT / "docs" / "unisim.md").read_text()
    names = [*inspect.signature(unisim.build).parameters, *unisim.DIMENSIONS, *PROMPTS, *SHAPES]
    assert [name for name in names if f"`{name}`" not in text] == []
