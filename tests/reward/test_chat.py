"""Chat against the published package's answers, against transformers' own `generate`, and against itself."""

import dataclasses
import io
import json
import math
from pathlib import Path

import PIL.Image
import pytest
import torch

from reward_plugin.checkpoint import Checkpoint, load_checkpoint
from reward_plugin.errors import BadImage, ConfigError
from reward_plugin.images import to_rgb
from reward_plugin.internvl import pixel_values
from reward_plugin.language.chat import Chat
from reward_plugin.language.command import chat as run_chat
from reward_plugin.language.command import talk
from reward_plugin.language.config import ChatConfig
from reward_plugin.language.decoding import Sampling, draw, shared_prefix
from reward_plugin.language.transcript import transcript
from reward_plugin.language.vqa import INSTRUCTION
from reward_plugin.prompting import SYSTEM_MESSAGE, conversation
from tests.reward.golden import CHECKPOINT, EXPECTED, FOLDER

IMAGES = [FOLDER / "images" / name for name in EXPECTED["vqa_responses"]]
PUBLISHED = list(EXPECTED["vqa_responses"].values())
QUESTION = INSTRUCTION + EXPECTED["vqa_question"]
LENGTH = EXPECTED["vqa_max_new_tokens"]
PROMPTS = ["Which is sharp?", "abc", "Describe the light, and everything else that there is to see."]


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(CHECKPOINT)


@pytest.fixture(scope="module")
def chat(checkpoint: Checkpoint) -> Chat:
    return Chat(checkpoint)


def generated(checkpoint: Checkpoint, image: Path, text: str, length: int) -> list[int]:
    """What transformers' own greedy `generate` writes for one conversation."""
    ids = torch.tensor([checkpoint.tokenizer(text).input_ids])
    pixels = pixel_values([to_rgb(image)], checkpoint.image_size)
    stop = checkpoint.tokenizer.convert_tokens_to_ids("<|im_end|>")
    written = checkpoint.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=pixels,
        max_new_tokens=length,
        do_sample=False,
        eos_token_id=stop,
        pad_token_id=stop,
    )[0, ids.shape[1] :].tolist()
    return written[: written.index(stop)] if stop in written else written


def test_responses_equal_the_published_package_one_by_one(chat: Chat):
    for image, published in zip(IMAGES[:2], PUBLISHED, strict=False):
        assert chat.ask(image, QUESTION, max_new_tokens=LENGTH).text == published


def test_responses_equal_the_published_package_in_a_batch(chat: Chat):
    replies = chat.ask_each(IMAGES, [QUESTION] * len(IMAGES), max_new_tokens=LENGTH)
    assert [reply.text for reply in replies] == PUBLISHED


def test_prompts_of_different_length_in_one_batch_equal_generate(chat: Chat, checkpoint: Checkpoint):
    replies = chat.ask_each(IMAGES[:3], PROMPTS, max_new_tokens=8)
    for image, prompt, reply in zip(IMAGES, PROMPTS, replies, strict=False):
        text = conversation(prompt, checkpoint.num_image_tokens, checkpoint.system_message)
        tokens = generated(checkpoint, image, text, 8)
        assert reply.num_tokens == len(tokens)
        assert reply.text == checkpoint.tokenizer.decode(tokens).strip()


def test_small_batches_keep_the_order(checkpoint: Checkpoint, chat: Chat):
    questions = [PROMPTS, [], PROMPTS[:1]]
    whole = chat.ask_all(IMAGES[:3], questions, max_new_tokens=5)
    small = Chat(checkpoint, batch_size=1).ask_all(IMAGES[:3], questions, max_new_tokens=5)
    assert small == whole
    assert [len(about) for about in whole] == [3, 0, 1]
    assert whole[2][0] == chat.ask(IMAGES[2], PROMPTS[0], max_new_tokens=5)


