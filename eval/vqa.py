"""`python -m eval vqa`: multiple-choice questions about pictures, counted by what they are about.

Questions are asked by what `python -m reward_plugin vqa` is made of: those about one picture together, in
batches, a row as it is answered, a run that goes on where it ended. The rows are in `answers.jsonl`; right
answers and categories are joined to them afterwards.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from eval.rating import BYTES, changed, need_pictures, size_of
from eval.results import write
from eval.vqa_config import VqaBenchmarkConfig
from eval.vqa_data import QuestionData, read_questions
from eval.vqa_page import write_tables
from eval.vqa_results import Answered, build, complete
from reward_plugin.language.command import answer_items
from reward_plugin.language.config import VqaConfig
from reward_plugin.score.command import SOME_FAILED
from reward_plugin.score.inputs import Item

ROWS = "answers.jsonl"


def run(config: VqaBenchmarkConfig) -> int:
    """Ask, count, and write rows, record, tables and page; returns the exit code.

    0: every entry was asked and every answer read; 3: done, and some were not.

    Raises:
        RewardError: the model could not be loaded or go on.
        ValueError: no file can be read, or a key of `fields` does not exist.
    """
    sets = [read_questions(name, place, config.fields) for name, place in config.chosen().items()]
    for data in sets:
        _say(data)
    where = in_order(sets)
    if not where:
        problems = [data.problem for data in sets if data.problem]
        raise ValueError("; ".join(problems) or "no question can be asked")
    items = []
    for part, index in where:
        question = sets[part].questions[index]
        items.append(Item(question.path, None, {"question": question.text, BYTES: size_of(question.path)}))
    need_pictures(items)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    sizes = {item.key[0]: item.extra[BYTES] for item in items}
    rows = answer_items(items, _language_config(config), lambda row: changed(row, sizes))
    found = dict(zip(where, rows, strict=True))
    answered = [
        [Answered(question, found[part, index]) for index, question in enumerate(data.questions)]
        for part, data in enumerate(sets)
    ]
    results = build(config, sets, answered)
    write(results, out / "results.json")
    write_tables(results, out)
    return 0 if complete(results) else SOME_FAILED


def in_order(sets: Sequence[QuestionData]) -> list[tuple[int, int]]:
    """Set and number of every question, those about one picture together, so that it is seen once."""
    where = [(part, index) for part, data in enumerate(sets) for index in range(len(data.questions))]
    first: dict[str, int] = {}
    for turn, (part, index) in enumerate(where):
        first.setdefault(sets[part].questions[index].path, turn)
    return sorted(where, key=lambda at: first[sets[at[0]].questions[at[1]].path])


def _language_config(config: VqaBenchmarkConfig) -> VqaConfig:
    same = (
        "model",
        "by",
        "max_new_tokens",
        "batch_size",
        "device",
        "dtype",
        "attention",
        "revision",
        "quantise",
    )
    options = {name: getattr(config, name) for name in (*same, "system_message", "exif", "retry")}
    return VqaConfig(**options, out=Path(config.out) / ROWS)


def _say(data: QuestionData) -> None:
    """What is known before minutes of asking."""
    for text in (data.problem, *data.notes):
        if text:
            print(f"eval: {text}", file=sys.stderr)
    if data.unusable:
        first = data.unusable[0]
        print(
            f"eval: {data.domain}: {len(data.unusable)} of {data.rows} entries cannot be asked, the first "
            f"({first.where}): {first.reason}",
            file=sys.stderr,
        )
