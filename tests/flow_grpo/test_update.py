"""From advantages to weights: the direction of an update, its average, its rate, and what it refuses."""

import math

import pytest
import torch
from accelerate import Accelerator

from flow_grpo.cli import parse
from flow_grpo.ema import EMA
from flow_grpo.examples import transitions
from flow_grpo.noise import normal
from flow_grpo.policy.flux import FluxPolicy
from flow_grpo.sample import sample
from flow_grpo.sde import step
from flow_grpo.stepper import Replicated
from flow_grpo.update import Updater, learning_rate

LEVEL = 0.7


class Setting:
    """Six scored pictures of two prompts, two stochastic steps each, and a fresh policy to update."""

    def __init__(self, arguments, **options):
        self.config = parse(
            arguments(**{"optimizer.lr": 0.003, "optimizer.weight_decay": 0, **options})
        ).config
        self.policy = FluxPolicy(self.config.model, seed=1)
        optimizer = torch.optim.AdamW(self.policy.trainable.values(), weight_decay=0)
        self.ema = EMA(self.policy.trainable, 0.9)
        accelerator = Accelerator(cpu=True)
        self.stepper = Replicated(
            optimizer, self.policy.trainable, self.config.optimizer.grad_clip, accelerator
        )
        self.updater = Updater(self.policy, self.stepper, self.ema, self.config, accelerator)
        self.condition = self.policy.encode(["a red apple", "a blue boat"])
        self.rows = torch.tensor([0, 0, 0, 1, 1, 1])
        self.sigmas = self.policy.sigmas(4)
        batch = self.condition.take(self.rows)
        self.trajectory = sample(
            lambda x, sigma: self.policy.velocity(x, sigma, batch),
            self.policy.initial_noise(range(6)),
            self.sigmas,
            stochastic=(0, 2),
            noise_level=LEVEL,
            noise=normal(range(10, 16), (2, *self.policy.latent_shape)),
            keep_mean=True,
        )

    def update(self, advantage, share=None):
        examples = transitions(
            self.trajectory,
            self.sigmas,
            self.rows,
            torch.zeros(6, dtype=torch.long) if share is None else share,
            torch.as_tensor(advantage, dtype=torch.float32),
        )
        return self.updater.run(examples, self.condition)

    @torch.no_grad()
    def log_prob(self):
        """[6, 2] of the stored samples under the weights of now."""
        columns = []
        for order, index in enumerate(self.trajectory.steps):
            x, sigma = self.trajectory.x[:, order], self.sigmas[index].expand(6)
            velocity = self.policy.velocity(x, sigma, self.condition.take(self.rows))
            x_next = self.trajectory.x_next[:, order]
            columns.append(step(velocity, x, sigma, self.sigmas[index + 1], LEVEL, x_next=x_next).log_prob)
        return torch.stack(columns, 1)

    def weights(self):
        return {name: value.detach().clone() for name, value in self.policy.trainable.items()}


def counting(velocity, evaluated: list[int]):
    """A policy's velocity that notes how many examples it is asked for."""

    def counted(x, sigma, condition):
        evaluated.append(len(x))
        return velocity(x, sigma, condition)

    return counted


def test_examples_are_the_trajectorys_steps_flattened(arguments):
    setting = Setting(arguments)
    kept, share = setting.trajectory, torch.tensor([0, 0, 1, 0, 1, 1])
    examples = transitions(kept, setting.sigmas, setting.rows, share, torch.arange(6.0))
    assert len(examples) == 12
    assert torch.equal(examples.sigma, setting.sigmas[[0, 2]].repeat(6))
    assert torch.equal(examples.sigma_next, setting.sigmas[[1, 3]].repeat(6))
    assert torch.equal(examples.x[7], kept.x[3, 1]) and torch.equal(examples.x_next[7], kept.x_next[3, 1])
    assert [int(examples.row[7]), int(examples.share[8]), int(examples.advantage[7])] == [1, 1, 3]
    assert torch.equal(examples.old_log_prob, kept.log_prob.flatten())


@pytest.mark.parametrize("algorithm", ["grpo", "guard"])
def test_an_update_makes_good_samples_likelier_and_bad_ones_less_likely(arguments, algorithm):
    setting = Setting(arguments, algorithm=algorithm)
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    torch.testing.assert_close(setting.log_prob(), setting.trajectory.log_prob, rtol=0, atol=1e-6)
    setting.update(advantage)
    change = (setting.log_prob() - setting.trajectory.log_prob) * advantage[:, None]
    assert change.mean() > 1e-5 and (change > 0).float().mean() > 0.8


