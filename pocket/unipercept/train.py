"""Train the pocket rater on one core: `python -m pocket.unipercept.train --out runs/unipercept`.

Cross-entropy with Gaussian targets over the 101 letters at the last position of the three questions, plus a
regression from the mean image token of what was done to the picture and what it measures. That second loss
breaks the plateau that the first alone stays on; its head is not exported. The learning rate follows the
minutes spent, so that a slow or shared machine ends on time; `--resume` continues from the last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import Qwen2Tokenizer

from pocket.data import cache_dir
from pocket.unipercept import data, ladders
from pocket.unipercept.evaluate import correlations, held_out_crops, severity_order
from pocket.unipercept.export import export
from pocket.unipercept.model import Rater, create, expected_score
from reward_plugin.checkpoint import load_checkpoint

HEADS = ("auxiliary", "repair")  # dropped at export
Scale = tuple[Tensor, Tensor]
POOL = 40_000  # pictures; the first pool is built before training, the others while it runs


def letter_targets(scores: Tensor, sigma: float = 3.0) -> Tensor:
    """Gaussian over 0..100 around each score, normalised: [...] to [..., 101]."""
    grid = torch.arange(101, dtype=torch.float32)
    return (-0.5 * ((scores[..., None] - grid) / sigma) ** 2).softmax(-1)


def rating_loss(logits: Tensor, scores: Tensor) -> Tensor:
    """Cross-entropy of letters [B, 3, 101] with soft targets, plus the expectation's error in units of 20."""
    entropy = -(letter_targets(scores) * logits.log_softmax(-1)).sum(-1).mean()
    return entropy + (expected_score(logits) - scores).abs().mean() / 20


REPAIR = 3 * 8 * 8 + 4  # of each image token: what to add at half size, and how much is wrong by quarter


def repair_targets(ladders_shown: Tensor) -> Tensor:
    """What the second auxiliary head predicts of malformed things: [ladders * RUNGS, tokens, REPAIR].

    For each of the 4 x 4 image tokens, which stand for 16 x 16 pixels: true picture (the first rung) minus
    shown picture at half size, in units of 0.1, and log10 of its mean square in each quarter. It asks what
    the thing should look like, which scores alone teach too slowly.
    """
    pictures = ladders_shown.float().div(255).unflatten(0, (-1, ladders.RUNGS))
    wrong = (pictures[:, :1] - pictures).flatten(0, 1).permute(0, 3, 1, 2)
    cells = F.avg_pool2d(wrong, 2).unfold(2, 8, 8).unfold(3, 8, 8)  # [B, 3, 4, 4, 8, 8]
    cells = cells.permute(0, 2, 3, 1, 4, 5).flatten(1, 2)  # [B, 16, 3, 8, 8]
    quarters = cells.square().unflatten(-1, (2, 4)).unflatten(-3, (2, 4)).mean((2, 4, 6)).flatten(2)
    return torch.cat([10 * cells.flatten(2), (quarters + 1e-4).log10() + 4], -1)


