"""What the committed UniSim adapter can do that the pocket CLIP cannot, on shapes that neither has seen."""

from pathlib import Path

import pytest

from benchmarks.unisim_table import load, measure, pooled
from tests.reward.unisim_questions import write_questions

CLIP, ADAPTER = Path("pocket/weights/clip"), Path("pocket/weights/unisim")
QUALITY = ("ladder", "intact", "mixed")


@pytest.mark.slow
def test_it_judges_quality_better_than_the_clip_that_it_was_tuned_from(tmp_path: Path):
    names = (*QUALITY, "unspoilt")
    folder = write_questions(tmp_path, 0, 60, *names)
    before = measure(load(CLIP), folder, names)
    after = measure(load(CLIP, ADAPTER), folder, names)
    (was, count), (found, _) = pooled(before, QUALITY), pooled(after, QUALITY)
    assert found > was + 0.1 * count, f"{found} of {count} right, {was} by CLIP"
    assert after["unspoilt"] > before["unspoilt"]


def test_it_is_small_and_says_what_it_belongs_to():
    assert sum(file.stat().st_size for file in ADAPTER.iterdir()) < 1_500_000
    assert '"base_model_name_or_path": "pocket/weights/clip"' in (ADAPTER / "adapter_config.json").read_text()
