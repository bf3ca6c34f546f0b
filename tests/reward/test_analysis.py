"""Analyses: every question about every image, as if asked alone."""

import json
from pathlib import Path

import pytest

from reward_plugin.checkpoint import load_checkpoint
from reward_plugin.errors import ConfigError
from reward_plugin.language.analysis import ARTIMUSE_QUESTIONS, QUESTIONS, analyse, questions_named
from reward_plugin.language.chat import Chat
from reward_plugin.language.command import analyse as run_analyse
from reward_plugin.language.config import AnalyseConfig
from tests.reward.golden import CHECKPOINT, EXPECTED, FOLDER

IMAGES = [FOLDER / "images" / name for name in EXPECTED["scores"]]


@pytest.fixture(scope="module")
def chat() -> Chat:
    return Chat(load_checkpoint(CHECKPOINT))


def test_the_questions_are_the_published_ones():
    assert list(ARTIMUSE_QUESTIONS) == [
        "Composition & Design",
        "Visual Elements & Structure",
        "Technical Execution",
        "Originality & Creativity",
        "Theme & Communication",
        "Emotion & Viewer Response",
        "Overall Gestalt",
        "Comprehensive Evaluation",
    ]
    assert ARTIMUSE_QUESTIONS["Overall Gestalt"] == (
        "Please evaluate the aesthetic quality of this image from the aspect of Overall Gestalt."
    )
    assert {name: len(questions) for name, questions in QUESTIONS.items()} == {
        "artimuse": 8,
        "unipercept_aesthetics": 8,
        "unipercept_quality": 4,
    }
    with pytest.raises(ConfigError, match="choose one of artimuse"):
        questions_named("other")


def test_eight_aspects_of_two_images_equal_sixteen_chats(chat: Chat):
    found = analyse(Chat(chat.checkpoint, batch_size=16), IMAGES[:2], max_new_tokens=5)
    for image, about in zip(IMAGES, found, strict=False):
        assert list(about) == list(ARTIMUSE_QUESTIONS)
        for aspect, question in ARTIMUSE_QUESTIONS.items():
            assert about[aspect] == chat.ask(image, question, max_new_tokens=5)


def test_the_vision_tower_sees_each_image_once(chat: Chat):
    seen: list[int] = []
    tower = chat.checkpoint.model.model.vision_tower
    hook = tower.register_forward_hook(lambda _, __, output: seen.append(len(output.last_hidden_state)))
    try:
        analyse(chat, IMAGES[:2], max_new_tokens=2)
    finally:
        hook.remove()
    assert sum(seen) == 2


def test_the_command_writes_a_row_for_each_image(tmp_path: Path):
    out = tmp_path / "rows.jsonl"
    config = AnalyseConfig(
        model=str(CHECKPOINT),
        questions="unipercept_quality",
        out=out,
        device="cpu",
        max_new_tokens=2,
    )
    broken = tmp_path / "broken.png"
    broken.write_bytes(IMAGES[0].read_bytes()[:500])
    assert run_analyse([str(IMAGES[0]), str(broken), str(IMAGES[1])], config) == 3
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["image"] for row in rows] == [str(IMAGES[0]), str(broken), str(IMAGES[1])]
    assert list(rows[0]["analyses"]) == list(QUESTIONS["unipercept_quality"])
    assert rows[0]["analyses_cut_off"] == list(QUESTIONS["unipercept_quality"])
    assert rows[1]["error"] and "analyses" not in rows[1]
