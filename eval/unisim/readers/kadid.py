"""KADID-10K: one picture with one distortion in two severities (Lin et al., QoMEX 2019).

Files are called I73_05_02.png: picture 73, distortion 5, severity 2 of 5. Pictures 73 to 81 are the test
split.
"""

from __future__ import annotations

from itertools import combinations

from eval.unisim.draw import chosen, placed
from eval.unisim.reading import Ask, Drawn
from eval.unisim.samples import Sample

_PICTURES = {"train": range(1, 73), "test": range(73, 82)}
_DISTORTIONS = range(1, 26)
_SEVERITIES = range(1, 6)


def kadid(ask: Ask) -> Drawn:
    """Which is better; the lower severity is. Every pair of severities once."""
    drawn = Drawn()
    ask.folder("kadid10k/images")
    for picture in _PICTURES[ask.split]:
        for distortion in _DISTORTIONS:
            _read(ask, drawn, f"I{picture:02d}_{distortion:02d}")
    drawn.samples = chosen(drawn.samples, ask.count, lambda sample: sample.id, ask.seed, "kadid")
    drawn.notes.append(
        f"There are {len(_PICTURES[ask.split]) * len(_DISTORTIONS) * 10} pairs, each asked once; the "
        "published code draws 5000 times, so it asks many of the 2250 of the test split twice or more. "
        "Which picture comes first is drawn from the seed and the names."
    )
    return drawn


def _read(ask: Ask, drawn: Drawn, stem: str) -> None:
    there: list[int] = []
    for severity in _SEVERITIES:
        problem = ask.files.problem([f"kadid10k/images/{stem}_{severity:02d}.png"])
        if problem:
            drawn.leave(f"{stem}_{severity:02d}", problem)
        else:
            there.append(severity)
    for low, high in combinations(there, 2):
        identity = f"{stem}/{low}-{high}"
        pair, label = placed(low, high, ask.seed, "kadid", identity)
        images = tuple(f"kadid10k/images/{stem}_{severity:02d}.png" for severity in pair)
        drawn.samples.append(Sample(identity, "iqa", images, label=label))
