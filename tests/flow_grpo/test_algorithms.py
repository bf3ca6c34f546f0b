"""Objectives and regularisers in closed form."""

import math

import pytest
import torch

from flow_grpo.algorithms import ALGORITHMS, grpo, guard
from flow_grpo.regularize import kl_to_reference, norm_penalty, norm_ratio, velocity_kl
from flow_grpo.sde import step


def inputs(log_ratio, advantage, *, mean=0.0, old_mean=0.0, std=0.5, delta=0.2):
    shape = (1, 4, 2)
    return grpo.Inputs(
        log_prob=torch.tensor([log_ratio], requires_grad=True),
        old_log_prob=torch.zeros(1),
        advantage=torch.tensor([advantage]),
        mean=torch.full(shape, mean),
        old_mean=torch.full(shape, old_mean),
        std=torch.tensor([std]),
        delta=torch.tensor([delta]),
    )


@pytest.mark.parametrize(
    "log_ratio, advantage, expected, has_gradient",
    [
        (0.0, 2.0, -2.0, True),
        (math.log(1.05), 2.0, -2.1, True),
        (math.log(1.5), 2.0, -2.2, False),  # clipped: no reward for going on
        (math.log(1.5), -2.0, 3.0, True),  # pessimistic: a bad sample is pushed back from anywhere
        (math.log(0.5), -2.0, 1.8, False),
        (math.log(0.5), 2.0, -1.0, True),
    ],
)
def test_clipped_objective(log_ratio, advantage, expected, has_gradient):
    record = inputs(log_ratio, advantage)
    value, metrics = grpo.loss(record, grpo.Config(clip_range=0.1))
    assert value.item() == pytest.approx(expected, rel=1e-5)
    value.sum().backward()
    assert (record.log_prob.grad.abs() > 0).item() is has_gradient
    assert metrics["clip_fraction"].item() == float(abs(math.exp(log_ratio) - 1) > 0.1)


def test_guard_ratio_and_scale():
    record = inputs(0.3, 1.0, mean=0.4, old_mean=0.1, std=0.5, delta=0.2)
    value, metrics = guard.loss(record, guard.Config(clip_range=10.0))
    bias = 0.3**2 / (2 * 0.5**2)
    ratio = math.exp((0.3 + bias) * 0.5)
    assert value.item() == pytest.approx(-ratio / 0.2, rel=1e-5)
    assert metrics["ratio_error"].item() == pytest.approx(ratio - 1, rel=1e-4)


def test_guard_removes_the_bias_of_the_ratio():
    """For x' from the old policy, log_prob - old is -mean||mean - old||² / 2s² on average; b cancels it."""
    generator = torch.Generator().manual_seed(0)
    old_mean, shift, std = torch.zeros(4000, 64), 0.05, 0.5
    half = std * torch.randn(2000, 64, generator=generator)
    x_next = torch.cat([half, -half])  # antithetic: the mean is exact
    normal = torch.distributions.Normal
    old = normal(0.0, std).log_prob(x_next).mean(1)
    new = normal(shift, std).log_prob(x_next).mean(1)
    ones = torch.ones(4000)
    record = grpo.Inputs(new, old, ones, old_mean + shift, old_mean, ones * std, ones)
    plain = (new - old).mean().item()
    assert plain == pytest.approx(-(shift**2) / (2 * std**2), rel=1e-4)
    value, _ = guard.loss(record, guard.Config(clip_range=10.0))
    assert value.neg().log().mean().item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("module", [grpo, guard])
@pytest.mark.parametrize("advantage", [1.5, -1.5])
def test_gradients_are_those_of_finite_differences(module, advantage):
    """Both through the log-probability and, in Guard's ratio, through the mean; float64, nothing clipped."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(3, 4, 2, generator=generator, dtype=torch.float64) for _ in range(3)]
    x_next, old_mean, start = drawn[0], drawn[1], drawn[1] + 0.1 * drawn[2]
    std = torch.tensor([0.3, 0.5, 0.9], dtype=torch.float64)

    def log_prob(mean):
        return torch.distributions.Normal(mean, std[:, None, None]).log_prob(x_next).flatten(1).mean(1)

    def value(mean):
        record = grpo.Inputs(
            log_prob=log_prob(mean),
            old_log_prob=log_prob(old_mean),
            advantage=torch.full((3,), advantage, dtype=torch.float64),
            mean=mean,
            old_mean=old_mean,
            std=std,
            delta=torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64),
        )
        return module.loss(record, module.Config(clip_range=100.0))[0]

    assert torch.autograd.gradcheck(value, (start.requires_grad_(),), atol=1e-8, rtol=1e-5)


def test_on_policy_guard_weighs_each_step_by_std_over_delta():
    """Gradient of the first update: -A s / Δ d log_prob, while Flow-GRPO's is -A d log_prob at every step."""
    for std, delta in ((0.5, 0.2), (0.1, 0.02)):
        gradients = {}
        for module in (grpo, guard):
            record = inputs(0.0, 2.0, std=std, delta=delta)
            module.loss(record, module.Config())[0].sum().backward()
            gradients[module] = record.log_prob.grad.item()
        assert gradients[grpo] == pytest.approx(-2)
        assert gradients[guard] == pytest.approx(-2 * std / delta)


