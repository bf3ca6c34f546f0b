"""A small training set of pocket questions whose things are drawn, so that no download is needed."""

import zlib
from pathlib import Path
from typing import Any

import yaml
from PIL import Image, ImageDraw

from pocket.data import Subject, read_objects
from pocket.unisim_tasks import SETS, manifest_name, write

TASKS = ("img_2afc", "it_2afc", "text_2afc", "iqa")


def drawn_subjects() -> list[Subject]:
    """The pocket world's things, each a shape in a colour of its own instead of its emoji."""
    subjects = []
    for index, (_, noun, category) in enumerate(read_objects()):
        picture = Image.new("RGBA", (64, 64))
        colour = tuple(zlib.crc32(f"{channel} {noun}".encode()) % 256 for channel in "rgb")
        ImageDraw.Draw(picture).regular_polygon(
            (32, 32, 29), 3 + index % 6, fill=colour, outline=(20, 20, 20)
        )
        subjects.append(Subject(noun, category, picture))
    return subjects


def write_questions(folder: Path, train: int, test: int, *names: str) -> Path:
    """Pictures and manifests, of all data sets or those named, below a folder, which is returned."""
    write(folder, {"train": train, "test": test}, drawn_subjects(), names=names or tuple(SETS))
    return folder


def sources(folder: Path, split: str, *names: str) -> dict[str, list[dict[str, str]]]:
    """`data.train` or `validation.questions` of a configuration: the named data sets, or all to train on."""
    chosen = names or [name for name, kind in SETS.items() if kind.trained]
    return {
        task: [
            {"manifest": str(folder / split / manifest_name(name)), "root": str(folder)}
            for name in chosen
            if SETS[name].task == task
        ]
        for task in TASKS
    }


def config_file(path: Path, **sections: Any) -> Path:
    """Write a configuration."""
    path.write_text(yaml.safe_dump(sections))
    return path
