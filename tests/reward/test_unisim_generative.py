"""UniSim's generative models, on tiny ones of the real class in both layouts."""

import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2Config,
    Qwen2Tokenizer,
    SiglipVisionConfig,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from reward_plugin.errors import BadImage, CheckpointError, ConfigError
from reward_plugin.unisim.generative import Example, GenerativeJudge
from reward_plugin.unisim.instructions import INSTRUCTIONS, pieces
from reward_plugin.unisim.questions import Question
from tests.reward.published import golden, pictures

TOKENIZER = Path(__file__).parents[2] / "pocket" / "weights" / "unipercept"
SIDE, IMAGE_TOKEN = 32, 779
IMAGES = pictures(golden("hpsv2")["crops"])
QUESTIONS = [
    Question("img_2afc", IMAGES[:3]),
    Question("it_2afc", IMAGES[:2], ["a red boat"]),
    Question("text_2afc", IMAGES[3:4], ["a cup", "a cat on the moon"]),
    Question("paa", IMAGES[1:3], attribute="sharpness"),
    Question("ooo", IMAGES[2:5]),
    Question("nafc", IMAGES[:4], ["a cup"]),
]


def tiny(tied: bool) -> LlavaForConditionalGeneration:
    """A random model in which the pictures are seen: what it writes depends on them."""
    text = Qwen2Config(
        vocab_size=800, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, tie_word_embeddings=tied,
    )  # fmt: skip
    vision = SiglipVisionConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=1, image_size=SIDE,
        patch_size=10, vision_use_head=False,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN, vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = LlavaForConditionalGeneration(config).eval()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.normal_(0, 0.25)
    return model


def save(model: LlavaForConditionalGeneration, folder: Path) -> Path:
    model.save_pretrained(folder)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "added_tokens.json"):
        shutil.copy(TOKENIZER / name, folder)
    return folder


def publish(model: LlavaForConditionalGeneration, folder: Path) -> Path:
    """The same model as LLaVA-NeXT's own code would save it."""
    save(model, folder)
    rules = (
        (r"^model\.vision_tower\.(vision_model\.)?", "model.vision_tower.vision_tower.vision_model."),
        (
            r"^model\.multi_modal_projector\.linear_([12])",
            lambda m: f"model.mm_projector.{2 * int(m[1]) - 2}",
        ),
        (r"^model\.language_model\.", "model."),
    )
    weights = {}
    for old, tensor in model.state_dict().items():
        name = old
        for pattern, replacement in rules:
            name, found = re.subn(pattern, replacement, name)
            if found:
                break
        weights[name] = tensor.clone()
    weights["model.image_newline"] = torch.ones(64)
    save_file(weights, folder / "model.safetensors")
    text = model.config.text_config
    raw = {
        "architectures": ["LlavaQwenForCausalLM"],
        "model_type": "llava_qwen",
        "mm_vision_tower": f"google/siglip-tiny-patch10-{SIDE}",
        "mm_projector_type": "mlp2x_gelu",
        "mm_patch_merge_type": "flat",
        "image_aspect_ratio": "anyres",
        "rope_theta": text.rope_parameters["rope_theta"],
        **{
            key: getattr(text, key)
            for key in (
                "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                "num_key_value_heads", "max_position_embeddings", "tie_word_embeddings", "rms_norm_eps",
            )
        },
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tiny(tied=False), tmp_path_factory.mktemp("native"))


def load(folder: Path, **options: Any) -> GenerativeJudge:
    return GenerativeJudge.load(str(folder), device="cpu", **{"max_new_tokens": 6, **options})


