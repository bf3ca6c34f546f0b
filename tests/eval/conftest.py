"""A tiny FLUX pipeline, LoRAs and a tiny ablation for it, and headless Chromium, once each."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tiny import tiny_flux, tiny_prompts

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@pytest.fixture(scope="session")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A FluxPipeline folder with random weights."""
    return tiny_flux(tmp_path_factory.mktemp("models") / "flux")


@pytest.fixture(scope="session")
def make_lora(flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], Path]:
    """Folder of a LoRA whose B matrices are drawn with the given standard deviation; 0 changes nothing."""
    import torch
    from diffusers import FluxPipeline, FluxTransformer2DModel
    from peft import LoraConfig, get_peft_model_state_dict

    def make(scale: float) -> Path:
        folder = tmp_path_factory.mktemp("lora")
        transformer = FluxTransformer2DModel.from_pretrained(flux, subfolder="transformer")
        transformer.add_adapter(LoraConfig(r=4, lora_alpha=8, target_modules=["to_q", "to_k", "to_v"]))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in transformer.named_parameters():
                if "lora_B" in name:
                    parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
        FluxPipeline.save_lora_weights(folder, transformer_lora_layers=get_peft_model_state_dict(transformer))
        return folder

    return make


@pytest.fixture(scope="session")
def lora(make_lora: Callable[[float], Path]) -> Path:
    """Folder of a LoRA that visibly changes the pictures."""
    return make_lora(1.0)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium")
    if chromium is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is missing; the CI script should have installed it")
        pytest.skip("chromium is not installed; apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A desktop page that fails the test on any error in the console or request that leaves the disk."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith(("file:", "data:")) else complaints.append(request.url)
        ),
    )
    yield page
    context.close()
    assert complaints == []


def visit(page: Any, address: str) -> None:
    """Open a gallery of few pairs and wait until all of its cards are filled."""
    page.goto(address)
    page.wait_for_function(
        "[...document.querySelectorAll('.pair')].every(e => e.classList.contains('filled'))"
    )


@pytest.fixture
def files(flux: Path, tmp_path: Path) -> dict[str, Any]:
    """A tiny run of one iteration, a tiny comparison, and a server that could score both."""
    scorers = [{"name": "pixels"}, {"name": "naive"}]
    train = {
        "iterations": 1,
        "model": {
            "path": str(flux),
            "dtype": "float32",
            "height": 32,
            "width": 32,
            "max_sequence_length": 32,
            "lora": {"rank": 2, "alpha": 4},
        },
        "prompts": {
            "train": str(tiny_prompts(tmp_path / "train.txt")),
            "per_iteration": 2,
            "group_size": 2,
        },
        "sampler": {"num_steps": 2, "noise_level": 0.7, "window": {"kind": "all"}, "chunk": 4},
        "reward": {"weights": {"colourfulness": 1.0}, "scorers": scorers},
        "optimizer": {"updates_per_rollout": 1, "lr": 0.02, "micro_batch": 8},
        "log": {"samples_every": 0},
    }
    evaluation = {
        "model": str(flux),
        "prompts": str(tiny_prompts(tmp_path / "held_out.txt", ("a red boat", "a blue cat"))),
        "members": 2,
        "run_dir": "unused",
        "sampling": {"num_steps": 1, "height": 32, "width": 32, "max_sequence_length": 32},
        "reward": {"weights": {"colourfulness": 1.0}, "scorers": scorers},
        "bootstrap": {"resamples": 50},
    }
    written = {}
    for name, values in (
        ("train", train),
        ("evaluation", evaluation),
        ("server", {"scorers": scorers}),
    ):
        written[name] = str(tmp_path / f"{name}.yaml")
        Path(written[name]).write_text(yaml.safe_dump(values))
    written["out"] = str(tmp_path / "runs")
    return written
