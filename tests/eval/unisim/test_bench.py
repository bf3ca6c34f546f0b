"""The benchmark of encoding once runs, and both of its sides are right equally often."""

import json
from pathlib import Path

from benchmarks import unisim_bench


def test_encoding_once_and_anew_choose_alike(tmp_path: Path):
    unisim_bench.main(["--scale", "225", "--rounds", "1", "--json", str(tmp_path / "bench.json")])
    kadid, koniq = json.loads((tmp_path / "bench.json").read_text())["sets"]
    assert (kadid["questions"], kadid["shown"], kadid["pictures"], kadid["reuse"]) == (10, 20, 5, 4.0)
    assert (koniq["questions"], koniq["shown"], koniq["pictures"]) == (110, 220, 9)
    assert koniq["reuse"] == 220 / 9 and len(koniq["processor"]) == len(koniq["clock"]) == 1
