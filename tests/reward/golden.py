"""Where the reference checkpoint is, and what the published package returned on its images."""

import json
import shutil
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[1] / "data" / "unipercept"
CHECKPOINT = FOLDER / "checkpoint"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
TOLERANCE = 1e-3  # of 100 points, float32


def expected(key: str) -> tuple[list[Path], np.ndarray]:
    """Images and the published float32 [N, 3] scores (iaa, iqa, ista) under one key of expected.json."""
    rows = EXPECTED[key]
    values = [[row[name] for name in ("iaa", "iqa", "ista")] for row in rows.values()]
    return [FOLDER / "images" / name for name in rows], np.array(values, dtype=np.float32)


def with_config(folder: Path, **changes: object) -> Path:
    """A copy of the reference checkpoint whose config has other values."""
    shutil.copytree(CHECKPOINT, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder
