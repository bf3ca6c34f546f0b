"""BAPPS: which of two distorted patches is closer to the reference (arXiv 1801.03924).

The published code takes the first 15 % of each kind of distortion (25 % of the training split), in the order
of names, and one more; so does this.
"""

from __future__ import annotations

from eval.unisim.draw import chosen
from eval.unisim.reading import Ask, Drawn
from eval.unisim.samples import Sample

_KINDS = {
    "val": ("cnn", "color", "deblur", "frameinterp", "superres", "traditional"),
    "train": ("cnn", "mix", "traditional"),
}
_SHARE = {"val": 0.15, "train": 0.25}


def bapps(ask: Ask) -> Drawn:
    """`ask.count` of the first patches of each kind."""
    drawn = Drawn()
    for kind in _KINDS[ask.split]:
        folder = f"bapps/{ask.split}/{kind}"
        names = [name for name in ask.folder(f"{folder}/ref") if name.endswith(".png")]
        stems = [name.removesuffix(".png") for name in names]
        for stem in stems[: int(len(stems) * _SHARE[ask.split]) + 1]:
            _read(ask, drawn, folder, kind, stem)
    drawn.samples = chosen(drawn.samples, ask.count, lambda sample: sample.id, ask.seed, "bapps")
    drawn.notes.append(
        f"Of each kind the first {_SHARE[ask.split]:.0%} and one more, as published; there, a vote that is "
        "split evenly counts for the first patch, and files are matched by their place in a list, not by "
        "name."
    )
    return drawn


def _read(ask: Ask, drawn: Drawn, folder: str, kind: str, stem: str) -> None:
    import numpy as np

    where = f"{folder}/ref/{stem}.png"
    images = tuple(f"{folder}/{part}/{stem}.png" for part in ("ref", "p0", "p1"))
    judge = f"{folder}/judge/{stem}.npy"
    problem = ask.files.problem((*images, judge))
    if problem:
        drawn.leave(where, problem)
        return
    try:
        votes = np.load(ask.root / judge, allow_pickle=False)
        share = float(votes.reshape(-1)[0])
    except (OSError, ValueError, TypeError, IndexError, EOFError) as error:
        drawn.leave(where, f"{judge}: no array of numbers ({error})")
        return
    if not 0 <= share <= 1:
        drawn.leave(where, f"{judge}: {share}; it must be a share of votes, from 0 to 1")
    elif share == 0.5:
        drawn.leave(where, "a tie: both patches have half of the votes")
    else:
        drawn.samples.append(Sample(f"{kind}/{stem}", "img_2afc", images, label=int(share > 0.5)))