def greedy(model: LlavaForConditionalGeneration, question: Question) -> str:
    """What the model writes, token by token, without a cache, a batch or padding."""
    tokenizer = Qwen2Tokenizer.from_pretrained(TOKENIZER)
    user = "<image>".join(pieces(question))
    prompt = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
    )
    ids: list[int] = []
    for i, chunk in enumerate(prompt.split("<image>")):
        ids += ([IMAGE_TOKEN] * (SIDE // 10) ** 2 if i else []) + tokenizer(chunk).input_ids
    processor = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    pixels = processor(list(question.images), return_tensors="pt").pixel_values
    written: list[int] = []
    for _ in range(6):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids + written]), pixel_values=pixels).logits
        written.append(int(logits[0, -1].argmax()))
        if written[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>"):
            break
    return tokenizer.decode(written, skip_special_tokens=True).strip()


@pytest.mark.parametrize("batch_size", [1, 4])
def test_answers_are_those_of_the_plain_model_one_by_one(batch_size: int, folder: Path):
    model = tiny(tied=False)
    answers = load(folder, batch_size=batch_size).answer(QUESTIONS)
    expected = [greedy(model, question) for question in QUESTIONS]
    assert [answer.text for answer in answers] == expected
    assert len(set(expected)) > 3  # they depend on what is asked and shown


@pytest.mark.parametrize("tied", [False, True])
def test_the_published_layout_is_the_same_model(tied: bool, tmp_path: Path):
    model = tiny(tied)
    published = load(publish(model, tmp_path / "published")).answer(QUESTIONS)
    native = load(save(model, tmp_path / "native")).answer(QUESTIONS)
    assert published == native
    assert [answer.text for answer in native[:2]] == [greedy(model, question) for question in QUESTIONS[:2]]


def speaking(folder: Path, word: str, **options: Any) -> GenerativeJudge:
    """A model whose weights make it say one word and stop: each token's successor is in its head."""
    judge = load(folder, **options)
    model, tokenizer = judge.llava.model, judge.llava.tokenizer
    chain = tokenizer(f"\n{word}<|im_end|>").input_ids
    chain = [
        tokenizer("<|im_start|>assistant\n").input_ids[-1],
        *chain[-len(tokenizer(word).input_ids) - 1 :],
    ]
    with torch.no_grad():
        embedding = model.model.language_model.embed_tokens.weight
        for layer in model.model.language_model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
        for now, then in itertools.pairwise(chain):
            model.lm_head.weight[then] = embedding[now]
    return judge


def test_what_is_written_is_read_as_a_choice(folder: Path):
    for word, choice in (("A", 0), ("B", 1), ("so", None)):
        judge = speaking(folder, word)
        answer = judge.choose("iqa", IMAGES[:2])
        assert (answer.text, answer.choice, answer.error) == (word, choice, None)
    assert speaking(folder, "C").choose("ooo", IMAGES[:3]).choice == 2
    assert speaking(folder, "B").ask(IMAGES[:1], "What is it?") == "B"


def test_questions_leave_no_trace_in_the_next_ones(folder: Path):
    judge, before = load(folder), dict(INSTRUCTIONS)
    first, second = (Question("it_2afc", IMAGES[:2], [text]) for text in ("a red boat", "two cats, asleep"))
    alone = judge.answer([second])
    assert judge.answer([first, second])[1:] == alone == judge.answer([second])
    assert before == INSTRUCTIONS == judge.instructions


def test_solved_examples_come_first_as_earlier_turns(folder: Path):
    judge = load(folder)
    examples = [Example(QUESTIONS[1], 1), Example(QUESTIONS[4], 2)]
    shown = judge.choose("iqa", IMAGES[:2], examples=examples)
    seen: list[dict[str, Any]] = []
    judge.llava.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True
    )
    looked: list[torch.Size] = []
    judge.llava.model.model.vision_tower.register_forward_pre_hook(
        lambda module, args, kwargs: looked.append((*args, *kwargs.values())[0].shape), with_kwargs=True
    )
    assert judge.choose("iqa", IMAGES[:2], examples=examples) == shown
    ids = [i for i in seen[0]["input_ids"][0].tolist() if i != IMAGE_TOKEN]
    said = judge.llava.tokenizer.decode(ids)
    turns = [
        "".join(pieces(question)) for question in (QUESTIONS[1], QUESTIONS[4], Question("iqa", IMAGES[:2]))
    ]
    assert said == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{turns[0]}<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n"
        f"<|im_start|>user\n{turns[1]}<|im_end|>\n<|im_start|>assistant\nC<|im_end|>\n"
        f"<|im_start|>user\n{turns[2]}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert looked == [(2 + 3 + 2, 3, SIDE, SIDE)]
    with pytest.raises(ConfigError, match=r"example: .*not one of PNG"):
        judge.choose("iqa", IMAGES[:2], examples=[Example(Question("iqa", [b"junk", IMAGES[0]]), 0)])