@pytest.mark.parametrize("advantage, ratios", [(1.0, (0.5, 1.2)), (-1.0, (0.8, 1.7))])
def test_clipping_at_a_second_update_stops_one_direction_only(advantage, ratios):
    """Off policy by more than the range, the gradient is left only where it leads back."""
    has_gradient = []
    for ratio in ratios:
        record = inputs(math.log(ratio), advantage)
        _, metrics = grpo.loss(record, grpo.Config(clip_range=0.1))
        grpo.loss(record, grpo.Config(clip_range=0.1))[0].sum().backward()
        assert metrics["ratio_mean"].item() == pytest.approx(ratio)
        assert metrics["clip_above"].item() == float(ratio > 1.1) and metrics["clip_fraction"].item() == 1
        has_gradient.append(record.log_prob.grad.abs().item() > 0)
    assert has_gradient == [advantage > 0, advantage < 0]


def test_only_guard_needs_old_means_and_only_flow_sde_has_it():
    assert {name for name, module in ALGORITHMS.items() if module.Config.needs_old_mean} == {"guard"}
    assert guard.Config.kinds == ("flow_sde",)


@pytest.mark.parametrize("sampler", ["flow_sde", "dance_sde"])
def test_kl_scalings_in_closed_form_and_with_gradient(sampler):
    generator = torch.Generator().manual_seed(0)
    x, velocity, reference = (torch.randn(2, 6, 4, generator=generator) for _ in range(3))
    velocity.requires_grad_()
    sigma, sigma_next = 0.6, 0.4
    now = step(velocity, x, sigma, sigma_next, 0.7, kind=sampler, x_next=x)
    base = step(reference, x, sigma, sigma_next, 0.7, kind=sampler, x_next=x)
    exact = kl_to_reference(now, base.mean, "exact")
    published = kl_to_reference(now, base.mean, "flow_grpo")
    normal = torch.distributions.Normal
    std = now.std[:, None, None]
    true = torch.distributions.kl_divergence(normal(now.mean, std), normal(base.mean, std)).flatten(1).mean(1)
    torch.testing.assert_close(exact, true, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(published, exact * (sigma - sigma_next), rtol=1e-5, atol=1e-6)
    exact.sum().backward()
    assert velocity.grad is not None and velocity.grad.abs().sum() > 0


def test_cps_divides_the_published_kl_by_its_std():
    """Its transition has no coefficient g apart from s, so both scalings are the same."""
    generator = torch.Generator().manual_seed(0)
    x, velocity, reference = (torch.randn(2, 6, 4, generator=generator) for _ in range(3))
    now, base = (step(v, x, 0.6, 0.4, 0.7, kind="cps", x_next=x) for v in (velocity, reference))
    squared = ((now.mean - base.mean) ** 2).flatten(1).mean(1)
    expected = squared / (2 * (0.4 * math.sin(0.7 * math.pi / 2)) ** 2)
    for kind in ("exact", "flow_grpo"):
        torch.testing.assert_close(kl_to_reference(now, base.mean, kind), expected, rtol=1e-5, atol=1e-6)


def test_velocity_kl_and_norms_by_finite_differences():
    generator = torch.Generator().manual_seed(0)
    velocity, reference = (torch.randn(2, 3, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    by_hand = torch.stack([((a - b) ** 2).mean() for a, b in zip(velocity, reference, strict=True)])
    torch.testing.assert_close(velocity_kl(velocity, reference), by_hand)
    torch.testing.assert_close(
        norm_ratio(2 * reference, reference), torch.full((2,), 2.0, dtype=torch.float64)
    )
    velocity.requires_grad_()
    for term in (velocity_kl, norm_ratio, lambda v, r: norm_penalty(v, r, 0.02)):
        assert torch.autograd.gradcheck(lambda v, term=term: term(v, reference), (velocity,))
        held = reference.clone().requires_grad_()
        term(velocity, held).sum().backward()
        assert held.grad is None  # the reference is a constant


def test_norm_penalty_is_a_squared_hinge_on_the_relative_norm():
    reference = torch.ones(3, 4, 2)
    velocity = (torch.tensor([1.01, 1.10, 0.80])[:, None, None] * reference).requires_grad_()
    penalty = norm_penalty(velocity, reference, margin=0.02)
    torch.testing.assert_close(penalty.detach(), torch.tensor([0.0, 0.08**2, 0.18**2]), rtol=1e-4, atol=1e-7)
    penalty.sum().backward()
    assert velocity.grad is not None
    assert velocity.grad[0].abs().sum() == 0 and velocity.grad[1].sum() > 0 > velocity.grad[2].sum()
