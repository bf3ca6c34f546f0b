"""The reward function inside TRL's own GRPOTrainer, on a tiny language model with random weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reward_plugin.adapters.trl import reward_function, reward_functions
from reward_plugin.client import LocalRewards
from reward_plugin.errors import ConfigError, MissingScore
from reward_plugin.types import ImageLike
from tests.reward.helpers import ChannelMeans, PromptLength, plain

WEIGHTS = {"red": 0.5, "letters": 2.0}
WORDS = ("apple", "teal", "cloth", "light", "morning", "glass", "stone", "river")


def local() -> LocalRewards:
    return LocalRewards([ChannelMeans(), PromptLength()])


def paint(texts: Sequence[str]) -> list[ImageLike | None]:
    """A picture as red as the text has words; none for a text that names the river."""
    return [None if "river" in text else plain(10 * len(text.split()), 0) for text in texts]


def test_of_several_pictures_in_a_conversation_the_last_counts():
    def message(role: str, *levels: int) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "image", "image": plain(level, 0)} for level in levels]}

    completions = [
        [message("assistant", 10, 20), message("tool", 30, 40), {"role": "assistant", "content": "so"}]
    ]
    reward = reward_function(local(), {"red": 1.0})
    assert reward(prompts=["a"], completions=completions) == [40]


def test_a_completion_without_a_score_is_none():
    reward = reward_function(local(), WEIGHTS, render=paint)
    completions = ["apple teal", "a river", "glass"]
    assert reward(prompts=["a", "bb", ""], completions=completions, completion_ids=[]) == [12.0, None, None]
    assert reward.__name__ == "perceptual"


def test_pictures_in_the_completions_or_in_a_column():
    rewards, pictures = LocalRewards([ChannelMeans()]), [plain(10, 1), plain(20, 2)]
    completions = [[{"role": "assistant", "content": [{"type": "image", "image": p}]}] for p in pictures]
    assert reward_function(rewards, {"red": 1})([""] * 2, completions) == [10, 20]
    assert reward_function(rewards, {"red": 1})(["", ""], ["no", "pictures"]) == [None, None]
    by_column = reward_function(rewards, {"red": 1}, column="painted")
    assert by_column(["", ""], ["a", "b"], painted=pictures) == [10, 20]
    with pytest.raises(ConfigError, match=r"no column 'painted' .* there are other"):
        by_column(["", ""], ["a", "b"], other=pictures)


def test_conversations_and_captions_are_the_scorers_prompts():
    rewards = LocalRewards([PromptLength()])
    chat = [[{"role": "system", "content": "be brief"}, {"role": "user", "content": "four"}]]
    reply = [[{"role": "assistant", "content": "apple"}]]
    assert reward_function(rewards, render=paint)(chat, reply) == [4]
    with_caption = reward_function(rewards, render=paint, prompt_column="caption")
    assert with_caption(chat, reply, caption=["seven!!"]) == [7]


def test_one_function_a_dimension_paints_once_and_agrees_on_what_is_missing():
    painted: list[int] = []

    def count(texts: Sequence[str]) -> list[ImageLike | None]:
        painted.append(len(texts))
        return paint(texts)

    functions, weights = reward_functions(local(), WEIGHTS, render=count)
    assert weights == [0.5, 2.0] and [function.__name__ for function in functions] == ["red", "letters"]
    completions = ["apple", "glass", "a river"]
    columns = [function(prompts=["abc", "", "a"], completions=completions) for function in functions]
    assert columns == [[10, None, None], [3, None, None]]
    assert painted == [3]
    functions[0](prompts=["abc"], completions=["apple"])
    assert painted == [3, 1]  # another batch


def test_on_request_a_missing_score_stops_the_run():
    reward = reward_function(local(), WEIGHTS, render=paint, missing="raise")
    with pytest.raises(MissingScore, match="picture 1: there is no picture for this completion"):
        reward(["a", "b"], ["apple", "river"])


def test_wrong_settings():
    with pytest.raises(ConfigError, match="not both"):
        reward_function(local(), WEIGHTS, render=paint, column="image")
    with pytest.raises(ConfigError, match="1 pictures for 2 completions"):
        reward_function(local(), WEIGHTS, render=lambda texts: [plain(0, 0)])(["a", "b"], ["a", "b"])


# --- inside the trainer


#: Completions of the batch that get no picture, whatever they say.
GAPS = (1, 6)


def paint_with_gaps(texts: Sequence[str]) -> list[ImageLike | None]:
    return [None if i in GAPS else plain(10 * len(text.split()), 0) for i, text in enumerate(texts)]


def tiny_model() -> tuple[Any, Any]:
    """A language model of a few thousand weights over `WORDS`, and its tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    words = {word: i for i, word in enumerate(("<pad>", "<end>", "<unknown>", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unknown>"
    )
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    return Qwen2ForCausalLM(config), fast


def train(folder: Path, functions: list[Callable[..., Any]], **options: Any) -> Any:
    """One step of TRL's trainer: two prompts, four completions each."""
    pytest.importorskip("trl", reason="the extra trl is not installed")
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    model, tokenizer = tiny_model()
    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=functions,
        train_dataset=Dataset.from_list([{"prompt": "apple teal"}, {"prompt": "glass stone"}]),
        args=GRPOConfig(
            output_dir=str(folder),
            per_device_train_batch_size=8,
            num_generations=4,
            max_completion_length=4,
            max_steps=1,
            learning_rate=0.01,
            logging_steps=1,
            report_to=[],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            save_strategy="no",
            seed=0,
            **options,
        ),
    )
    before = [parameter.detach().clone() for parameter in model.parameters()]
    trainer.train()
    trainer.moved = any(
        not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True)
    )
    return trainer