def test_an_answer_ends_at_the_end_token_and_leaves_the_batch(checkpoint: Checkpoint):
    """A token that ends some answers early, but not all, in place of `<|im_end|>`."""
    long = Chat(checkpoint)._answer(IMAGES, [[(QUESTION, ())]] * 5, 6, None)
    chat = Chat(checkpoint)
    texts = [reply.text for (reply,) in long]
    first = generated(checkpoint, IMAGES[0], conversation(QUESTION, 256, checkpoint.system_message), 6)
    chat._stop = first[2]
    replies = chat.ask_each(IMAGES, [QUESTION] * 5, max_new_tokens=6)
    assert (replies[0].num_tokens, replies[0].finished) == (2, True)
    assert any(not reply.finished for reply in replies)
    for reply, text in zip(replies, texts, strict=True):
        assert reply.text == text if not reply.finished else text.startswith(reply.text)


def test_history_is_a_conversation_about_one_image(chat: Chat, checkpoint: Checkpoint):
    history = [("What is it?", "A picture.")]
    reply = chat.ask(IMAGES[0], "And now?", history=history, max_new_tokens=6)
    image = "<img>" + "<IMG_CONTEXT>" * checkpoint.num_image_tokens + "</img>"
    text = (
        f"<|im_start|>system\n{SYSTEM_MESSAGE}<|im_end|>\n"
        f"<|im_start|>user\n{image}\nWhat is it?<|im_end|>\n<|im_start|>assistant\nA picture.<|im_end|>\n"
        "<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert reply.text == checkpoint.tokenizer.decode(generated(checkpoint, IMAGES[0], text, 6)).strip()


def test_an_answer_that_wrote_the_image_token_may_be_history(chat: Chat):
    assert "<IMG_CONTEXT>" in PUBLISHED[1]
    chat.ask(IMAGES[1], "Why?", history=[(QUESTION, PUBLISHED[1])], max_new_tokens=2)


@pytest.mark.parametrize("question", ["What is it?", "Look: <image> What is it?", "<image>What is it?"])
def test_a_first_turn_is_the_published_conversation(question: str):
    text = transcript(question, image=True, num_image_tokens=4, system_message="S")
    assert text == conversation(question, 4, "S")


def test_the_place_of_the_image_may_differ_within_a_batch(chat: Chat):
    prompts = ["What is it?", "Look at <image>, please", "What is it?"]
    together = chat.ask_each(IMAGES[:3], prompts, max_new_tokens=4)
    alone = [chat.ask(i, p, max_new_tokens=4) for i, p in zip(IMAGES, prompts, strict=False)]
    assert together == alone


def test_it_talks_without_an_image(chat: Chat):
    alone = chat.ask(None, "Hello", max_new_tokens=4)
    together = chat.ask_each([IMAGES[0], None, None], ["Hello", "Hello", "You there"], max_new_tokens=4)
    assert together[1] == alone and together[0].text != alone.text


def test_text_comes_as_it_is_written(chat: Chat):
    pieces: list[str] = []
    reply = chat.ask(IMAGES[0], QUESTION, max_new_tokens=LENGTH, on_text=pieces.append)
    assert len(pieces) > 3
    assert "".join(pieces).strip() == reply.text == PUBLISHED[0]


def test_drawing_follows_the_kept_distribution():
    logits = torch.tensor([0.0, math.log(6), math.log(3)])  # 0.1, 0.6, 0.3
    for chance, token in ((0.0, 1), (0.59, 1), (0.61, 2), (0.89, 2), (0.91, 0), (0.999999, 0)):
        assert draw(logits, Sampling(), chance) == token
    assert draw(logits, Sampling(top_k=2), 0.65) == 1  # 2/3 now
    assert draw(logits, Sampling(top_k=2), 0.67) == 2
    assert draw(logits, Sampling(top_p=0.59), 0.999) == 1
    assert draw(logits, Sampling(top_p=0.61), 0.999) == 2
    assert draw(logits, Sampling(temperature=0.5), 36 / 46 - 0.01) == 1  # 1, 36, 9
    assert draw(logits, Sampling(temperature=0.5), 36 / 46 + 0.01) == 2


def test_sampled_answers_depend_on_seed_and_number_alone(checkpoint: Checkpoint, chat: Chat):
    asked = (IMAGES[:2] * 2, ["Hello"] * 4)
    drawn = chat.ask_each(*asked, max_new_tokens=5, sampling=Sampling(seed=3))
    again = Chat(checkpoint, batch_size=1).ask_each(*asked, max_new_tokens=5, sampling=Sampling(seed=3))
    other = chat.ask_each(*asked, max_new_tokens=5, sampling=Sampling(seed=4))
    assert drawn == again and drawn != other
    assert drawn[0] != drawn[2]  # the same question about the same image, asked twice


def test_the_system_message_can_be_overridden(checkpoint: Checkpoint):
    null = dataclasses.replace(checkpoint, system_message=None)
    as_text = Chat(checkpoint, system_message="None").ask(IMAGES[0], "Hello", max_new_tokens=6)
    assert Chat(null).ask(IMAGES[0], "Hello", max_new_tokens=6) == as_text
    assert Chat(checkpoint).ask(IMAGES[0], "Hello", max_new_tokens=6) != as_text


def test_shared_prefix_leaves_each_prompt_a_token():
    assert shared_prefix([[1, 2, 3], [1, 2, 4, 5]]) == 2
    assert shared_prefix([[1, 2, 3]]) == 2
    assert shared_prefix([[1, 2], [1, 2, 3]]) == 1


def test_what_cannot_be_asked_is_refused(chat: Chat, tmp_path: Path):
    with pytest.raises(ConfigError, match="empty"):
        chat.ask(IMAGES[0], "  ")
    with pytest.raises(ConfigError, match="2 images but prompts for 1"):
        chat.ask_each(IMAGES[:2], ["Hello"])
    with pytest.raises(ConfigError, match="max_new_tokens 0"):
        chat.ask(IMAGES[0], "Hello", max_new_tokens=0)
    with pytest.raises(ConfigError, match="temperature"):
        Sampling(temperature=0)
    with pytest.raises(ConfigError, match="top_p"):
        Sampling(top_p=0)
    with pytest.raises(BadImage, match="no such file"):
        chat.ask(tmp_path / "none.png", "Hello")


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_command_writes_rows_goes_on_and_retries(tmp_path: Path, capsys: pytest.CaptureFixture):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for image in IMAGES[:2]:
        (folder / image.name).write_bytes(image.read_bytes())
    bad = folder / "bad.png"
    bad.write_bytes(b"nothing")
    out = tmp_path / "rows.jsonl"
    config = ChatConfig(model=str(CHECKPOINT), prompt="Hello", out=out, device="cpu", max_new_tokens=3)
    assert run_chat([str(folder)], config) == 3
    first = rows_of(out)
    assert [Path(row["image"]).name for row in first] == ["astronaut.png", "bad.png", "coffee.jpg"]
    assert [row["error"] is None for row in first] == [True, False, True]
    assert first[0]["response"] and first[0]["finished"] is False and "response" not in first[1]

    PIL.Image.new("RGB", (8, 8)).save(bad)
    assert run_chat([str(folder)], config) == 3  # it is in the file already
    assert rows_of(out) == first
    assert run_chat([str(folder)], dataclasses.replace(config, retry=True)) == 0
    retried = rows_of(out)
    assert [row["error"] for row in retried] == [None] * 3 and retried[:2] == [first[0], first[2]]
    with pytest.raises(ConfigError, match="another --out"):
        run_chat([str(folder)], dataclasses.replace(config, max_new_tokens=4))

    capsys.readouterr()
    assert run_chat([str(IMAGES[0])], dataclasses.replace(config, out=None)) == 0
    assert json.loads(capsys.readouterr().out)["response"] == first[0]["response"]


def test_a_conversation_at_the_keyboard_remembers(chat: Chat):
    config = ChatConfig(model="unused", max_new_tokens=4)
    target = io.StringIO()
    talk(chat, str(IMAGES[0]), config, io.StringIO("Hello\nWhy?\n\n"), target)
    first = chat.ask(IMAGES[0], "Hello", max_new_tokens=4)
    second = chat.ask(IMAGES[0], "Why?", history=[("Hello", first.text)], max_new_tokens=4)
    said = target.getvalue()
    assert first.text in said and second.text in said and said.count("> ") == 3
