"""The small benchmark in `eval/data`: `python -m pocket.unipercept.benchmark`.

Pictures that the pocket rater has not seen (crops of held-out photographs and held-out emoji on pocket
backgrounds), clean and with one known degradation each; ratings by the rater's own formulas; questions whose
answers are known because the pictures were made so. Nobody was asked: these are not human opinions.

Needs scikit-image, and fetches one Debian package and one npm package on the first run (see `pocket.data`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from PIL import Image

from pocket import data as world
from pocket.unipercept import degrade, labels, photographs
from pocket.unipercept.questions import questions

SEED = 2026
PACKAGE = "lomiri-wallpapers-16.04"
#: name of a crop -> photograph, and left, top and side of a square in it, as shares of its width.
CROPS: dict[str, tuple[str, float, float, float]] = {
    "coffee_cup": ("coffee", 0.20, 0.02, 0.62),
    "coffee_table": ("coffee", 0.0, 0.25, 0.40),
    "camera": ("camera", 0.10, 0.05, 0.80),
    "stream": ("life_by_Aitzol_Berasategi", 0.30, 0.06, 0.58),
    "rocks": ("life_by_Aitzol_Berasategi", 0.02, 0.20, 0.42),
    "hilltop": ("sunset_by_Aitzol_Berasategi", 0.40, 0.08, 0.55),
    "brushes": ("Picture_1A_by_freespace", 0.02, 0.02, 0.70),
    "bristles": ("Picture_1A_by_freespace", 0.30, 0.10, 0.45),
}
#: what a question may call the picture.
SHOWS = {
    "coffee_cup": "a cup of coffee",
    "coffee_table": "a saucer on a wooden table",
    "camera": "a man with a camera",
    "stream": "a stream between rocks",
    "rocks": "a stream between rocks",
    "hilltop": "sunset on a hill",
    "brushes": "paint brushes",
    "bristles": "paint brushes",
}
#: noun -> size, place and background of its scene; the nouns are held out of the rater's training.
SCENES: dict[str, tuple[str, str, str]] = {
    "volcano": ("large ", "", "in a green meadow"),
    "penguin": ("", " on the left", "on snowy ground"),
    "taxi": ("", " at the bottom", "on a teal background"),
    "swan": ("small ", " on the right", "on a background fading from blue to white"),
    "birthday cake": ("large ", "", "on a wooden table"),
    "elephant": ("", " at the top", "on a sandy beach"),
    "snake": ("", " on the left", "on a beige background"),
    "microscope": ("", "", "on a background fading from pink to orange"),
}
#: every clean picture is shown with five of these, in turn.
KINDS = (
    "blur", "noise", "jpeg", "grid", "expose", "downscale", "oversaturate", "blotch", "wash_out", "missing",
)  # fmt: skip
SEVERITIES = (0.2, 0.75, 0.35, 0.9, 0.6)
HALVES = ("left", "right", "top", "bottom")


@dataclass(frozen=True)
class Shown:
    """One picture of the benchmark and everything that is known about it.

    Attributes:
        name: of its file, without the ending.
        pixels: uint8 [64, 64, 3].
        shows: what it shows, in words.
        place: where its one subject is, or "".
        applied: degradation -> severity; empty for a clean one.
        half: the half that the degradation is in, or "" for all of it.
        scores: iaa, iqa and ista by the formulas, 0 to 100; None for one that has no rating.
        measures: of the picture as it is shown (see `labels.measure`).
        clean: of its clean original.
    """

    name: str
    pixels: np.ndarray
    shows: str
    place: str = ""
    applied: dict[str, float] = field(default_factory=dict)
    half: str = ""
    scores: tuple[float, float, float] | None = None
    measures: dict[str, float] = field(default_factory=dict)
    clean: dict[str, float] = field(default_factory=dict)


def load_photographs(cache: str | Path | None = None) -> dict[str, np.ndarray]:
    """Held-out photographs that may be passed on: two of scikit-image (CC0), three of Debian (CC-BY-4.0)."""
    import skimage

    folder = world.cache_dir(cache) / "benchmark"
    if not folder.exists():
        folder.mkdir(parents=True)
        subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, check=True)
        subprocess.run(["dpkg", "-x", str(next(folder.glob("*.deb"))), str(folder)], check=True)
    wanted = {name for name, *_ in CROPS.values()}
    assert wanted <= set(photographs.HELD_OUT)
    found = {}
    for root in (folder, Path(skimage.__file__).parent / "data"):
        for path in sorted(root.rglob("*")):
            if path.stem in wanted and path.suffix in {".jpg", ".png"} and path.is_file():
                found[path.stem] = np.asarray(Image.open(path).convert("RGB"))
    return found


def clean_pictures(cache: str | Path | None, rng: Generator) -> list[tuple[str, np.ndarray, str, str]]:
    """Name, pixels [64, 64, 3], what it shows, and where, of each clean picture."""
    found = []
    pictures = load_photographs(cache)
    for name, (photograph, left, top, side) in CROPS.items():
        pixels = pictures[photograph]
        width = pixels.shape[1]
        x, y, length = (round(share * width) for share in (left, top, side))
        square = Image.fromarray(pixels[y : y + length, x : x + length])
        assert square.width == square.height, name
        found.append((name, np.asarray(square.resize((64, 64), Image.Resampling.LANCZOS)), SHOWS[name], ""))
    emoji = world.all_emoji(cache)
    for noun, (size, place, background) in SCENES.items():
        subject = world.Subject(noun, "", emoji[noun])
        scene = world.Scene(0, size, place, background)
        article = "an" if noun[0] in "aeiou" else "a"
        where = place.removeprefix(" ") or "in the middle"
        pixels = np.asarray(world.compose(subject, scene, rng))
        found.append((noun.replace(" ", "_"), pixels, f"{article} {noun}", where))
    return found


def make(cache: str | Path | None = None) -> list[Shown]:
    """Every picture: each clean one, its five degraded copies, and a copy of which one half is degraded."""
    rng = np.random.default_rng(SEED)
    made: list[Shown] = []
    for number, (name, pixels, shows, place) in enumerate(clean_pictures(cache, rng)):
        clean = labels.measure(pixels)
        scores = labels.rate(clean, degrade.impairment({}))
        made.append(Shown(name, pixels, shows, place, {}, "", scores, clean, clean))
        for turn in range(len(SEVERITIES)):
            kind = KINDS[(len(SEVERITIES) * number + turn) % len(KINDS)]
            severity = SEVERITIES[(turn + number // 2) % len(SEVERITIES)]  # in time each kind has them all
            applied = {kind: severity}
            spoilt = degrade.degrade(pixels, applied, rng)
            scores = labels.rate(clean, degrade.impairment(applied))
            after = labels.measure(spoilt)
            file = f"{name}_{kind}_{round(100 * severity)}"
            made.append(Shown(file, spoilt, shows, place, applied, "", scores, after, clean))
        if number % 2 == 0:
            half, kind = HALVES[number // 2 % 4], ("blur", "noise")[number // 2 % 2]
            spoilt = _in_half(pixels, degrade.degrade(pixels, {kind: 0.9}, rng), half)
            made.append(Shown(f"{name}_{kind}_{half}", spoilt, shows, place, {kind: 0.9}, half))
    return made


def _in_half(clean: np.ndarray, spoilt: np.ndarray, half: str) -> np.ndarray:
    y, x = np.mgrid[:64, :64]
    inside = {"left": x < 32, "right": x >= 32, "top": y < 32, "bottom": y >= 32}[half]
    return np.where(inside[..., None], spoilt, clean)


def write(made: list[Shown], out: Path) -> None:
    """Pictures, the three files of ratings, the three of questions, and a list of digests."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    for old in (out / "images").glob("*.png"):
        old.unlink()
    for shown in made:
        Image.fromarray(shown.pixels).save(out / "images" / f"{shown.name}.png", optimize=True)
    for index, dimension in enumerate(("iaa", "iqa", "ista")):
        rows = [
            {"image": f"{shown.name}.png", "gt_score": round(shown.scores[index], 2)}
            for shown in made
            if shown.scores is not None
        ]
        _write_json(out / "rating" / f"{dimension}.json", rows)
    asked = questions(made, np.random.default_rng(SEED))
    for domain, entries in asked.items():
        _write_json(out / "vqa" / f"{domain}.json", entries)
    files = sorted(path for path in out.rglob("*") if path.suffix in {".png", ".json"})
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(out).as_posix()}\n"
        for path in files
    ]
    (out / "SHA256SUMS").write_text("".join(lines))


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the small benchmark of eval/data.")
    parser.add_argument("--out", type=Path, default=Path("eval/data"), help="folder to write")
    parser.add_argument("--cache", help="download folder (default: $POCKET_CACHE or pocket/cache)")
    arguments = parser.parse_args()
    made = make(arguments.cache)
    write(made, arguments.out)
    print(f"{len(made)} pictures: {arguments.out}")


if __name__ == "__main__":
    main()
