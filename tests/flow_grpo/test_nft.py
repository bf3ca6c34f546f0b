"""DiffusionNFT in the loop: it learns, samples by its old policy, resumes to the bit, refuses mistakes."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flow_grpo.cli import parse
from flow_grpo.examples import noised
from flow_grpo.sample import sample
from flow_grpo.train import main
from tests.flow_grpo.ranks import group
from tests.flow_grpo.test_update import Setting

NFT = {
    "algorithm": "nft",
    "sampler.noise_level": 0,
    "regularizer.kl": "velocity",
    "regularizer.kl_weight": 1e-4,
    "nft.old_rate": 0.1,
}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class Forward(Setting):
    """A fresh policy and six pictures to be noised, made by the old weights."""

    def update(self, advantage, share=None):
        examples = noised(
            self.trajectory.final,
            self.sigmas,
            self.rows,
            torch.zeros(6, dtype=torch.long) if share is None else share,
            torch.as_tensor(advantage, dtype=torch.float32),
            seeds=range(6),
            count=3,
        )
        return self.updater.run(examples, self.condition)

    @torch.no_grad()
    def reconstruction(self):
        """[6] mean squared error of the pictures predicted from fresh noisings, under the weights of now."""
        examples = noised(
            self.trajectory.final,
            self.sigmas,
            self.rows,
            self.rows,
            self.rows.float(),
            seeds=range(50, 56),
            count=4,
        )
        velocity = self.policy.velocity(examples.x, examples.sigma, self.condition.take(examples.row))
        error = examples.x - examples.sigma[:, None, None] * velocity - examples.clean
        return (error**2).flatten(1).mean(dim=1).view(6, 4).mean(dim=1)


def test_updates_bring_good_pictures_nearer_and_bad_ones_further(arguments):
    setting = Forward(arguments, **NFT)
    advantage = torch.tensor([2.0, -2.0, 2.0, -2.0, 2.0, -2.0])
    before = setting.reconstruction()
    for _ in range(3):
        metrics = setting.update(advantage)
    change = (setting.reconstruction() - before) * advantage
    assert change.mean() < -1e-3 and (change < 0).float().mean() > 0.8
    assert metrics["old_distance"] > 0 and metrics["kl"] > 0
    assert metrics["velocity_norm_ratio"] == pytest.approx(1, abs=0.2)
    assert metrics["velocity_norm_ratio"] != 1


def test_the_old_policy_samples_and_follows_by_the_schedule(arguments):
    setting = Forward(arguments, **NFT)
    start = setting.weights()
    name = next(name for name in start if "lora_B" in name)
    metrics = setting.update([2.0, -2.0] * 3)
    moved, old = setting.weights(), setting.updater.old
    assert old is not None
    assert metrics["old_decay"] == pytest.approx(0.1) and metrics["old_distance"] == 0
    expected = 0.1 * start[name] + 0.9 * moved[name]
    torch.testing.assert_close(old.shadow[name], expected, rtol=1e-5, atol=1e-8)
    with setting.updater.sampling_weights():
        assert torch.equal(setting.weights()[name], old.shadow[name])
    assert all(torch.equal(moved[name], value) for name, value in setting.weights().items())
    # In the next iteration the distance to it counts from the first update on.
    assert setting.update([2.0, -2.0] * 3)["old_distance"] > 0


def test_examples_without_advantage_are_trained_on(arguments):
    """They hold the velocity at the old one, so leaving them out would not be the same."""
    setting = Forward(arguments, **{**NFT, "regularizer.kl_weight": 0})
    assert setting.update([2.0, 0.0, 0.0, 0.0, 0.0, -2.0])["optimality"] == pytest.approx(0.5)
    metrics = setting.update([0.0] * 6)
    assert metrics["grad_norm"] > 0


def test_micro_batches_change_nothing(arguments):
    ends = []
    for size in (18, 4):
        setting = Forward(arguments, **NFT, **{"optimizer.micro_batch": size})
        setting.update([1.0, -1.0, 2.0, 0.0, 1.5, -2.0])
        ends.append((setting.update([1.0, -1.0, 2.0, 0.0, 1.5, -2.0]), setting.weights()))
    for name, value in ends[0][1].items():
        torch.testing.assert_close(value, ends[1][1][name], rtol=0, atol=1e-4)
    for name, value in ends[0][0].items():
        assert value == pytest.approx(ends[1][0][name], rel=2e-3, abs=1e-6), name


def test_a_few_iterations_raise_a_synthetic_reward(arguments):
    """Reward: the first channel's mean in the final latent, up or down, on 2 prompts x 16 pictures."""
    gains = {}
    for sign in (1, -1):
        setting = Forward(arguments, **{**NFT, "optimizer.lr": 0.02, "nft.beta": 0.3})
        rows = torch.arange(2).repeat_interleave(16)

        def sampled(seeds, setting=setting, rows=rows):
            batch = setting.condition.take(rows)
            with setting.updater.sampling_weights():
                return sample(
                    lambda x, sigma: setting.policy.velocity(x, sigma, batch),
                    setting.policy.initial_noise(seeds),
                    setting.policy.sigmas(2),
                ).final

        def reward(latents, sign=sign):
            return sign * latents[..., 0].mean(dim=1)

        before = reward(sampled(range(1000, 1032)))
        for iteration in range(6):
            seeds = range(32 * iteration, 32 * iteration + 32)
            final = sampled(seeds)
            scores = reward(final).view(2, 16)
            advantage = (scores - scores.mean(1, keepdim=True)) / scores.std(1, keepdim=True)
            zero = torch.zeros(32, dtype=torch.long)
            examples = noised(
                final, setting.policy.sigmas(2), rows, zero, advantage.flatten(), seeds=seeds, count=2
            )
            setting.updater.run(examples, setting.condition)
        gains[sign] = float((reward(sampled(range(1000, 1032))) - before).mean() / before.std())
    assert min(gains.values()) > 0.5, gains


