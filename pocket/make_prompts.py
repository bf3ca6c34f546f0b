"""Write ``prompts/pocket_{train,val,trial,heldout}.txt``: captions of the pocket grammar, all different.

Training prompts are scenes that the pocket models may have been trained on (two per subject); the others are
reserved scenes, which no pocket model has seen. Validation prompts decide within a run what is kept, trial
prompts decide between recipes, and held-out prompts decide nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pocket.data import caption, draw_scene, painted, read_objects
from pocket.pool import is_reserved

VALIDATION, HELD_OUT, TRIAL = 24, 64, 64


def draw(
    nouns: list[str],
    subjects: np.ndarray,
    reserved: bool,
    rng: np.random.Generator,
    taken: Sequence[str] = (),
) -> list[str]:
    """One caption for each subject index, reserved or not, and none of those `taken`."""
    texts: list[str] = []
    for subject in subjects:
        while True:
            scene = replace(draw_scene(rng, len(nouns)), subject=int(subject))
            text = caption(nouns[subject], scene)
            if is_reserved(text) == reserved and text not in [*texts, *taken]:
                texts.append(text)
                break
    return texts


def write(path: Path, title: str, texts: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "\n".join([f"# {title} Written by pocket/make_prompts.py.", *texts, ""]), encoding="utf-8"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("prompts"))
    out = parser.parse_args().out
    rng = np.random.default_rng(2025)
    nouns = [noun for _, noun, _ in read_objects()]
    write(out / "pocket_train.txt", "Training prompts.", draw(nouns, np.repeat(painted(), 2), False, rng))
    chosen = rng.permutation(painted())[: VALIDATION + HELD_OUT]
    validation = draw(nouns, chosen[:VALIDATION], True, rng)
    held_out = draw(nouns, chosen[VALIDATION:], True, rng)
    rng = np.random.default_rng(2026)
    subjects = rng.permutation(painted())[:TRIAL]
    trial = draw(nouns, subjects, True, rng, taken=[*validation, *held_out])
    write(out / "pocket_val.txt", "Validation prompts.", validation)
    write(out / "pocket_heldout.txt", "Held-out prompts.", held_out)
    write(out / "pocket_trial.txt", "Prompts for choosing between recipes.", trial)