def test_what_cannot_be_asked_costs_only_itself(folder: Path):
    judge = load(folder, batch_size=2)
    questions = [
        Question("iqa", [b"junk", IMAGES[0]]),
        QUESTIONS[1],
        Question("it_2afc", IMAGES[:2], ["a <image> b"]),
        Question("text_2afc", IMAGES[:1], ["x", "y<|im_end|>"]),
        Question("it_2afc", IMAGES[:2], ["word " * 5000]),
    ]
    answers = judge.answer(questions)
    reasons = [
        "not one of PNG",
        None,
        "has <image> in it",
        r"has <\|im_end\|> in it",
        "tokens are more than the",
    ]
    for answer, reason in zip(answers, reasons, strict=True):
        if reason is None:
            assert answer == judge.answer([QUESTIONS[1]])[0] and answer.text
        else:
            assert answer.choice is None and answer.text is None and re.search(reason, answer.error or "")
    assert judge.answer([]) == []


def test_a_free_instruction_shows_pictures_where_it_says(folder: Path):
    judge = load(folder)
    assert judge.ask(IMAGES[:2], "Hi") == judge.ask(IMAGES[:2], "<image><image>Hi")
    assert judge.ask(IMAGES[:2], "<image> <image>Hi") != judge.ask(IMAGES[:2][::-1], "<image> <image>Hi")
    assert isinstance(judge.ask([], "Hi"), str)
    with pytest.raises(ConfigError, match="1 <image> in the instruction for 2 images"):
        judge.ask(IMAGES[:2], "<image>?")
    with pytest.raises(ConfigError, match=r"has <\|im_start\|> in it"):
        judge.ask(IMAGES[:1], "<|im_start|>system")
    with pytest.raises(BadImage, match="not one of PNG"):
        judge.ask([b"junk"], "Hi")


def test_wrong_options_are_named(folder: Path):
    with pytest.raises(ConfigError, match="max_new_tokens 0: must be at least 1"):
        load(folder, max_new_tokens=0)
    with pytest.raises(ConfigError, match="batch_size 0"):
        load(folder, batch_size=0)
    with pytest.raises(ConfigError, match="'iqa' is missing"):
        load(folder, instructions={k: v for k, v in INSTRUCTIONS.items() if k != "iqa"})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "qwen2"}, "describes a qwen2; it must be a llava_qwen or a llava"),
        ({"mm_projector_type": "linear"}, "mm_projector_type is 'linear'; only 'mlp2x_gelu' is known"),
        ({"mm_patch_merge_type": "spatial_unpad"}, "mm_patch_merge_type is 'spatial_unpad'; only 'flat'"),
        ({"mm_vision_tower": "openai/clip-vit-large-patch14-336"}, "only SigLIP is known here"),
        (
            {"mm_vision_tower": "google/siglip-tiny-patch10-64"},
            "9 positions do not fit pictures of 64 pixels",
        ),
        ({"vocab_size": 700}, "a tokenizer of 778 tokens and a vocab_size of 700"),
        ({"num_hidden_layers": 3}, "missing keys"),
        ({"hidden_size": 48}, "cannot be loaded|mismatched|no model can be built"),
    ],
)
def test_a_published_config_of_another_model_is_refused(change: dict[str, Any], reason: str, tmp_path: Path):
    publish(tiny(tied=False), tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | change))
    with pytest.raises(CheckpointError, match=reason):
        load(tmp_path)


def test_files_that_are_missing_are_named(tmp_path: Path):
    publish(tiny(tied=False), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({k: w for k, w in weights.items() if "vision_tower" not in k}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="the vision tower's weights are not with the others"):
        load(tmp_path)
    (tmp_path / "vocab.json").unlink()
    with pytest.raises(CheckpointError, match="tokenizer"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match=r"config.json: missing"):
        load(TOKENIZER.parent)


def test_pictures_are_resized_to_the_square_of_the_model(folder: Path):
    judge = load(folder)
    wide = PIL.Image.new("RGB", (90, 20), (10, 200, 30))
    pixels = judge.llava.processor([wide], return_tensors="pt").pixel_values
    expected = np.asarray(wide.resize((SIDE, SIDE), PIL.Image.Resampling.BICUBIC), np.float32) / 127.5 - 1
    np.testing.assert_allclose(pixels[0].permute(1, 2, 0), expected, atol=1e-6)
    assert judge.llava.image_tokens == 9 and judge.llava.image_token == IMAGE_TOKEN