def test_rollouts_are_sampled_by_the_old_policy(arguments, tmp_path):
    """Where it hardly follows, the second iteration's pictures are those of a run that hardly learns."""
    rewards = {}
    for name, follow, rate in (("still", 1.0, 1e-9), ("held", 1.0, 0.05), ("following", 0.0, 0.05)):
        options = {**NFT, "nft.old_rate": follow, "nft.old_limit": 0.999999, "optimizer.lr": rate}
        assert main(arguments(run_dir=tmp_path / name, **options, **{"validation.every": 100})) == 0
        rewards[name] = lines(tmp_path / name / "metrics.jsonl")[1]["reward"]
    assert rewards["held"] == pytest.approx(rewards["still"], abs=1e-3)
    assert rewards["following"] != pytest.approx(rewards["still"], abs=1e-1)


def test_resuming_equals_an_undisturbed_run_to_the_bit(arguments, tmp_path):
    """The old policy too: it is neither the weights nor their average."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = {**NFT, "optimizer.updates_per_rollout": 2, "nft.old_rate": 0.05}
    assert main(arguments(run_dir=whole, iterations=3, **options)) == 0
    assert main(arguments(run_dir=parts, iterations=1, **options)) == 0
    assert main(arguments(run_dir=parts, iterations=3, **options)) == 0
    ours, theirs = (folder / "checkpoints" / "step-000003" for folder in (parts, whole))
    for name in ("adapter", "ema", "old", "optimizer"):
        file = f"{name}.safetensors"
        assert (ours / file).read_bytes() == (theirs / file).read_bytes(), name
    old, adapter, ema = (load_file(ours / f"{name}.safetensors") for name in ("old", "adapter", "ema"))
    name = next(name for name in old if "lora_B" in name)
    assert not torch.equal(old[name], adapter[name]) and not torch.equal(old[name], ema[name])
    untimed = [
        [
            {key: value for key, value in row.items() if "seconds" not in key}
            for row in lines(run / "metrics.jsonl")
        ]
        for run in (whole, parts)
    ]
    assert untimed[0] == untimed[1]


def test_two_processes_make_the_same_updates_as_one(arguments, tmp_path):
    """Noise and sigmas of a picture, and the policy that samples, do not depend on who makes it."""
    options = {**NFT, "optimizer.updates_per_rollout": 2, "validation.every": 100}
    one, two = tmp_path / "one", tmp_path / "two"
    for processes, folder in ((1, one), (2, two)):
        ends = group(processes, arguments(run_dir=folder, **options), tmp_path / f"{processes}")
        assert [end.wait() for end in ends] == [0] * processes, ends[0].text()[-3000:]
    for name in ("adapter", "ema", "old"):
        ours, theirs = (load_file(run / f"checkpoints/step-000002/{name}.safetensors") for run in (one, two))
        moved = max(value.abs().max() for key, value in ours.items() if "lora_B" in key)
        assert moved > 1e-5
        assert max((ours[key] - theirs[key]).abs().max() for key in ours) < 0.02 * moved
    for ours, theirs in zip(*(lines(run / "metrics.jsonl") for run in (one, two)), strict=True):
        for key in ("reward", "loss", "kl", "old_decay", "optimality", "velocity_norm_ratio", "grad_norm"):
            assert theirs[key] == pytest.approx(ours[key], rel=2e-3), key


def test_a_checkpoint_of_another_objective_is_refused(arguments, tmp_path, capsys):
    assert main(arguments(iterations=1)) == 0
    assert main(arguments(iterations=2, **NFT)) == 1
    assert "algorithm" in capsys.readouterr().err


@pytest.mark.parametrize(
    "key, value, rule",
    [
        ("sampler.noise_level", 0.7, "must be 0 with algorithm nft, which samples by the ODE"),
        ("sampler.shared_noise", "true", "without stochastic steps a group would be one picture"),
        ("regularizer.kl", "exact", "must be velocity with algorithm nft"),
        ("nft.sigmas_per_image", 5, "at most sampler.num_steps = 4"),
        ("nft.old_limit", 1.0, "below 1"),
        ("nft.beta", 0, "greater than 0"),
        ("nft.old_rate", -1, "must not be negative"),
    ],
)
def test_what_does_not_fit_is_refused(capsys, arguments, key, value, rule):
    assert parse(arguments(**NFT)).config.algorithm == "nft"
    with pytest.raises(SystemExit):
        parse(arguments(**{**NFT, key: value}))
    message = " ".join(capsys.readouterr().err.split())
    assert key in message and rule in message
