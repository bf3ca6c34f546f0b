"""Chunks of a rollout: what a group shares, what the host waits for, and what is not finite."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from flow_grpo.chunks import Identity, NotFiniteSample, Sampler
from flow_grpo.handover import Clock, Handover
from flow_grpo.noise import seed_of
from flow_grpo.policy.base import Condition
from flow_grpo.policy.flux import FluxPolicy, ModelConfig
from flow_grpo.policy.lora import LoraConfig
from flow_grpo.prompts import Prompt
from flow_grpo.rollout import Item, Plan, Rollout, rollout, training_seed, validation_seed
from flow_grpo.sample import sample
from reward_plugin.client import build_rewards
from reward_plugin.types import Rewards

PROMPTS = [Prompt("a red apple", index=4), Prompt("a blue boat", index=9), Prompt("the sky", index=2)]
ITEMS = [Item(row, member) for row in range(3) for member in range(3)]
WEIGHTS = {"colourfulness": 1.0}


def load(path: Any, device: str = "cpu") -> FluxPolicy:
    model = ModelConfig(
        str(path), dtype="float32", height=32, width=32, max_sequence_length=32, lora=LoraConfig(4)
    )
    return FluxPolicy(model, device)


@pytest.fixture(scope="module")
def policy(flux_path) -> FluxPolicy:
    return load(flux_path)


@pytest.fixture
def rewards() -> Iterator[Rewards]:
    with build_rewards({"scorers": [{"name": "pixels"}]}) as built:
        yield built


def plan(**options: Any) -> Plan:
    return Plan(**{"num_steps": 6, "stochastic": (2, 3), "noise_level": 0.7, "chunk": 9, **options})


def made(policy: FluxPolicy, rewards: Rewards, identity: Identity | None = None, **options: Any) -> Rollout:
    return rollout(policy, PROMPTS, ITEMS, plan(**options), identity or training_seed(0, 7), rewards, WEIGHTS)


class Counted:
    """Real velocities, and how many pictures each call was for."""

    def __init__(self, policy: FluxPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[int] = []
        original = policy.velocity

        def velocity(x: torch.Tensor, sigma: torch.Tensor, condition: Condition) -> torch.Tensor:
            self.batches.append(len(x))
            return original(x, sigma, condition)

        monkeypatch.setattr(policy, "velocity", velocity)


def test_members_share_their_start_only_if_asked(policy, rewards):
    apart = made(policy, rewards, stochastic=(0, 3)).trajectory.x[:, 0]
    shared = made(policy, rewards, stochastic=(0, 3), shared_noise=True).trajectory
    starts = shared.x[:, 0]
    same = [[torch.equal(starts[i], starts[j]) for j in range(9)] for i in range(9)]
    assert same == [[i // 3 == j // 3 for j in range(9)] for i in range(9)]
    assert all((apart[i] - apart[j]).abs().max() > 0.1 for i in range(9) for j in range(i))
    # What the steps add is a member's own, and the pictures differ by it.
    assert all((shared.final[i] - shared.final[j]).abs().max() > 0.1 for i in range(9) for j in range(i))


def test_a_groups_noise_is_seeded_by_its_prompt_and_the_iteration(policy, rewards):
    shared = made(policy, rewards, stochastic=(0,), shared_noise=True).trajectory.x[:, 0]
    expected = policy.initial_noise([seed_of(0, "train", 7, prompt.index) for prompt in PROMPTS])
    assert torch.equal(shared, expected.repeat_interleave(3, dim=0))
    assert training_seed(0, 7)(PROMPTS[0], None) == (0, "train", 7, 4)
    assert validation_seed(0)(PROMPTS[0], 2) == (0, "validation", 4, 2)


@pytest.mark.parametrize("chunk", [9, 4, 2, 1])  # whole groups, parts of two groups, less than a group
def test_branching_gives_the_same_pictures_from_fewer_forwards(policy, rewards, monkeypatch, chunk):
    counted = Counted(policy, monkeypatch)
    whole = made(policy, rewards, shared_noise=True)
    assert sum(counted.batches) == 9 * 6
    counted.batches.clear()
    branched = made(policy, rewards, shared_noise=True, branch=True, chunk=chunk)
    # Two steps for each prompt, and the other four for each picture.
    assert sum(counted.batches) == 3 * 2 + 9 * 4
    assert max(counted.batches) <= chunk and branched.trajectory.steps == (2, 3)
    for name in ("x", "x_next", "log_prob", "final"):
        ours, theirs = getattr(branched.trajectory, name), getattr(whole.trajectory, name)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert np.abs(branched.images.astype(int) - whole.images).max() <= 1


def test_branching_at_the_first_step_shares_the_noise_alone(policy, rewards, monkeypatch):
    counted = Counted(policy, monkeypatch)
    branched = made(policy, rewards, stochastic=(0, 1), shared_noise=True, branch=True)
    assert sum(counted.batches) == 9 * 6
    whole = made(policy, rewards, stochastic=(0, 1), shared_noise=True)
    assert torch.equal(branched.trajectory.final, whole.trajectory.final)


class NoReading(TorchDispatchMode):
    """Every operator whose result the host would have to wait for is an error."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal"), name
        result = func(*args, **(kwargs or {}))
        if name in ("_to_copy", "copy_"):
            devices = {value.device.type for value in (*args, result) if isinstance(value, torch.Tensor)}
            assert len(devices) == 1, f"a copy between {sorted(devices)}"
        return result


