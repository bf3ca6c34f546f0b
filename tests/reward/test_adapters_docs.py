"""The snippets of docs/adapters.md and docs/client.md as they stand there, with a server on a real port."""

import asyncio
import base64
import importlib
import inspect
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import PIL.Image
import pytest
import torch
import uvicorn
import yaml

from reward_plugin.app import build_app
from reward_plugin.client import RewardClient
from reward_plugin.images import to_png, to_rgb_each
from reward_plugin.retry import Backoff
from reward_plugin.types import ImageLike, ScoreTable
from tests.reward.helpers import plain

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = "http://127.0.0.1:8100"
#: What the weights of the page make of a picture of red 10: iaa 10, iqa 20, ista 30.
EXPECTED = 0.34 * 10 + 0.33 * 20 + 0.33 * 30


class ThreeReds:
    """Stands in for a model that takes a GPU: one, two and three times the mean red."""

    name = "unipercept"
    dimensions = ("iaa", "iqa", "ista")
    ranges: Mapping[str, tuple[float, float]] = {name: (0, 765) for name in dimensions}

    def score(self, images: Sequence[ImageLike], prompts: Sequence[str] | None = None) -> ScoreTable:
        good, errors = to_rgb_each(images)
        values = [np.asarray(image)[..., 0].mean() * np.array([1, 2, 3]) for image in good]
        return ScoreTable.computed(self.dimensions, values).scatter(errors)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(build_app([ThreeReds()]), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def snippets(heading: str, language: str, address: str) -> list[str]:
    """The code blocks of a section, with the server's address as it is here."""
    page = (ROOT / "docs/adapters.md").read_text(encoding="utf-8")
    section = page.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    blocks = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert blocks
    return [block.replace(WRITTEN, address) for block in blocks]


def run(code: str, **names: Any) -> SimpleNamespace:
    exec(code, names)
    return SimpleNamespace(**names)


def test_trl(address: str):
    pipe = lambda texts: SimpleNamespace(images=[plain(10, 0) for _ in texts])  # noqa: E731
    one, several = (run(code, pipe=pipe) for code in snippets("TRL", "python", address))
    assert one.reward(prompts=["a"], completions=["an apple"]) == pytest.approx([EXPECTED])
    values = [function(["a"], ["an apple"])[0] for function in several.functions]
    assert values == [10, 20, 30] and several.weights == [0.34, 0.33, 0.33]


def test_flow_factory(address: str, monkeypatch: pytest.MonkeyPatch):
    over_http, in_process = (
        yaml.safe_load(code)["rewards"][0] for code in snippets("Flow-Factory", "yaml", address)
    )
    url = over_http["server_url"].rstrip("/")
    assert httpx.get(f"{url}/health").is_success
    body = {"prompt": ["a"], "image": [base64.b64encode(to_png(plain(10, 0))).decode()], "video": None}
    assert httpx.post(f"{url}/compute", json=body).json()["rewards"] == pytest.approx([EXPECTED])

    base = type("Base", (), {"__init__": lambda self, config, accelerator: setattr(self, "device", "cpu")})
    stand_in = SimpleNamespace(PointwiseRewardModel=base, RewardModelOutput=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "flow_factory", SimpleNamespace(rewards=stand_in))
    monkeypatch.setitem(sys.modules, "flow_factory.rewards", stand_in)
    module, _, name = in_process["reward_model"].rpartition(".")
    monkeypatch.delitem(sys.modules, module, raising=False)
    own = ("name", "reward_model", "batch_size", "async_reward", "weight", "dtype", "device", "num_workers")
    extra = {key: value for key, value in in_process.items() if key not in own}
    model = getattr(importlib.import_module(module), name)(SimpleNamespace(extra_kwargs=extra), None)
    output = model(prompt=["a"], image=[PIL.Image.fromarray(plain(10, 0))])
    assert output.rewards.tolist() == pytest.approx([EXPECTED])


def overrides(code: str, prefix: str) -> dict[str, Any]:
    """The nested values of the lines `+PREFIX.a.b=value`."""
    found: dict[str, Any] = {}
    for key, value in re.findall(rf"^ *\+?{re.escape(prefix)}\.(\S+?)=(\S+)", code, re.MULTILINE):
        at = found
        *parents, last = key.split(".")
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = yaml.safe_load(value)
    return found


def test_verl_omni(address: str):
    alone, among_others = snippets("verl-omni", "bash", address)
    first = overrides(alone, "reward.custom_reward_function")
    second = overrides(among_others, "reward.reward_functions.perceptual")
    assert second.pop("required") is True and second.pop("weight") == 0.5
    for entry, options in ((first, first.get("reward_kwargs", {})), (second, second)):
        module = importlib.import_module(entry["path"].removeprefix("pkg://"))
        result = getattr(module, entry["name"])(
            data_source="s",
            solution_image=torch.from_numpy(plain(10, 0)).permute(2, 0, 1),
            ground_truth="a",
            extra_info={},
            **{key: value for key, value in options.items() if key not in ("path", "name")},
        )
        assert asyncio.run(result)["score"] == pytest.approx(EXPECTED)


def test_flow_grpo_as_published(address: str):
    images = torch.from_numpy(np.stack([plain(10, 0)] * 2)).permute(0, 3, 1, 2).float() / 255
    weights = {"iaa": 0.34, "iqa": 0.33, "ista": 0.33}
    whole, entry = snippets("flow_grpo as published", "python", address)
    script = run(whole, accelerator=SimpleNamespace(device="cpu"), config=SimpleNamespace(reward_fn=weights))
    scores, _ = script.reward_fn(images, ("a", "b"), ({}, {}), only_strict=True)
    assert scores["avg"] == pytest.approx([EXPECTED] * 2) and scores["ista"] == [30, 30]
    function = run(entry, score_functions={}).score_functions["perceptual"]()
    assert function(images, ("a", "b"), ({}, {}))[0] == pytest.approx([EXPECTED] * 2)


def test_notebooks(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("one.png", "two.png"):
        Path(name).write_bytes(to_png(plain(10, 0)))
    (code,) = snippets("Notebooks", "python", address)
    scores = run(code).scores
    assert [(row["picture"], row["reward"]) for row in scores] == [("one.png", 15), ("two.png", 15)]


def test_the_client(address: str):
    page = (ROOT / "docs/client.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for written in ("http://a:8100", "http://b:8100"):
        assert written in code
        code = code.replace(written, address)
    done = run(code, images=[plain(10, 0), b"no picture"], prompts=["a", "b"])
    for table in (done.table, done.quick):
        assert table.values[0].tolist() == [10, 20, 30] and np.isnan(table.values[1]).all()
        assert table.errors[0] is None and "not one of PNG" in table.errors[1]


def test_what_the_page_of_the_client_says_are_its_defaults():
    page = (ROOT / "docs/client.md").read_text(encoding="utf-8")
    defaults = {name: one.default for name, one in inspect.signature(RewardClient).parameters.items()}
    assert f"the last {defaults['cache_items']} scores" in page
    assert f"`reward.max_outage` (seconds, {defaults['max_outage']:.0f} by default)" in page
    assert f"0.25, 0.5, ... {Backoff().longest:.0f} s" in page and Backoff().first == 0.25


def test_the_adapters_load_beside_a_trainer_that_has_nothing_of_ours():
    """Only what the page names may be needed."""
    adapters = ("trl", "verl_omni", "flow_grpo", "notebook", "flow_factory")
    others = ("torch", "transformers", "diffusers", "accelerate", "fastapi", "uvicorn", "scipy", "yaml")
    code = f"""
import sys
for name in {others}:
    sys.modules[name] = None
for name in {adapters}:
    __import__("reward_plugin.adapters." + name)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
