"""The commands `chat`, `vqa`, `analyse` and `profile`: pictures in, one JSON line each out.

Exit codes: 0 done; 3 done, and some rows have an error; 1 it could not start or go on; 2 the command line is
wrong. Whatever the code, what was answered is in `--out`, and the same command goes on from there.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from reward_plugin.errors import ConfigError
from reward_plugin.language.config import AnalyseConfig, ChatConfig, ProfileConfig, VqaConfig
from reward_plugin.language.rows import Row, Work, exit_code, identity, load_chat, make_rows, say
from reward_plugin.score.inputs import Item, gather

if TYPE_CHECKING:
    import PIL.Image
    from jsonargparse import Namespace

    from reward_plugin.language.chat import Chat, Reply


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
        config: class of its options.
        run: takes pictures and options, returns the exit code.
        help: one line.
    """

    config: type[Any]
    run: Callable[[Sequence[str], Any], int]
    help: str


def chat(images: Sequence[str], config: ChatConfig) -> int:
    """Ask one question about each picture; without one, talk at the keyboard."""
    if config.temperature < 0:
        raise ConfigError(f"temperature {config.temperature}: it must be 0 (the likeliest token) or above")
    items = gather(images, prompt=config.prompt, recursive=config.recursive)
    without = [item for item in items if item.prompt is None]
    if without and (len(items) > 1 or config.out is not None):
        raise ConfigError(
            f"no prompt for {without[0].image}: give --prompt, or one picture alone to talk about it"
        )
    if without:
        talk(load_chat(config), items[0].image, config, sys.stdin, sys.stdout)
        return 0

    def load() -> Work:
        model = load_chat(config)

        def work(batch: Sequence[Item], pictures: Sequence[PIL.Image.Image]) -> list[Row]:
            replies = model.ask_each(
                pictures,
                [item.prompt or "" for item in batch],
                max_new_tokens=config.max_new_tokens,
                sampling=_sampling(config),
            )
            return [_said(reply) for reply in replies]

        return work

    rows = make_rows(items, config, identity("chat", config, prompt=None), load, config.batch_size)
    return exit_code(rows, config.out)


def talk(model: Chat, image: str, config: ChatConfig, source: IO[str], target: IO[str]) -> None:
    """A conversation about one picture, a question a line; an empty line ends it."""
    from reward_plugin.images import to_rgb

    picture = to_rgb(image, exif=config.exif)
    history: list[tuple[str, str]] = []
    while True:
        print("> ", end="", file=target, flush=True)
        question = source.readline().strip()
        if not question:
            break
        reply = model.ask(
            picture,
            question,
            history=history,
            max_new_tokens=config.max_new_tokens,
            sampling=_sampling(config),
            on_text=lambda piece: print(piece, end="", file=target, flush=True),
        )
        print("" if reply.finished else " …", file=target, flush=True)
        history.append((question, reply.text))
    print(file=target)


def vqa(images: Sequence[str], config: VqaConfig) -> int:
    """Answer the questions of a list, or one question about each picture."""
    rows = answer_items(list(_questions(images, config)), config)
    _say_accuracy(rows)
    return exit_code(rows, config.out)


def answer_items(
    items: Sequence[Item], config: VqaConfig, stale: Callable[[Row], bool] | None = None
) -> list[Row]:
    """The row of each item, whose `extra` holds its question; goes on where `config.out` has rows already.

    Args:
        items: what to ask about.
        config: which model, how, and where rows go.
        stale: of a row that the file holds, whether its question is to be asked again.

    Raises:
        ConfigError: an option or a question is wrong.
    """
    from reward_plugin.language.vqa import check_question

    for item in items:
        check_question(item.extra.get("question"), item.image)

    def load() -> Work:
        model = load_chat(config)
        return lambda batch, pictures: _answers(model, batch, pictures, config)

    scored_by = identity("vqa", config, question=None, image_root=None)
    return make_rows(items, config, scored_by, load, config.batch_size, stale)


