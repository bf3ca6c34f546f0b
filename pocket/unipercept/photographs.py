"""Real photographs from Debian's wallpaper packages and scikit-image, split by photograph.

Fetched once into `<cache>/photos` with `apt-get download` and `dpkg -x` (no root needed), then reduced to
1024 px. Licences: the packages' `copyright` files and scikit-image's `data/README.txt`; of the pictures
only crops of five held-out ones are redistributed (`eval/data`).
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from pocket.data import cache_dir

PACKAGES = (
    "plasma-workspace-wallpapers",
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
    "ukui-wallpapers",
    "mate-backgrounds",
)

# A stem of the file's name, or of its folder for Plasma's `<name>/contents/images/2560x1600.jpg`.
TRAIN = (
    "Aqua", "Autumn", "Blinds", "BytheWater", "ColdRipple", "DarkestHour", "Dune", "FreshFlower",
    "GreenMeadow", "Grey", "Kite", "LadyBird", "OneStandsOut", "Path", "RainDrops", "Storm", "TwoWings",
    "Wood", "YellowFlower", "summer_1am", "Bridge_by_Sander_Klootwijk", "Dragonfly_by_Bolly",
    "Kleiber_by_Lukas_Baubkus", "Picture_0B_by_freespace", "Wine_by_Jakkub_Mede",
    "aitzgorri_by_Aitzol_Berasategi", "free_by_Peter_Nerlich", "friends_by_Aitzol_Berasategi",
    "picosdeeuropa_by_Aitzol_Berasategi", "seeding_by_Clements_Engelhardt", "Volna", "Altai",
    "SafeLanding", "Patak", "Painting-Colors_by__herobrine7gamer", "2004default", "Kokkini",
    "astronaut", "chelsea", "rocket", "ihc", "hubble_deep_field", "grass", "gravel", "brick", "retina",
    "coins",
)  # fmt: skip
HELD_OUT = (
    "EveningGlow", "Garden", "FallenLeaf", "ColorfulCups", "life_by_Aitzol_Berasategi",
    "Picture_1A_by_freespace", "greentock_by_Peter_Nerlich", "sunset_by_Aitzol_Berasategi", "coffee",
    "camera", "motorcycle_left",
)  # fmt: skip


def fetch(cache: str | Path | None = None) -> Path:
    """Download and unpack the packages once; return the folder of unpacked files."""
    unpacked = cache_dir(cache) / "photos" / "x"
    if not unpacked.exists():
        archives = unpacked.parent / "debs"
        archives.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", *PACKAGES], cwd=archives, check=True)
        for archive in sorted(archives.glob("*.deb")):
            subprocess.run(["dpkg", "-x", str(archive), str(unpacked)], check=True)
    return unpacked


def _stem(path: Path) -> str:
    return path.parents[2].name if path.parent.name == "images" else path.stem


def load(split: str, cache: str | Path | None = None) -> dict[str, NDArray[np.uint8]]:
    """Photographs of `split` ("train" or "held_out") by name: uint8 [H, W, 3], long side at most 1024 px.

    Raises FileNotFoundError naming what the packages did not hold.
    """
    names = {"train": TRAIN, "held_out": HELD_OUT}[split]
    reduced = cache_dir(cache) / "photos" / "1024"
    if any(not (reduced / f"{name}.png").exists() for name in names):
        import skimage

        folders = [fetch(cache), Path(skimage.__file__).parent / "data"]
        found: dict[str, Path] = {}
        for path in sorted(
            p for folder in folders for p in folder.rglob("*") if p.is_file() and not p.is_symlink()
        ):
            if path.suffix.lower() in {".jpg", ".jpeg", ".png"} and path.stat().st_size > 50_000:
                best = found.get(_stem(path))
                if best is None or path.stat().st_size > best.stat().st_size:
                    found[_stem(path)] = path
        if absent := sorted(set(names) - set(found)):
            raise FileNotFoundError(
                f"photographs not in {', '.join(PACKAGES)} or scikit-image: {', '.join(absent)}"
            )
        reduced.mkdir(parents=True, exist_ok=True)
        for name in names:
            image = Image.open(found[name]).convert("RGB")
            image.thumbnail((1024, 1024), Image.Resampling.LANCZOS)
            image.save(reduced / f"{name}.png")
    return {name: np.asarray(Image.open(reduced / f"{name}.png").convert("RGB")) for name in names}


def crop(photograph: NDArray[np.uint8], rng: Generator, least_detail: float = 0.012) -> NDArray[np.uint8]:
    """A random square of at least 128 px reduced to 64, uint8 [64, 64, 3].

    Squares without fine detail (sky, out-of-focus ground) cannot show a degradation, so up to six are drawn
    until the mean absolute horizontal difference of luma exceeds `least_detail` (0..1).
    """
    height, width = photograph.shape[:2]
    for _ in range(6):
        side = int(rng.integers(128, min(height, width) + 1))
        y, x = rng.integers(height - side + 1), rng.integers(width - side + 1)
        square = Image.fromarray(photograph[y : y + side, x : x + side])
        pixels = np.asarray(square.resize((64, 64), Image.Resampling.LANCZOS))
        luma = pixels.astype(np.float64).mean(-1) / 255
        if np.abs(np.diff(luma, axis=1)).mean() > least_detail:
            break
    return pixels
