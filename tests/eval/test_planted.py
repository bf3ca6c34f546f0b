"""Every alarm on the failure that it is for, through the whole comparison, and none on the base itself.

The LoRAs in tests/data/planted were made by `python -m tests.eval.plant tests/data/planted`: gradient steps
on the pocket FLUX towards a grid, saturation, blur, or one picture for every noise, and velocities 1.25
times as large.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from eval.compare import run
from eval.config import CompareConfig, ModelSpec, Probe, Sampling
from eval.metrics import Bootstrap
from flow_grpo.config import RewardConfig
from tests.eval.schema import complaints

#: The comparison itself takes half a minute of two cores.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
PLANTED = {
    "velocity": "velocity_norm",
    "grid": "grid_energy",
    "saturation": "saturation",
    "blur": "sharpness",
    "collapse": "diversity",
}


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The pocket FLUX against itself, itself from other noise, and the five planted LoRAs."""
    out = tmp_path_factory.mktemp("planted")
    planted = [ModelSpec(name, lora=str(ROOT / "tests" / "data" / "planted" / name)) for name in PLANTED]
    found = run(
        CompareConfig(
            model=str(ROOT / "pocket" / "weights" / "flux"),
            prompts=str(ROOT / "prompts" / "pocket_heldout.txt"),
            max_prompts=6,
            members=2,
            batch_size=12,
            out=str(out),
            models=[ModelSpec("base"), ModelSpec("again"), ModelSpec("other noise", seed=1), *planted],
            sampling=Sampling(4, 1.5, 64, 64, 20),
            probe=Probe(2),
            distance_clip=str(ROOT / "pocket" / "weights" / "clip"),
            reward=RewardConfig(
                weights={"colourfulness": 1.0},
                scorers=[{"name": "pixels"}, {"name": "clip", "path": str(ROOT / "pocket/weights/clip")}],
            ),
            bootstrap=Bootstrap(resamples=1000),
        )
    )
    assert json.loads((out / "results.json").read_text()) == found
    return found


def ringing(record: dict[str, Any], model: str) -> list[str]:
    comparison = next(c for c in record["comparisons"] if c["model"] == model)
    assert all(alarm["rings"] is not None for alarm in comparison["verdict"]["alarms"])
    return [alarm["dimension"] for alarm in comparison["verdict"]["alarms"] if alarm["rings"]]


@pytest.mark.parametrize(("model", "dimension"), PLANTED.items())
def test_a_planted_failure_rings_its_alarm(record: dict[str, Any], model: str, dimension: str):
    assert dimension in ringing(record, model)


def test_a_reward_bought_with_adherence_rings(record: dict[str, Any]):
    # The reward is colourfulness, which saturation earns, and the pictures are no longer what was asked for.
    assert "held_out" in ringing(record, "saturation")
    comparison = next(c for c in record["comparisons"] if c["model"] == "saturation")
    assert (
        comparison["summary"]["reward"]["difference"] > 0 > comparison["summary"]["adherence"]["difference"]
    )


@pytest.mark.parametrize("model", ["again", "other noise"])
def test_the_base_rings_nothing(record: dict[str, Any], model: str):
    assert ringing(record, model) == []


def test_each_alarm_says_when_it_rings_and_how_bad_that_is(record: dict[str, Any]):
    for alarm in record["comparisons"][0]["verdict"]["alarms"]:
        assert alarm["rule"].startswith("rings when the ") and "95 % interval" in alarm["rule"]
        assert alarm["severity"] in ("warning", "serious") and alarm["meaning"]


def test_velocities_grow_by_what_was_planted(record: dict[str, Any]):
    planted = next(c for c in record["comparisons"] if c["model"] == "velocity")["summary"]["velocity_norm"]
    # The layer's bias alone is not scaled.
    assert planted["n"] == 2 and planted["tuned_mean"] == pytest.approx(1.25, abs=0.01)
    assert [p["velocity_norm"]["again"] for p in record["prompts"]].count(None) == 4  # two of six are probed


def test_distance_from_the_reference_is_zero_for_equal_weights_and_grows(record: dict[str, Any]):
    summary = {c["model"]: c["summary"] for c in record["comparisons"]}
    for name in ("pixel_distance", "clip_distance"):
        assert summary["again"][name]["tuned_mean"] == pytest.approx(0, abs=1e-3)
        assert summary["velocity"][name]["tuned_mean"] < summary["collapse"][name]["tuned_mean"]
    assert 0 < summary["collapse"]["clip_distance"]["tuned_mean"] <= 200


def test_the_record_fits_its_schema(record: dict[str, Any]):
    assert complaints(record) == []
    damaged = json.loads(json.dumps(record))
    damaged["comparisons"][0]["summary"]["reward"]["n"] = "many"
    del damaged["samples"][0]["sides"]["base"]["scores"]
    found = " ".join(complaints(damaged))
    assert "reward.n" in found and "'scores' is missing" in found