@pytest.mark.timeout(600)  # importing TRL takes its time on a busy machine
def test_trls_trainer_learns_from_it_and_leaves_missing_scores_out(tmp_path: Path):
    trainer = train(tmp_path, [reward_function(local(), WEIGHTS, render=paint_with_gaps)])
    texts, advantages = list(trainer._logs["completion"]), np.array(list(trainer._logs["advantages"]))
    rewards = np.array(list(trainer._logs["rewards"]["perceptual"]))
    lengths = [len(prompt) for prompt in trainer._logs["prompt"]]
    missing = np.isin(np.arange(8), GAPS)
    expected = [0.5 * 10 * len(text.split()) + 2 * n for text, n in zip(texts, lengths, strict=True)]
    assert np.isnan(rewards[missing]).all()
    assert rewards[~missing].tolist() == pytest.approx(np.array(expected)[~missing].tolist())
    assert (advantages[missing] == 0).all()
    for group in (slice(0, 4), slice(4, 8)):  # the baseline is the mean of those that have a reward
        assert advantages[group][~missing[group]].sum() == pytest.approx(0, abs=1e-4)
    reasons = list(trainer._logs["extra"]["perceptual_missing"])
    assert [bool(reason) for reason in reasons] == missing.tolist()
    logged = trainer.state.log_history[0]
    assert logged["perceptual/missing"] == pytest.approx(missing.mean())
    assert logged["perceptual/red"] == pytest.approx(
        np.mean([10 * len(text.split()) for text, gone in zip(texts, missing, strict=True) if not gone])
    )
    assert trainer.moved


@pytest.mark.timeout(600)
def test_trls_other_aggregation_takes_one_function_a_dimension(tmp_path: Path):
    functions, weights = reward_functions(local(), WEIGHTS, render=paint_with_gaps)
    options = {"reward_weights": weights, "multi_objective_aggregation": "normalize_then_sum"}
    trainer = train(tmp_path, list(functions), **options)
    missing = np.isin(np.arange(8), GAPS)
    for dimension in ("red", "letters"):
        assert np.isnan(np.array(list(trainer._logs["rewards"][dimension]))).tolist() == missing.tolist()
    assert (np.array(list(trainer._logs["advantages"]))[missing] == 0).all()
