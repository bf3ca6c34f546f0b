"""NIGHTS: which of two variations is closer to the reference (arXiv 2306.09344).

`data.csv` has a row for each triplet. Those with fewer than 6 votes are not asked, as published.
"""

from __future__ import annotations

from eval.unisim.reading import Ask, Drawn, finite, read_table
from eval.unisim.samples import Sample

_COLUMNS = ("id", "right_vote", "ref_path", "left_path", "right_path", "votes", "split")
_VOTES = 6


def nights(ask: Ask) -> Drawn:
    """Every triplet of the split that enough people voted on."""
    drawn = Drawn()
    part = {"test_imagenet": "true", "test_no_imagenet": "false"}.get(ask.split)
    seen: dict[str, str] = {}
    unsure = 0
    columns = (*_COLUMNS, "is_imagenet") if part else _COLUMNS
    for where, row in read_table(ask.file("nights/data.csv"), columns):
        if row is None:
            drawn.leave(where, "has not as many cells as the first line")
            continue
        if row["split"] != ask.split.split("_")[0] or (part and row["is_imagenet"].lower() != part):
            continue
        votes, right = finite(row["votes"]), finite(row["right_vote"])
        if votes is None or right not in (0, 1) or not row["id"]:
            drawn.leave(where, f"id {row['id']!r}, votes {row['votes']!r}, right_vote {row['right_vote']!r}; "
                        "there must be an id, a number of votes, and 0 or 1")  # fmt: skip
            continue
        if votes < _VOTES:
            unsure += 1
            continue
        images = tuple(f"nights/{row[column]}" for column in ("ref_path", "left_path", "right_path"))
        problem = ask.files.problem(images)
        if problem:
            drawn.leave(where, problem)
        elif row["id"] in seen:
            drawn.leave(where, f"repeats id {row['id']} of {seen[row['id']]}")
        else:
            seen[row["id"]] = where
            drawn.samples.append(Sample(row["id"], "img_2afc", images, label=int(right)))
    drawn.notes.append(f"{unsure} triplets with fewer than {_VOTES} votes are not asked, as published.")
    return drawn
