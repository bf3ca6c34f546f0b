"""DiffusionNFT in closed form: its loss, its schedule of the sampling policy, its examples."""

import pytest
import torch

from flow_grpo.algorithms import nft
from flow_grpo.ema import EMA
from flow_grpo.examples import noised


def random_inputs(advantage, *, apart=0.3):
    """Two noised pictures in float64; the trained velocity is `apart` from the old one."""
    generator = torch.Generator().manual_seed(0)
    clean, noise, old, change = (
        torch.randn(2, 5, 3, generator=generator, dtype=torch.float64) for _ in range(4)
    )
    sigma = torch.tensor([0.25, 0.8], dtype=torch.float64)
    level = sigma[:, None, None]
    return nft.Inputs(
        x=(1 - level) * clean + level * noise,
        clean=clean,
        sigma=sigma,
        velocity=(old + apart * change).requires_grad_(),
        old_velocity=old,
        advantage=torch.tensor(advantage, dtype=torch.float64),
    )


def test_loss_by_hand():
    """x = 0.5 * (x0 = 1) + 0.5 * (noise = 3) = 2; v_old = 1 and v = 3 predict the pictures 1.5 and 0.5."""
    one = torch.ones(1, 4, 2)
    inputs = nft.Inputs(2 * one, one, torch.tensor([0.5]), 3 * one, one, torch.tensor([2.5]))
    value, metrics = nft.loss(inputs, nft.Config(beta=0.5))
    # v+ = 2 predicts 1, exact; v- = 0 predicts 2, an error of 1 whose mean is 1. r = 2.5 / 10 + 0.5.
    assert metrics["optimality"].item() == 0.75 and metrics["old_distance"].item() == 4
    assert metrics["positive_loss"].item() == 0 and metrics["negative_loss"].item() == 1
    assert value.item() == pytest.approx(0.25 * 1 * 5 / 0.5)


@pytest.mark.parametrize(
    "advantage, expected", [(0.0, 0.5), (5.0, 1.0), (-2.5, 0.25), (7.0, 1.0), (-9.0, 0.0)]
)
def test_optimality_is_a_probability(advantage, expected):
    _, metrics = nft.loss(random_inputs([advantage, 0.0]), nft.Config())
    assert metrics["optimality"].tolist() == [expected, 0.5]


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_on_policy_the_gradient_is_the_advantage_times_that_of_flow_matching(beta):
    inputs = random_inputs([2.0, -3.0], apart=0.0)
    value, _ = nft.loss(inputs, nft.Config(beta=beta))
    (gradient,) = torch.autograd.grad(value.sum(), inputs.velocity)
    sigma = inputs.sigma[:, None, None]
    error = inputs.x - sigma * inputs.old_velocity - inputs.clean
    weight = error.abs().mean(dim=(1, 2), keepdim=True)
    expected = inputs.advantage[:, None, None] * 2 * error * -sigma / (weight * 15)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_off_policy_the_gradient_is_that_of_finite_differences(beta):
    """With the weights, which carry no gradient, held: loss = sum of r |e+|² / w+ + (1 - r) |e-|² / w-."""
    inputs = random_inputs([2.0, -3.0])
    value, _ = nft.loss(inputs, nft.Config(beta=beta))
    (gradient,) = torch.autograd.grad(value.sum(), inputs.velocity)
    sigma, old = inputs.sigma[:, None, None], inputs.old_velocity

    def errors(v):
        mixtures = ((1 - beta) * old + beta * v, (1 + beta) * old - beta * v)
        return [inputs.x - sigma * mixture - inputs.clean for mixture in mixtures]

    held = [error.abs().mean(dim=(1, 2)) for error in errors(inputs.velocity.detach())]
    good = inputs.advantage / 10 + 0.5

    def total(v):
        squares = [
            (error**2).mean(dim=(1, 2)) / weight for error, weight in zip(errors(v), held, strict=True)
        ]
        return float((good * squares[0] + (1 - good) * squares[1]).sum() * 5 / beta)

    assert value.sum().item() == pytest.approx(total(inputs.velocity.detach()), rel=1e-12)
    for place in ((0, 0, 0), (0, 4, 2), (1, 2, 1)):
        step = torch.zeros_like(old)
        step[place] = 1e-6
        here = inputs.velocity.detach()
        numeric = (total(here + step) - total(here - step)) / 2e-6
        assert gradient[place].item() == pytest.approx(numeric, rel=1e-6)


def test_a_picture_without_preference_draws_the_velocity_back_to_the_old_one():
    inputs = random_inputs([0.0, 0.0])
    value, _ = nft.loss(inputs, nft.Config())
    (gradient,) = torch.autograd.grad(value.sum(), inputs.velocity)
    away = inputs.velocity - inputs.old_velocity
    assert ((gradient * away).flatten(1).sum(dim=1) > 0).all()


@pytest.mark.parametrize(
    "options, steps, expected",
    [
        ({}, [0, 1, 200, 500, 9000], [0.0, 0.001, 0.2, 0.5, 0.5]),
        (
            {"old_flat": 75, "old_rate": 0.0075, "old_limit": 0.999},
            [74, 75, 175, 9000],
            [0.0, 0.0, 0.75, 0.999],
        ),
    ],
)
def test_the_published_schedules_of_the_sampling_policy(options, steps, expected):
    config = nft.Config(**options)
    assert [config.old_decay(step) for step in steps] == pytest.approx(expected)


def test_published_number_of_sigmas():
    assert nft.Config().count(10) == 9 and nft.Config(sigmas_per_image=4).count(10) == 4


def forward_examples(seeds, count=3):
    clean = torch.arange(2.0)[:, None, None].expand(2, 4, 3)[: len(seeds)]
    sigmas = torch.tensor([1.0, 0.8, 0.5, 0.2, 0.0])
    rows, share = torch.tensor([7, 8])[: len(seeds)], torch.tensor([0, 1])[: len(seeds)]
    advantage = torch.tensor([1.0, -1.0])[: len(seeds)]
    return noised(clean, sigmas, rows, share, advantage, seeds=seeds, count=count)


def test_examples_are_the_forward_process_at_sigmas_of_the_grid():
    examples = forward_examples([11, 12])
    assert len(examples) == 6 and examples.row.tolist() == [7] * 3 + [8] * 3
    assert examples.share.tolist() == [0] * 3 + [1] * 3 and examples.advantage.tolist() == [1] * 3 + [-1] * 3
    for own in examples.sigma.view(2, 3):
        assert len(set(own.tolist())) == 3 and 0 not in own  # without replacement, never the picture itself
    level = examples.sigma[:, None, None]
    noise = (examples.x - (1 - level) * examples.clean) / level
    assert 0.6 < noise.std() < 1.4 and not torch.equal(noise[0], noise[1])


def test_noise_and_sigmas_of_a_picture_follow_from_its_seed_alone():
    def drawn(seeds, place):
        examples = forward_examples(seeds)
        level = examples.sigma[:, None, None]
        noise = (examples.x - (1 - level) * examples.clean) / level
        return examples.sigma.view(-1, 3)[place], noise.view(-1, 3, 4, 3)[place]

    for other in (drawn([11], 0), drawn([12, 11], 1)):  # alone; at another place in the batch
        for ours, theirs in zip(drawn([11, 12], 0), other, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(drawn([11], 0)[1], drawn([13], 0)[1])
    assert len({tuple(drawn([seed], 0)[0].tolist()) for seed in range(8)}) > 4


def test_average_with_a_decay_of_its_own():
    weights = {"w": torch.ones(2)}
    average = EMA({"w": torch.zeros(2)}, 0.9)
    average.update(weights, 0.25)
    assert torch.equal(average.shadow["w"], torch.full((2,), 0.75))
    average.update(weights, 0.0)
    assert torch.equal(average.shadow["w"], weights["w"])
