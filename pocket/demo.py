"""The whole system once, on two CPU cores: reward server, post-training, evaluation. `make demo` runs this.

Everything it does is three commands that work as well by hand; it prints them as it runs them. It imports
none of the heavy libraries itself: a child's peak memory, as the system counts it, begins with its parent's.
"""

import argparse
import contextlib
import json
import os
import shlex
import shutil
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pocket.process import Child, ChildFailed, interrupt_only_while_waiting, raise_if_interrupted

SERVER_START_SECONDS = 180.0
#: Everything the demo writes below --out, and all that --fresh removes.
WRITTEN = ("train", "eval", "server.log", "train.log", "eval.log", "usage.json")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pocket.demo",
        description="Post-train the pocket FLUX against the pocket reward models; show it before and after.",
    )
    default = "(default: %(default)s)"
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), help=f"where everything is written {default}"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="start over; without it a demo that was stopped goes on"
    )
    for option, stage, config in (
        ("--train-config", "trainer", "configs/pocket.yaml"),
        ("--reward-config", "reward server", "configs/reward/pocket.yaml"),
        ("--eval-config", "evaluation", "configs/eval/pocket.yaml"),
    ):
        parser.add_argument(
            option, type=Path, default=Path(config), metavar="FILE", help=f"of the {stage} {default}"
        )
    args = parser.parse_args(argv)
    for config in (args.train_config, args.reward_config, args.eval_config):
        if not config.is_file():
            parser.error(f"{config} is not a file; run from the repository's top folder")
    return args


def free_port() -> int:
    """A loopback port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def child_environment(threads: int) -> dict[str, str]:
    """This environment, without a way to the network, with live output and `threads` compute threads.

    The threads must be said: accelerate gives a process on the CPU one thread unless OMP_NUM_THREADS is set.
    """
    return os.environ | {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "WANDB_MODE": "offline",
        "TOKENIZERS_PARALLELISM": "false",
        "NO_PROXY": "127.0.0.1,localhost",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(threads),
    }


def start(name: str, arguments: Sequence[str], log: Path, *, threads: int, echo: bool = True) -> Child:
    """Run `python ARGUMENTS` as a child, after printing the command."""
    print(f"\n== {name}\n$ OMP_NUM_THREADS={threads} python {shlex.join(arguments)}", flush=True)
    return Child(name, [sys.executable, *arguments], log, env=child_environment(threads), echo=echo)


def wait_ready(server: Child, url: str, seconds: float = SERVER_START_SECONDS) -> None:
    """Return once the server answers `/ready` with 200.

    Raises:
        ChildFailed: the server ended, or is not ready in time.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while server.poll() is None:
        raise_if_interrupted()
        if server.seconds > seconds:
            raise ChildFailed(server, f"is not ready after {seconds:.0f} s")
        with contextlib.suppress(OSError):  # refused while it starts, HTTP 503 while it loads
            opener.open(f"{url}/ready", timeout=5).close()
            return
        time.sleep(0.2)
    raise ChildFailed(server, f"ended with exit code {server.poll()} before it was ready")