def test_the_gradient_is_that_of_the_mean_over_all_examples(arguments):
    """d loss / d theta = -mean(A d log_prob / d theta) while the ratio is 1."""
    setting = Setting(arguments, **{"optimizer.micro_batch": 5, "optimizer.grad_clip": 1e9})
    advantage = torch.tensor([2.0, -1.0, 0.0, -1.0, 0.5, -0.5])
    kept = setting.trajectory
    total = torch.zeros(())
    for order, index in enumerate(kept.steps):
        x, sigma = kept.x[:, order], setting.sigmas[index].expand(6)
        velocity = setting.policy.velocity(x, sigma, setting.condition.take(setting.rows))
        scored = step(velocity, x, sigma, setting.sigmas[index + 1], LEVEL, x_next=kept.x_next[:, order])
        total = total - (scored.log_prob * advantage).sum() / 12
    expected = torch.autograd.grad(total, list(setting.policy.trainable.values()))
    seen: list[torch.Tensor] = []
    values = setting.policy.trainable.values()

    def note(*_):
        seen.extend(value.grad.clone() for value in values if value.grad is not None)

    setting.stepper.optimizer.register_step_pre_hook(note)
    metrics = setting.update(advantage)
    for ours, theirs in zip(seen, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-8)
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in expected))
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-3)


@pytest.mark.parametrize("kind", ["exact", "flow_grpo"])
@pytest.mark.parametrize(
    "weight, metric", [("regularizer.kl_weight", "kl"), ("regularizer.norm_weight", "norm_penalty")]
)
def test_regularizers_alone_lead_back_to_the_base(arguments, weight, metric, kind):
    setting = Setting(arguments, **{weight: 1.0, "regularizer.kl": kind, "regularizer.norm_margin": 0.0})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in setting.policy.trainable.values():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
    values = [setting.update([0.0] * 6)[metric] for _ in range(5)]
    assert 0 < values[-1] < 0.7 * values[0]


def test_leaving_out_examples_without_advantage_changes_nothing(arguments):
    """A vanishing KL weight has every example evaluated; without, those with advantage 0 are skipped."""
    advantage = [1.0, 0.0, 0.0, -1.0, 0.0, 1.0]
    ends = []
    for weight in (0.0, 1e-30):
        setting = Setting(arguments, **{"regularizer.kl_weight": weight})
        setting.update(advantage)
        ends.append(setting.weights())
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=0, atol=3e-5)


def test_every_process_evaluates_as_many_examples_as_the_one_with_most(arguments, monkeypatch):
    """4 of 12 have an advantage here, 9 in another process: with sharded weights forwards are collective."""
    ends = []
    for elsewhere in ([], [9]):
        with monkeypatch.context() as patch:
            patch.setattr("flow_grpo.update.gather", lambda own, other=elsewhere: [*own, *other])
            setting = Setting(arguments, **{"optimizer.micro_batch": 2})
            evaluated: list[int] = []
            patch.setattr(setting.policy, "velocity", counting(setting.policy.velocity, evaluated))
            setting.update([0.0, 1.0, 0.0, -1.0, 0.0, 0.0])
            ends.append((evaluated, setting.weights()))
    assert ends[0][0] == [2, 2] and ends[1][0] == [2, 2, 2, 2, 1]
    for name, value in ends[0][1].items():
        torch.testing.assert_close(value, ends[1][1][name], rtol=0, atol=3e-5)


def test_an_update_without_any_advantage_still_steps(arguments):
    setting = Setting(arguments)
    before = setting.weights()
    metrics = setting.update([0.0] * 6)
    assert metrics["grad_norm"] == 0 and setting.updater.steps == 1
    assert all(torch.equal(before[name], value) for name, value in setting.weights().items())


def test_each_update_uses_its_own_share_and_moves_the_average_once(arguments):
    setting = Setting(arguments, **{"optimizer.updates_per_rollout": 2, "prompts.group_size": 4})
    start = setting.weights()
    metrics = setting.update([1.0, -1.0, 1.0, -1.0, 1.0, -1.0], share=torch.tensor([0, 0, 1, 0, 1, 1]))
    assert setting.updater.steps == 2
    assert metrics["ratio_error"] > metrics["rollout_drift"] and metrics["rollout_drift"] < 1e-6
    name = next(name for name in start if "lora_B" in name)
    # Two moves of a tenth: between none and a fifth of the way.
    way = (setting.ema.shadow[name] - start[name]).norm() / (setting.weights()[name] - start[name]).norm()
    assert 0.1 < way < 0.2


