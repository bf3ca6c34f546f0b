"""MagicBrush and HQ-Edit: a picture before and after an edit (arXiv 2306.10012, 2404.09990).

Lists are those of the published benchmark, of LLaVA's M4 form. Their parts `MagicBrush-Diff` and
`HQ-Edit-Diff`, and edits of more than two pictures, are not asked, as published.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from eval.unisim.draw import chosen, placed
from eval.unisim.reading import Ask, Drawn, read_list, readable
from eval.unisim.samples import Sample


def magicbrush(ask: Ask) -> Drawn:
    """Which of the pictures before and after an edit fits the edit's text: the one after."""
    drawn = Drawn()
    for index, where, entry in _entries(ask, drawn, "MagicBrush"):
        text = _answer(entry)
        names = [_in_split(name, ask.split) for name in entry["image"]]
        problem = ask.files.problem(names)
        if not readable(text):
            drawn.leave(where, "has no text as the value of its second turn")
        elif problem:
            drawn.leave(where, problem)
        else:
            images, label = placed(names[1], names[0], ask.seed, "magicbrush", index)
            drawn.samples.append(Sample(f"{index:05d}", "it_2afc", images, (text,), label))
    drawn.samples = chosen(drawn.samples, ask.count, lambda sample: sample.id, ask.seed, "magicbrush")
    drawn.notes.append(
        "The picture after the edit is the right one. Which comes first is drawn from the seed and the "
        "entry's number; in the published code, from the state of a worker."
    )
    return drawn


def hq_edit_images(ask: Ask) -> Drawn:
    """For each of an edit's two texts, which of its pictures fits: before and after, in this order."""
    drawn = Drawn()
    for index, where, images, texts in _edits(ask, drawn):
        problem = ask.files.problem(images)
        if problem:
            drawn.leave(where, problem)
            continue
        for label in (0, 1):
            drawn.samples.append(Sample(f"{index:05d}/{label}", "it_2afc", images, (texts[label],), label))
    drawn.samples = chosen(drawn.samples, ask.count, lambda sample: sample.id, ask.seed, "hq_edit")
    return drawn


def hq_edit_texts(ask: Ask) -> Drawn:
    """For each of an edit's two pictures, which of its texts fits: before and after, in this order."""
    drawn = Drawn()
    for index, where, images, texts in _edits(ask, drawn):
        for label in (0, 1):
            problem = ask.files.problem([images[label]])
            if problem:
                drawn.leave(where, problem)
                continue
            drawn.samples.append(Sample(f"{index:05d}/{label}", "text_2afc", (images[label],), texts, label))
    drawn.samples = chosen(drawn.samples, ask.count, lambda sample: sample.id, ask.seed, "hq_edit")
    return drawn


def _edits(ask: Ask, drawn: Drawn) -> Iterator[tuple[int, str, tuple[str, str], tuple[str, str]]]:
    """Number and place of an entry, and its pictures and texts, each before and after the edit."""
    for index, where, entry in _entries(ask, drawn, "HQ-Edit"):
        before, after = entry.get("input"), entry.get("output")
        if not readable(before) or not readable(after):
            drawn.leave(where, "lacks a text as input or as output")
        elif before.strip() == after.strip():
            drawn.leave(where, "a tie: input and output are the same text")
        else:
            yield index, where, (entry["image"][0], entry["image"][1]), (before, after)
    drawn.notes.append(
        "Both questions of an edit have its pictures and texts in the published order: before, after."
    )


def _entries(ask: Ask, drawn: Drawn, folder: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Entries with two pictures, whose names are distinct texts; not those of the `-Diff` part."""
    skipped = longer = 0
    seen: dict[str, str] = {}
    for index, (where, entry) in enumerate(read_list(ask.file(f"{folder}/{ask.split}.json"))):
        about = entry.get("metadata") if entry else None
        images = entry.get("image") if entry else None
        if entry is None or not isinstance(images, list) or not all(isinstance(name, str) for name in images):
            drawn.leave(where, "no object with a list of pictures, image")
        elif isinstance(about, dict) and about.get("dataset") == f"{folder}-Diff":
            skipped += 1
        elif len(images) > 2:
            longer += 1
        elif len(set(images)) < 2:
            drawn.leave(where, f"has {len(set(images))} pictures; a question needs two")
        elif (same := _content(entry)) in seen:
            drawn.leave(where, f"repeats {seen[same]}")
        else:
            seen[same] = where
            yield index, where, entry
    drawn.notes.append(
        f"{skipped} entries of {folder}-Diff and {longer} with more than two pictures are not asked, as "
        "published."
    )


def _content(entry: dict[str, Any]) -> str:
    return repr((entry["image"], entry.get("input"), entry.get("output"), entry.get("conversations")))


def _answer(entry: dict[str, Any]) -> Any:
    try:
        return entry["conversations"][1]["value"]
    except (KeyError, IndexError, TypeError):
        return None


def _in_split(name: str, split: str) -> str:
    """The published lists name MagicBrush/images/1.jpg, and the file lies in MagicBrush/SPLIT/1.jpg."""
    parts = name.split("/")
    return "/".join([parts[0], split, *parts[2:]])
