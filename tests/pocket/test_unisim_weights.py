"""What the committed UniSim adapter can do that the pocket CLIP cannot, on shapes that neither has seen."""

from pathlib import Path

import pytest

from benchmarks.unisim_table import CORE, load, measure, pooled
from pocket.unisim_tasks import SETS
from tests.reward.unisim_questions import write_questions

CLIP, ADAPTER = Path("pocket/weights/clip"), Path("pocket/weights/unisim")
NAMES = ("severity", "alike", "unspoilt", "whole", "verdict", "treatment", "ladder", "intact", "mixed")


@pytest.mark.slow
def test_every_core_task_is_answered_better_than_by_the_clip_that_it_was_tuned_from(tmp_path: Path):
    folder = write_questions(tmp_path, 0, 100, *NAMES)
    before = measure(load(CLIP), CLIP, folder, NAMES)
    after = measure(load(CLIP, ADAPTER), CLIP, folder, NAMES)
    for task in CORE:
        sets = [name for name in NAMES if SETS[name].task == task]
        (was, count), (found, _) = pooled(before, sets), pooled(after, sets)
        assert found > was, f"{task}: {found} of {count} right, {was} by CLIP"


def test_the_adapter_is_small_and_says_what_it_belongs_to():
    assert sum(file.stat().st_size for file in ADAPTER.iterdir()) < 1_500_000
    assert '"base_model_name_or_path": "pocket/weights/clip"' in (ADAPTER / "adapter_config.json").read_text()
