"""The FLUX.1-dev recipes report what they would run, and their comments give the costs that are computed."""

from pathlib import Path

import pytest

from flow_grpo.cli import parse
from flow_grpo.cost import Shape
from flow_grpo.plan import make_plan
from flow_grpo.train import main

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = sorted(CONFIGS.glob("flux_dev_*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_tells_what_it_would_run(path: Path, capsys):
    assert main(["--config", str(path), "--dry_run", "--gpu", "h100"]) == 0
    said = capsys.readouterr().out
    assert "512 x 512, bfloat16" in said and "computed, nothing measured" in said and "; fits its" in said


def cost(name: str, *more: str) -> float:
    """PFLOP of an image."""
    plan = make_plan(parse(["--config", str(CONFIGS / f"flux_dev_{name}.yaml"), *more]).config, Shape())
    return plan.pflop / plan.images


def test_costs_in_the_comments_are_those_of_the_plan():
    said = {name: (CONFIGS / f"flux_dev_{name}.yaml").read_text() for name in ("fast", "nft")}
    assert f"computed: {cost('fast'):.2f} against {cost('unipercept'):.2f} PFLOP" in said["fast"]
    assert f"costs {cost('fast') / cost('unipercept'):.2f} of" in said["fast"]
    every = cost("nft", "--nft.sigmas_per_image", "null")
    assert f"here 9, {every:.1f} PFLOP an image; with 5 it is {cost('nft'):.2f}" in said["nft"]


def test_no_two_recipes_write_into_one_folder():
    folders = [parse(["--config", str(path)]).config.run_dir for path in RECIPES]
    assert len(set(folders)) == len(RECIPES) == 5