def analyse(images: Sequence[str], config: AnalyseConfig) -> int:
    """Ask the analysis questions about each picture."""
    items = gather(images, recursive=config.recursive)

    def load() -> Work:
        from reward_plugin.language.analysis import analyse as ask
        from reward_plugin.language.analysis import questions_named

        model = load_chat(config)
        questions = questions_named(config.questions)

        def work(batch: Sequence[Item], pictures: Sequence[PIL.Image.Image]) -> list[Row]:
            answers = ask(model, pictures, questions, max_new_tokens=config.max_new_tokens)
            return [_texts("analyses", about) for about in answers]

        return work

    # 8 questions a picture, more or less
    rows = make_rows(items, config, identity("analyse", config), load, max(1, config.batch_size // 8))
    return exit_code(rows, config.out)


def profile(images: Sequence[str], config: ProfileConfig) -> int:
    """Make a profile of each picture; an annotation that breaks a rule is the row's error."""
    items = gather(images, recursive=config.recursive)

    def load() -> Work:
        from reward_plugin.language.profile import Profiler
        from reward_plugin.language.richness import TEXTURE_WEIGHTS, load_weights

        profiler = Profiler(
            load_chat(config),
            ratings=config.ratings,
            texts=config.texts,
            weights=TEXTURE_WEIGHTS if config.lexicon is None else load_weights(config.lexicon),
            max_new_tokens=config.max_new_tokens,
            system_message=config.system_message,
        )

        def work(_: Sequence[Item], pictures: Sequence[PIL.Image.Image]) -> list[Row]:
            return [_profile_row(found, config) for found in profiler.profile(pictures)]

        return work

    at_once = max(1, config.batch_size // 13) if config.texts else config.batch_size
    rows = make_rows(items, config, identity("profile", config), load, at_once)
    return exit_code(rows, config.out)


#: name -> subcommand.
COMMANDS: Mapping[str, Command] = {
    "chat": Command(ChatConfig, chat, "ask a question about each picture, or talk about one"),
    "vqa": Command(VqaConfig, vqa, "answer multiple-choice questions about pictures"),
    "analyse": Command(AnalyseConfig, analyse, "ArtiMuse's analysis of each picture in eight aspects"),
    "profile": Command(
        ProfileConfig, profile, "ratings, structure as JSON and its richness for each picture"
    ),
}


def run(name: str, options: Namespace) -> int:
    """Run a parsed subcommand: `images` and the options of its config."""
    command = COMMANDS[name]
    chosen = {key: options[key] for key in command.config.__dataclass_fields__}
    return command.run(options.images, command.config(**chosen))


def _sampling(config: ChatConfig) -> Any:
    from reward_plugin.language.decoding import Sampling

    if config.temperature == 0:
        return None
    return Sampling(config.temperature, config.top_k, config.top_p, config.seed)


def _said(reply: Reply) -> Row:
    return {"response": reply.text, "finished": reply.finished}


def _texts(key: str, about: Mapping[str, Reply]) -> Row:
    """Aspect -> text, and the aspects whose answer was cut off."""
    cut_off = [aspect for aspect, reply in about.items() if not reply.finished]
    return {key: {aspect: reply.text for aspect, reply in about.items()}, f"{key}_cut_off": cut_off}


def _profile_row(found: Any, config: ProfileConfig) -> Row:
    row: Row = (
        {} if found.ratings is None else {"ratings": {k: round(v, 4) for k, v in found.ratings.items()}}
    )
    if config.texts:
        row |= _texts("aesthetics", found.aesthetics) | _texts("quality", found.quality)
    row["structure"] = None if found.structure is None else found.structure.to_json()
    row["richness"] = None if found.richness is None else asdict(found.richness)
    return row | _said(found.response) | {"error": found.problem}


def _questions(sources: Sequence[str], config: VqaConfig) -> Iterator[Item]:
    """Items with a question each; a `.json` source is a benchmark file, a list of objects."""
    for source in sources:
        if source.lower().endswith(".json") and os.path.isfile(source):
            root = os.path.dirname(source) if config.image_root is None else config.image_root
            items = [_from_benchmark(e, f"{source}[{i}]", root) for i, e in enumerate(_json_list(source))]
        else:
            items = gather([source], recursive=config.recursive)
        for item in items:
            yield Item(item.image, item.prompt, {"question": config.question, **item.extra})


def _from_benchmark(entry: object, where: str, root: str | Path) -> Item:
    if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
        raise ConfigError(f'{where}: must be {{"image": PATH, "question": TEXT, "answer": LETTER, ...}}')
    return Item(
        os.path.join(root, entry["image"]), None, {key: entry[key] for key in entry if key != "image"}
    )


def _json_list(source: str) -> list[Any]:
    try:
        value = json.loads(Path(source).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: cannot be read as JSON ({error})") from None
    if not isinstance(value, list) or not value:
        raise ConfigError(f"{source}: must be a list of questions with something in it")
    return value


def _answers(
    model: Chat, batch: Sequence[Item], pictures: Sequence[PIL.Image.Image], config: VqaConfig
) -> list[Row]:
    """Questions that follow each other and are about one file share its picture."""
    from reward_plugin.language.vqa import answer, answer_by_likelihood

    groups = [list(same) for _, same in groupby(range(len(batch)), lambda index: batch[index].key[0])]
    questions = [[batch[index].extra["question"] for index in same] for same in groups]
    seen = [pictures[same[0]] for same in groups]
    if config.by == "likelihood":
        answers = answer_by_likelihood(model, seen, questions)
        left_out = {"response", "published", "problem"}
    else:
        answers = answer(model, seen, questions, max_new_tokens=config.max_new_tokens)
        left_out = {"probabilities", "letter_mass"}
    rows = [asdict(one) for about in answers for one in about]
    return [{key: row[key] for key in row if key not in left_out} for row in rows]


def _say_accuracy(rows: Sequence[Row]) -> None:
    known = [row for row in rows if isinstance(row.get("answer"), str)]
    if not known:
        return
    truth = [row["answer"].strip().upper() for row in known]
    strict = sum(row.get("letter") == right for row, right in zip(known, truth, strict=True))
    unread = sum(row.get("letter") is None for row in known)
    said = f"{strict} of {len(known)} correct, {unread} without a letter"
    if any("published" in row for row in known):
        published = sum(row.get("published") == right for row, right in zip(known, truth, strict=True))
        said += f"; {published} correct in the published reading"
    say(said)