class Batches:
    """Endless shuffled batches over the finished pools; half of them mirrored."""

    def __init__(self, cache: str | None, options: argparse.Namespace, seed: int = 0) -> None:
        root, pools = cache_dir(cache) / "unipercept", options.pools
        self.malformed = options.malformed
        self.bank = ladders.Repainted.load(options.repainted) if options.malformed else None
        self.folders = [root / f"train-{POOL}-{pool}" for pool in range(pools)]
        self.size, self.ladders, self.rng = options.batch, options.ladders, np.random.default_rng(seed)
        self.pools: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self.order = np.empty((0, 2), dtype=np.int64)

    def _refill(self) -> None:
        """Take up the pools that are finished by now and shuffle all their rows."""
        for pool, folder in enumerate(self.folders):
            if pool not in self.pools and (folder / "done").exists():
                targets = np.load(folder / "targets.npy")
                pictures = np.load(folder / "pictures.npy", mmap_mode="r")
                self.pools[pool] = (pictures, targets, ladders.clean_rows(targets))
        rows = [np.stack([np.full(POOL, pool), np.arange(POOL)], 1) for pool in self.pools]
        self.order = np.concatenate(rows)
        self.rng.shuffle(self.order)

    def next(self) -> tuple[Tensor, Tensor]:
        """(pictures uint8 [B, 64, 64, 3], targets float32 [B, 3 + auxiliary]); the ladders come last."""
        if len(self.order) < self.size:
            self._refill()
        taken, self.order = self.order[: self.size], self.order[self.size :]
        pictures = np.stack([self.pools[pool][0][row] for pool, row in taken])
        mirrored = self.rng.random(self.size) < 0.5
        pictures[mirrored] = pictures[mirrored, :, ::-1]
        targets = np.stack([self.pools[pool][1][row] for pool, row in taken])
        if self.ladders:
            pool = self.pools[int(self.rng.choice(list(self.pools)))]
            shown, rated = ladders.draw(*pool, self.ladders, self.rng)
            pictures, targets = np.concatenate([pictures, shown]), np.concatenate([targets, rated])
        if self.bank:
            shown, rated = ladders.draw_malformed(self.bank, self.malformed, self.rng)
            pictures, targets = np.concatenate([pictures, shown]), np.concatenate([targets, rated])
        return torch.from_numpy(pictures), torch.from_numpy(targets)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the auxiliary targets, to bring them to one scale."""
        sample = np.load(self.folders[0] / "targets.npy", mmap_mode="r")[:10_000, 3:]
        return torch.from_numpy(sample.mean(0)), torch.from_numpy(sample.std(0) + 1e-3)


class Run:
    """Everything that a checkpoint holds: the rater, its moving average, the auxiliary heads, optimizer and
    clock.
    """

    def __init__(self, out: Path, lr: float) -> None:
        model = create(out / "base")
        self.rater = Rater(model, Qwen2Tokenizer.from_pretrained(out / "base"))
        self.auxiliary = nn.Linear(model.config.text_config.hidden_size, len(data.AUXILIARY))
        self.repair = nn.Linear(model.config.text_config.hidden_size, REPAIR)
        heads = [*self.auxiliary.parameters(), *self.repair.parameters()]
        self.parameters = [*self.rater.parameters(), *heads]
        groups = [
            {"params": [p for p in self.parameters if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in self.parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))
        self.average = AveragedModel(self.rater, multi_avg_fn=get_ema_multi_avg_fn(0.998))
        self.out, self.lr, self.step, self.seconds = out, lr, 0, 0.0

    def update(
        self, pictures: Tensor, targets: Tensor, progress: float, scale: Scale, rungs: int, malformed: int
    ) -> dict[str, float]:
        """One optimizer step; returns its losses and the mean absolute error in points."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * min(1.0, (self.step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * progress))
        with torch.autocast("cpu", torch.bfloat16):
            logits, image = self.rater(pictures)
            guessed = self.auxiliary(image.mean(1)).float()
            repair = self.repair(image[len(image) - malformed :]).float()
        rating = rating_loss(logits, targets[:, :3])
        wanted = (targets[:, 3:] - scale[0]) / scale[1]
        known = ~wanted.isnan()
        statistics = F.smooth_l1_loss(guessed[known], wanted[known])
        loss = rating + 8 * statistics
        metrics = {"rating": rating.item(), "statistics": statistics.item()}
        if rungs:
            loss = loss + ladders.difference_loss(expected_score(logits[-rungs:]), targets[-rungs:, :3])
        if malformed:
            wrong = repair_targets(pictures[-malformed:])
            repaired = F.smooth_l1_loss(repair, wrong)
            loss = loss + 4 * repaired
            metrics["repair"] = (repaired / F.smooth_l1_loss(torch.zeros_like(wrong), wrong)).item()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.average.update_parameters(self.rater)
        self.step += 1
        error = (expected_score(logits.detach()) - targets[:, :3]).abs().mean()
        return metrics | {"error": error.item()}

    def evaluate(self, held_out: Path, crops: np.ndarray) -> dict[str, float]:
        """Correlations on 1,000 held-out pictures and the order of severities, of the averaged weights."""
        rater = self.average.module
        assert isinstance(rater, Rater)
        return correlations(rater, held_out, 1000) | severity_order(rater, crops)

    def save(self) -> None:
        """Write state.pt (beside, then renamed) and the published layout of the averaged weights."""
        state = {name: getattr(self, name).state_dict() for name in ("rater", "average", *HEADS, "optimizer")}
        torch.save(state | {"step": self.step, "seconds": self.seconds}, self.out / "state.tmp")
        (self.out / "state.tmp").replace(self.out / "state.pt")
        rater = self.average.module
        assert isinstance(rater, Rater)
        export(rater.model, self.out / "base", self.out / "export")

    def load(self, path: Path, resume: bool) -> None:
        """Take up the weights of another run's state.pt (and, to resume, its optimizer and clock) or of an
        exported folder, whose auxiliary head starts anew.
        """
        if path.is_dir():
            weights = load_checkpoint(path).model.state_dict()
            average = self.average.module
            assert isinstance(average, Rater)
            for rater in (self.rater, average):
                rater.model.load_state_dict(weights)
            return
        state = torch.load(path, weights_only=True)
        for name in ("rater", "average", *HEADS, *(("optimizer",) if resume else ())):
            if name in state:
                getattr(self, name).load_state_dict(state[name])
        if resume:
            self.step, self.seconds = state["step"], state["seconds"]