@pytest.mark.parametrize("kind", ["flow_sde", "cps", "dance_sde"])
def test_the_steps_never_wait_for_the_device(kind):
    """On the meta device tensors have no values: whoever reads one fails."""
    x, noise = torch.empty(2, 4, 8, device="meta"), torch.empty(2, 2, 4, 8, device="meta")
    sigmas = torch.tensor([1.0, 0.8, 0.5, 0.2, 0.0])
    with NoReading():
        kept = sample(
            lambda x, sigma: x * sigma[:, None, None],
            x,
            sigmas,
            stochastic=(0, 2),
            noise_level=[0.7, 0.5],
            noise=noise,
            kind=[kind, "cps"],
            keep_mean=True,
        )
    assert kept.final.device.type == "meta" and kept.log_prob.shape == (2, 2)


@pytest.mark.parametrize("branch", [False, True])
def test_a_chunk_is_sampled_and_decoded_without_waiting_for_the_device(flux_path, monkeypatch, branch):
    """The real transformer and VAE, on the meta device: nothing between noise and pictures reads a value."""
    policy = load(flux_path, "meta")
    condition = Condition(
        {"tokens": torch.empty(3, 32, 16, device="meta"), "pooled": torch.empty(3, 16, device="meta")}
    )
    # A grid has to have values.
    monkeypatch.setattr(policy, "sigmas", lambda num_steps: torch.linspace(1, 0, num_steps + 1))
    original = policy.velocity

    def velocity(*inputs: Any) -> torch.Tensor:
        with NoReading():
            return original(*inputs)

    monkeypatch.setattr(policy, "velocity", velocity)
    sampler = Sampler(
        policy, PROMPTS, condition, plan(shared_noise=branch, branch=branch), training_seed(0, 0)
    )
    sampler.run_prefix()
    final = sampler.run(ITEMS[:4]).final
    with NoReading():
        assert policy.pictures(final).shape == (4, 32, 32, 3)


