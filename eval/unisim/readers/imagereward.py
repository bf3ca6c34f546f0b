"""ImageRewardDB: the best and the worst ranked picture of a prompt (arXiv 2304.05977).

The published code takes the first and the last row of each prompt, which the data set lists from best to
worst. Rows are read from the JSON file in each folder of pictures.
"""

from __future__ import annotations

import re
from typing import Any

from eval.unisim.draw import chosen, placed
from eval.unisim.reading import Ask, Drawn, finite, read_list, readable
from eval.unisim.samples import Sample


def imagereward(ask: Ask) -> Drawn:
    """First against last picture of each prompt; the one of lower rank is the better."""
    drawn = Drawn()
    base = f"ImageRewardDB/images/{ask.split}"
    prompts: dict[str, list[tuple[str, str, float, str]]] = {}
    folders = [name for name in ask.folder(base) if (ask.root / base / name).is_dir()]
    if not folders:
        raise ask.missing(ask.root / base, "no folder in it; unpack each archive into one of its name")
    for folder in sorted(folders, key=_order):
        listing = f"{base}/{folder}/{folder}.json"
        for where, entry in read_list(ask.file(listing)):
            found = _row(entry, f"{base}/{folder}")
            if isinstance(found, str):
                drawn.leave(where, found)
            else:
                prompts.setdefault(found[0], []).append(found[1])
    for prompt, rows in prompts.items():
        _ask(ask, drawn, prompt, rows[0], rows[-1])
    drawn.samples = chosen(drawn.samples, ask.count, lambda sample: sample.id, ask.seed, "imagereward")
    drawn.notes.append(
        "First against last row of each prompt, as published. Which comes first is drawn from the seed and "
        "the prompt's id; there, it depends on the state of a worker."
    )
    return drawn


def _row(entry: dict[str, Any] | None, folder: str) -> tuple[str, tuple[str, str, float, str]] | str:
    """Prompt id, and name, prompt, rank and id; or what is wrong."""
    if entry is None:
        return "no JSON object"
    image, identity, prompt = (entry.get(key) for key in ("image_path", "prompt_id", "prompt"))
    rank = finite(entry.get("rank"))
    if (
        not isinstance(image, str)
        or not image
        or not readable(identity)
        or not readable(prompt)
        or rank is None
    ):
        return "lacks image_path, prompt_id, prompt or a rank that is a number"
    name = f"{folder}/{image.rpartition('/')[2]}"
    return str(identity), (name, str(prompt), rank, str(identity))


def _ask(
    ask: Ask,
    drawn: Drawn,
    identity: str,
    first: tuple[str, str, float, str],
    last: tuple[str, str, float, str],
) -> None:
    where = f"prompt {identity}"
    problem = ask.files.problem((first[0], last[0]))
    if first[0] == last[0]:
        drawn.leave(where, "has one picture only")
    elif problem:
        drawn.leave(where, problem)
    elif first[2] == last[2]:
        drawn.leave(where, f"a tie: first and last picture have rank {first[2]:g}")
    elif first[1] != last[1]:
        drawn.leave(where, "its rows have different prompts")
    else:
        good, bad = sorted((first, last), key=lambda row: row[2])
        images, label = placed(good[0], bad[0], ask.seed, "imagereward", identity)
        drawn.samples.append(Sample(identity, "it_2afc", images, (first[1],), label))


def _order(name: str) -> tuple[int, str]:
    digits = re.search(r"\d+$", name)
    return (int(digits.group()) if digits else 0), name