def _build_rest(cache: str | None, pools: int) -> None:
    os.nice(10)
    for seed in range(1, pools):
        data.build("train", POOL, cache, seed, workers=1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="run folder: metrics.jsonl, state.pt, export/"
    )
    parser.add_argument("--cache", help="download folder (default: $POCKET_CACHE or pocket/cache)")
    parser.add_argument(
        "--minutes", type=float, default=70, help="training time; the learning rate ends at 0 then"
    )
    parser.add_argument("--batch", type=int, default=16, help="pictures a step")
    parser.add_argument("--ladders", type=int, default=5, help=f"ladders of {ladders.RUNGS} pictures a step")
    parser.add_argument("--malformed", type=int, default=0, help="ladders of malformed things a step")
    parser.add_argument("--repainted", type=Path, help="folder of pocket.unipercept.redraw, for --malformed")
    parser.add_argument("--lr", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--pools", type=int, default=4, help=f"pools of {POOL} pictures")
    parser.add_argument("--save-minutes", type=float, default=5, help="between checkpoints and evaluations")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--init", type=Path, help="run or exported folder to start from, with a fresh schedule"
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    out, cache = arguments.out, arguments.cache
    out.mkdir(parents=True, exist_ok=True)
    held_out, crops = data.build("held_out", 2000, cache, seed=7), held_out_crops(44, cache)
    data.build("train", POOL, cache, 0)
    multiprocessing.Process(target=_build_rest, args=(cache, arguments.pools)).start()

    run, batches = Run(out, arguments.lr), Batches(cache, arguments)
    rungs = (arguments.ladders + arguments.malformed) * ladders.RUNGS
    if arguments.resume or arguments.init:
        start = out if arguments.resume else arguments.init
        state = start / "state.pt"
        run.load(state if arguments.resume or state.exists() else start, arguments.resume)
    scale, progress, running = batches.statistics(), 0.0, dict[str, float]()
    saved, clock = run.seconds, time.perf_counter()
    while progress < 1:
        progress = min(run.seconds / (60 * arguments.minutes), 1.0)
        metrics = run.update(*batches.next(), progress, scale, rungs, ladders.RUNGS * arguments.malformed)
        running = {name: 0.99 * running.get(name, value) + 0.01 * value for name, value in metrics.items()}
        now = time.perf_counter()
        run.seconds, clock = run.seconds + now - clock, now
        if run.step % 100 == 0:
            print(
                run.step,
                f"{run.seconds / 60:.1f} min",
                {k: round(v, 3) for k, v in running.items()},
                flush=True,
            )
        if run.seconds - saved > 60 * arguments.save_minutes or progress >= 1:
            saved = run.seconds
            results = (
                {"step": run.step, "minutes": run.seconds / 60} | running | run.evaluate(held_out, crops)
            )
            with (out / "metrics.jsonl").open("a") as log:
                log.write(json.dumps({name: round(value, 4) for name, value in results.items()}) + "\n")
            run.save()
            clock = time.perf_counter()


if __name__ == "__main__":
    main()