def test_handing_in_waits_neither_for_scores_nor_for_the_scorers_to_take_pictures():
    taken, go_on = threading.Event(), threading.Event()

    def submit(images: list[np.ndarray], texts: list[str]) -> Future[str]:
        taken.set()
        assert go_on.wait(60)
        future: Future[str] = Future()
        future.set_result(texts[0])
        return future

    pictures = torch.linspace(0, 1, 2 * 4 * 4 * 3).reshape(2, 4, 4, 3)
    with Handover(submit) as handover:
        for text in ("first", "second"):
            handover.give(pictures, [text])  # returns although the scorers take nothing yet
        assert taken.wait(60)
        go_on.set()
        handed = handover.wait()
    assert [one.scores.result() for one in handed if one.scores] == ["first", "second"]
    np.testing.assert_array_equal(handed[0].images, (pictures * 255).round().byte().numpy())


def test_phases_add_up_to_the_time_that_passed():
    clock = Clock(torch.device("cpu"))
    for phase in ("sample", "decode", "sample"):
        clock.mark(phase)
    seconds = clock.seconds()
    assert list(seconds) == ["sample", "decode"] and all(value >= 0 for value in seconds.values())


def spoil(
    policy: FluxPolicy, monkeypatch: pytest.MonkeyPatch, member_noise: torch.Tensor, value: float
) -> None:
    """A model whose velocity is not finite from step 3 on for the picture that began with this noise."""
    original, sigmas = policy.velocity, policy.sigmas(6)
    state: dict[str, torch.Tensor] = {}

    def velocity(x: torch.Tensor, sigma: torch.Tensor, condition: Condition) -> torch.Tensor:
        result = original(x, sigma, condition)
        if float(sigma[0]) == 1.0:
            state["bad"] = torch.tensor([torch.equal(row, member_noise) for row in x])
        if float(sigma[0]) <= float(sigmas[3]) and len(state["bad"]) == len(x):
            result[state["bad"], 0, 0] = value
        return result

    monkeypatch.setattr(policy, "velocity", velocity)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_velocity_that_is_not_finite_names_step_prompt_and_seeds(policy, rewards, monkeypatch, value):
    seed = seed_of(0, "train", 7, 9, 1)
    spoil(policy, monkeypatch, policy.initial_noise([seed])[0], value)
    with pytest.raises(NotFiniteSample) as caught:
        made(policy, rewards, chunk=4)
    noise_seed = seed_of(seed, "steps")
    assert caught.value.pictures == [
        {"prompt": "a blue boat", "index": 9, "member": 1, "seed": seed, "noise_seed": noise_seed, "step": 3}
    ]
    message = str(caught.value)
    assert "the velocity is not finite at sampling step 3 of 0 to 5, in 1 pictures" in message
    assert f"'a blue boat' (index 9), member 1, seed {seed}" in message and "model.dtype float32" in message


def test_a_shared_step_that_is_not_finite_names_all_of_its_group(policy, rewards, monkeypatch):
    seed = seed_of(0, "train", 7, 9)
    spoil(policy, monkeypatch, policy.initial_noise([seed])[0], float("nan"))
    with pytest.raises(NotFiniteSample) as caught:
        made(policy, rewards, stochastic=(4,), shared_noise=True, branch=True)
    assert [(one["index"], one["member"], one["step"]) for one in caught.value.pictures] == [
        (9, member, 3) for member in range(3)
    ]
    assert {one["seed"] for one in caught.value.pictures} == {seed}


def test_a_decoder_that_overflows_is_named_and_nothing_is_scored(policy, monkeypatch):
    original = policy.pictures
    handed: list[Sequence[str]] = []

    def pictures(latents: torch.Tensor) -> torch.Tensor:
        result = original(latents).clone()
        result[1] = float("nan")
        return result

    class Noting:
        def submit(self, images: Any, prompts: Any = None) -> Any:
            handed.append(prompts)

    monkeypatch.setattr(policy, "pictures", pictures)
    noting: Any = Noting()
    with pytest.raises(NotFiniteSample, match="the decoded picture is not finite, in 1 pictures") as caught:
        made(policy, noting)
    assert [(one["index"], one["member"], one["step"]) for one in caught.value.pictures] == [(4, 1, None)]
    assert not handed
