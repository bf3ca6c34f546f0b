"""The trainer's benchmarks run at tiny size, and count what they say."""

import json
import math
import time

import pytest

from benchmarks.train_throughput import Clocks, main, report, shares


def test_clocks_count_only_the_outermost():
    class Work:
        def inner(self):
            time.sleep(0.02)

        def outer(self):
            self.inner()
            time.sleep(0.02)

    clocks = Clocks()
    clocks.around(Work, "inner", "inner")
    clocks.around(Work, "outer", "outer")
    Work().outer()
    assert set(clocks.take()) == {"outer"}
    Work().inner()
    counted = clocks.take()
    assert set(counted) == {"inner"} and counted["inner"] >= 0.02 and clocks.take() == {}


def test_shares_are_of_the_iteration():
    rows = [
        {"seconds": t, "seconds/score_wait": 0.1 * t, "inside/VAE": 0.2 * t, "inside/backward": 0.5 * t}
        for t in (1, 2, 4)
    ]
    found = shares(rows)
    assert found["seconds"] == 2 and found["inside"] == pytest.approx(0.7)
    assert found["seconds/score_wait"] == pytest.approx(0.1)
    assert "**70.0%**" in report(found) and "| **10.0%** |" in report(found)


@pytest.mark.timeout(600)
def test_the_full_size_benchmark_runs_at_tiny_size(tmp_path, capsys):
    assert (
        main(["--full", "--tiny", "--device", "cpu", "--iterations", "1", "--json", str(tmp_path / "r.json")])
        == 0
    )
    result = json.loads((tmp_path / "r.json").read_text())
    assert [row["way"] for row in result["ways"]] == ["all steps, recomputing", "all steps", "window of 3"]
    for row in result["ways"]:
        assert row["images_per_second"] > 0 and row["utilisation"] > 0 and math.isnan(row["peak_gib"])
    assert "| window of 3 |" in capsys.readouterr().out