@pytest.mark.parametrize(
    "spoiled, place",
    [
        ({}, "prompt rows [0, 1] of process 0 at sigma 1, micro-batch 1 of 2"),
        ({"row": 5}, "prompt rows [1] of process 0 at sigma 0.6, micro-batch 2 of 2"),
    ],
)
def test_a_loss_that_is_not_finite_stops_before_the_weights_change(arguments, spoiled, place):
    setting = Setting(arguments, **{"optimizer.micro_batch": 8})
    before = setting.weights()
    if spoiled:
        setting.trajectory.x[spoiled["row"], 1, 0, 0] = math.inf
        setting.sigmas = torch.tensor([1.0, 0.8, 0.6, 0.3, 0.0])
    else:
        setting.trajectory.x[:4, 0] = math.nan
    with pytest.raises(FloatingPointError) as error:
        setting.update([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    assert place in str(error.value) and "in iteration 1, update 1 of 1 (optimizer step 1)" in str(
        error.value
    )
    assert all(torch.equal(before[name], value) for name, value in setting.weights().items())


def test_a_gradient_that_overflows_stops_although_every_loss_is_finite(arguments):
    setting = Setting(arguments)
    with pytest.raises(
        FloatingPointError, match=r"the norm of the gradient is inf, in iteration 1, update 1"
    ):
        setting.update([1e38, -1e38, 1e38, -1e38, 1e38, -1e38])


@pytest.mark.parametrize("updates, forwards", [(1, 24), (2, 24)])
def test_the_reference_is_evaluated_once_per_rollout(arguments, monkeypatch, updates, forwards):
    """12 examples: 12 forwards of the base and 12 of the policy, however many updates share them."""
    options = {"optimizer.updates_per_rollout": updates, "regularizer.norm_weight": 1.0}
    setting = Setting(arguments, **options)
    evaluated: list[int] = []
    monkeypatch.setattr(setting.policy, "velocity", counting(setting.policy.velocity, evaluated))
    share = torch.tensor([0, 1, 0, 1, 0, 1]) % updates
    metrics = setting.update([1.0, -1.0] * 3, share=share)
    assert sum(evaluated) == forwards
    assert metrics["velocity_norm_ratio"] == pytest.approx(1, abs=0.05)


def test_metrics_are_means_over_examples_whatever_the_micro_batches(arguments):
    rows = []
    for size in (12, 5):
        setting = Setting(arguments, **{"optimizer.micro_batch": size, "regularizer.kl_weight": 0.1})
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for value in setting.policy.trainable.values():
                value.add_(0.05 * torch.randn(value.shape, generator=generator))
        rows.append(setting.update([1.0, -1.0, 2.0, 0.0, 0.5, -0.5]))
    expected = {"kl", "velocity_norm_ratio", "ratio_mean", "clip_fraction", "clip_above", "rollout_drift"}
    assert expected <= set(rows[0]) and rows[0]["velocity_norm_ratio"] != pytest.approx(1, abs=1e-4)
    for name, value in rows[0].items():
        assert rows[1][name] == pytest.approx(value, rel=1e-3, abs=1e-6), name


def test_average_closed_form_and_applied_gives_the_weights_back_to_the_bit():
    weights = {"w": torch.zeros(3)}
    average = EMA(weights, 0.9)
    for _ in range(3):
        weights["w"].add_(1.0)
        average.update(weights)
    # 0.1 (3 + 0.9 * 2 + 0.81 * 1)
    torch.testing.assert_close(average.shadow["w"], torch.full((3,), 0.561))
    kept = weights["w"].clone()
    with average.applied(weights):
        assert torch.equal(weights["w"], average.shadow["w"])
    assert torch.equal(weights["w"], kept) and average.shadow["w"].data_ptr() != weights["w"].data_ptr()


def test_learning_rate_warms_up_and_falls_to_zero():
    rates = [learning_rate(1.0, steps, warmup=4, total=12) for steps in range(13)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0] and rates[4] == 1.0
    assert rates[8] == pytest.approx(0.5) and rates[12] == pytest.approx(0.0)
    assert learning_rate(2.0, 100, warmup=0, total=None) == 2.0
