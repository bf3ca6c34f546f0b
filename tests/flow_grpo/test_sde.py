"""One stochastic step: published outputs, closed forms, and that sampling and re-scoring agree."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flow_grpo.schedule import static_sigmas
from flow_grpo.sde import KINDS, step

GOLDEN = Path(__file__).parents[1] / "data" / "flow_sde.safetensors"


def batch(elements=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, velocity, noise = (torch.randn(elements, 6, 8, generator=generator) for _ in range(3))
    return x, velocity, noise


@pytest.mark.parametrize("level", [0.7, 0.3])
def test_flow_sde_equals_the_published_step(level):
    golden = load_file(GOLDEN)
    sigmas = golden["sigmas"]
    arguments = (golden["velocity"], golden["sample"], sigmas[:-1], sigmas[1:], level)
    result = step(*arguments, x_next=golden["prev_sample"])
    torch.testing.assert_close(result.mean, golden[f"mean_{level}"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(result.diffusion, golden[f"std_{level}"].flatten(), rtol=1e-6, atol=0)
    torch.testing.assert_close(result.log_prob, golden[f"log_prob_{level}"], rtol=1e-5, atol=1e-5)


def test_flow_sde_first_step_has_std_equal_to_the_noise_level():
    x, velocity, noise = batch()
    result = step(velocity, x, 1.0, 0.83, 0.7, noise=noise)
    torch.testing.assert_close(result.std, torch.full((4,), 0.7), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shift", [1.18, 1.32, 1.58, 3.0])
def test_flow_sde_first_step_survives_a_grid_that_begins_at_one_up_to_rounding(shift):
    x, velocity, noise = batch()
    sigmas = static_sigmas(8, shift)
    result = step(velocity, x, sigmas[0], sigmas[1], 0.7, noise=noise)
    torch.testing.assert_close(result.std, torch.full((4,), 0.7), rtol=1e-5, atol=0)


def test_dance_sde_closed_form():
    x, velocity, noise = batch()
    sigma, sigma_next, eta = 0.6, 0.45, 0.3
    result = step(velocity, x, sigma, sigma_next, eta, kind="dance_sde", noise=noise)
    # Published: dt (v + eta²/2 (x - (1 - sigma) x0) / sigma²) with dt negative and x0 = x - sigma v.
    x0 = x - sigma * velocity
    mean = x - 0.15 * (velocity + 0.5 * eta**2 * (x - (1 - sigma) * x0) / sigma**2)
    std = eta * math.sqrt(0.15)
    torch.testing.assert_close(result.mean, mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(result.x_next, mean + std * noise, rtol=1e-5, atol=1e-6)
    expected = torch.distributions.Normal(mean, std).log_prob(result.x_next).flatten(1).mean(1)
    torch.testing.assert_close(result.log_prob, expected, rtol=1e-5, atol=1e-6)


def test_cps_closed_form():
    x, velocity, noise = batch()
    sigma, sigma_next, level = 0.6, 0.45, 0.8
    result = step(velocity, x, sigma, sigma_next, level, kind="cps", noise=noise)
    std = sigma_next * math.sin(level * math.pi / 2)
    x0, x1 = x - sigma * velocity, x + (1 - sigma) * velocity
    mean = (1 - sigma_next) * x0 + math.sqrt(sigma_next**2 - std**2) * x1
    torch.testing.assert_close(result.mean, mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        result.log_prob, -(std * noise).square().flatten(1).mean(1), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    "kind, delta, tolerance", [("cps", 0.3, 1e-6), ("flow_sde", 1e-3, 2e-5), ("dance_sde", 1e-3, 2e-5)]
)
@pytest.mark.parametrize("sigma", [0.9, 0.5])
def test_old_and_new_noise_together_are_as_much_as_sigma_asks_for(kind, delta, tolerance, sigma):
    """Of data 0 the sample is sigma e, the velocity e: CPS keeps the variance, an SDE does to first order."""
    noise = torch.ones(1, 6, 8)
    result = step(noise, sigma * noise, sigma, sigma - delta, 0.7, kind=kind, noise=torch.zeros_like(noise))
    left = float(result.mean[0, 0, 0])
    assert 0 < left < sigma - delta  # some of it was exchanged
    assert left**2 + float(result.std) ** 2 == pytest.approx((sigma - delta) ** 2, abs=tolerance)


def test_dance_sde_is_finite_at_the_first_step_and_has_the_same_noise_everywhere():
    x, velocity, noise = batch()
    for sigma, sigma_next in ((1.0, 0.8), (0.4, 0.2)):
        result = step(velocity, x, sigma, sigma_next, 0.3, kind="dance_sde", noise=noise)
        torch.testing.assert_close(result.std, torch.full((4,), 0.3 * math.sqrt(0.2)), rtol=1e-5, atol=0)
        assert result.x_next.isfinite().all() and (result.diffusion == torch.tensor(0.3)).all()


@pytest.mark.parametrize("given", ["noise", "x_next"])
def test_kinds_and_levels_may_differ_within_a_batch(given):
    x, velocity, noise = batch(6)
    kinds, levels = torch.tensor([2, 0, 1, 1, 0, 2]), torch.tensor([0.3, 0.7, 0.8, 0.5, 1.2, 0.6])
    sigma, sigma_next = (
        torch.tensor([1.0, 1.0, 0.6, 1.0, 0.5, 0.3]),
        torch.tensor([0.8, 0.8, 0.4, 0.7, 0.3, 0.1]),
    )
    gradients = []
    for together in (True, False):
        leaf = velocity.clone().requires_grad_()
        if together:
            mixed = step(leaf, x, sigma, sigma_next, levels, kind=kinds, **{given: noise})
            results = [mixed]
        else:
            results = [
                step(
                    leaf[i : i + 1],
                    x[i : i + 1],
                    sigma[i],
                    sigma_next[i],
                    levels[i],
                    kind=KINDS[kinds[i]],
                    **{given: noise[i : i + 1]},
                )
                for i in range(6)
            ]
            for name, value in vars(mixed).items():
                assert torch.equal(value, torch.cat([getattr(result, name) for result in results])), name
        torch.stack([result.log_prob.sum() + result.mean.sum() for result in results]).sum().backward()
        gradients.append(leaf.grad)
    assert gradients[0].isfinite().all()
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_zero_is_euler_and_has_no_log_prob(kind):
    x, velocity, _ = batch()
    result = step(velocity, x, 0.6, 0.45, 0.0, kind=kind)
    torch.testing.assert_close(result.x_next, x - 0.15 * velocity, rtol=1e-5, atol=1e-6)
    assert (result.std == 0).all() and result.log_prob.isnan().all()


@pytest.mark.parametrize("kind", KINDS)
def test_re_scoring_a_sample_gives_its_log_prob_to_the_bit(kind):
    x, velocity, noise = batch()
    sampled = step(velocity, x, 0.6, 0.45, 0.5, kind=kind, noise=noise)
    scored = step(velocity, x, 0.6, 0.45, 0.5, kind=kind, x_next=sampled.x_next)
    assert torch.equal(sampled.log_prob, scored.log_prob)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_flattened_into_a_batch_equal_steps_alone(kind):
    x, velocity, noise = batch(3)
    sigma, sigma_next = torch.tensor([1.0, 0.8, 0.5]), torch.tensor([0.8, 0.5, 0.2])
    together = step(velocity, x, sigma, sigma_next, 0.5, kind=kind, noise=noise)
    for i in range(3):
        alone = step(
            velocity[i : i + 1], x[i : i + 1], sigma[i], sigma_next[i], 0.5, kind=kind, noise=noise[i : i + 1]
        )
        torch.testing.assert_close(together.mean[i], alone.mean[0], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(together.log_prob[i], alone.log_prob[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_log_prob_carries_gradient_and_is_computed_in_float32(kind):
    x, velocity, noise = batch()
    x_next = step(velocity, x, 0.6, 0.45, 0.5, kind=kind, noise=noise).x_next
    velocity = (velocity + 0.1).bfloat16().requires_grad_()
    result = step(velocity, x, 0.6, 0.45, 0.5, kind=kind, x_next=x_next)
    result.log_prob.sum().backward()
    assert result.log_prob.dtype == torch.float32
    assert velocity.grad is not None and velocity.grad.abs().sum() > 0


def test_a_deterministic_element_leaves_the_others_gradient_finite():
    x, velocity, noise = batch(2)
    velocity.requires_grad_()
    result = step(velocity, x, 0.6, 0.45, torch.tensor([0.5, 0.0]), noise=noise)
    result.log_prob[0].backward()
    assert velocity.grad is not None and velocity.grad.isfinite().all()


def test_a_noisy_step_without_noise_is_refused():
    x, velocity, _ = batch()
    with pytest.raises(ValueError, match="needs `noise`"):
        step(velocity, x, 0.6, 0.45, 0.5)


def test_unknown_kind_is_refused_with_the_known_ones():
    x, velocity, noise = batch()
    with pytest.raises(ValueError, match=r"'euler'; known: flow_sde, cps, dance_sde"):
        step(velocity, x, 0.6, 0.45, 0.5, kind="euler", noise=noise)  # type: ignore[arg-type]