@contextlib.contextmanager
def reward_server(config: Path, out: Path) -> Iterator[tuple[Child, str]]:
    """A ready reward server in a process of its own, and its address; stopped on every way out."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = ["-m", "reward_plugin", "serve", "--config", str(config), "--port", str(port)]
    with start("reward server", command, out / "server.log", threads=1, echo=False) as server:
        print(f"waiting for {url}/ready (log: {server.log}) ...", flush=True)
        wait_ready(server, url)
        print(f"ready after {server.seconds:.1f} s", flush=True)
        yield server, url


def train(config: Path, out: Path, server: Child, url: str) -> Child:
    """Post-train under `accelerate launch`, scored by the server at `url`; resumes what `out` holds.

    Raises:
        ChildFailed: the trainer failed, or the server ended: the trainer would wait for it for minutes.
    """
    command = ["-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/one_cpu.yaml"]
    command += ["-m", "flow_grpo.train", "--config", str(config), "--run_dir", str(out / "train")]
    command += ["--reward.url", url]
    with start("post-training", command, out / "train.log", threads=os.cpu_count() or 1) as trainer:
        trainer.wait(needs=server)
    return trainer


def evaluate(config: Path, out: Path) -> Child:
    """Base against tuned on held-out prompts, with the reward models in process."""
    command = ["-m", "eval", "compare", "--config", str(config)]
    command += ["--run_dir", str(out / "train"), "--out", str(out / "eval")]
    with start("evaluation", command, out / "eval.log", threads=os.cpu_count() or 1) as evaluation:
        evaluation.wait()
    return evaluation


def table(results: Path) -> str:
    """The measured means on held-out prompts, as text."""
    comparison = json.loads(results.read_text())["comparisons"][0]
    confidence = f"{comparison['confidence']:.0%} interval"
    rows = [f"{'held-out prompts':16}{'base':>9}{'tuned':>9}{'change':>9}   {confidence}"]
    for name, row in comparison["summary"].items():
        if not row["n"]:
            rows.append(f"{name:16}   could not be measured")
            continue
        digits = 2 if abs(row["base_mean"]) >= 0.1 else 4
        means = (
            f"{row['base_mean']:9.{digits}f}{row['tuned_mean']:9.{digits}f}{row['difference']:+9.{digits}f}"
        )
        low, high = row["interval"] or (None, None)
        interval = "one prompt only" if low is None else f"{low:+.{digits}f} to {high:+.{digits}f}"
        rows.append(f"{name:16}{means}   {interval}")
    return "\n".join(rows)


def report(out: Path, children: Mapping[str, Child]) -> None:
    """Print what was measured, keep and print what each stage took, and print where to look."""
    print(f"\n{table(out / 'eval' / 'results.json')}")
    usage = {
        name: {"seconds": round(child.seconds, 1), "peak_gib": round(child.peak_gib, 2)}
        for name, child in children.items()
    }
    (out / "usage.json").write_text(json.dumps(usage, indent=2) + "\n")
    print(f"\n{'':16}{'seconds':>9}{'peak GiB':>10}   (largest single process)")
    for name, row in usage.items():
        print(f"{name:16}{row['seconds']:9.1f}{row['peak_gib']:10.2f}")
    print(
        f"\nreport   {out / 'eval' / 'report.html'}"
        f"\ngallery  {out / 'eval' / 'gallery' / 'index.html'}"
        f"\nLoRA     {out / 'train' / 'pytorch_lora_weights.safetensors'}"
        f"\nmetrics  {out / 'train' / 'metrics.jsonl'}"
    )


def remove(out: Path) -> None:
    """Delete what a former demo wrote to `out`, and nothing else that may lie there."""
    for path in (out / name for name in WRITTEN):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def run(args: argparse.Namespace) -> None:
    """All stages in order; each leaves its results behind before the next begins."""
    started = time.monotonic()
    if args.fresh:
        remove(args.out)
    with reward_server(args.reward_config, args.out) as (server, url):
        trainer = train(args.train_config, args.out, server, url)
    evaluation = evaluate(args.eval_config, args.out)
    report(args.out, {"reward server": server, "post-training": trainer, "evaluation": evaluation})
    print(f"done in {time.monotonic() - started:.0f} s")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    interrupt_only_while_waiting()
    try:
        run(args)
    except ChildFailed as failure:
        print(
            f"\ndemo: {failure}\nRun it again to go on from what is in {args.out}; --fresh (with make: "
            f"ARGS=--fresh) starts over.",
            file=sys.stderr,
        )
        return 1
    except OSError as error:  # a full disk, a folder that is not ours
        print(f"\ndemo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "\ndemo: interrupted; everything it started is stopped. Run it again to go on.", file=sys.stderr
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
