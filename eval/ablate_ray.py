"""Runs of an ablation as tasks of a Ray cluster: each launches `accelerate` on the node that it is placed on.

Nodes need the same Python environment, and the folder that the ablation is started from under the same path,
on a disk that all of them share: there lie the configurations, prompts and runs. A node does with a run what
`--parallel` does with it on one machine, locks included, so a task that Ray starts again goes on from the
last checkpoint.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any

from eval.ablate_config import AblateConfig, Run
from eval.ablate_runs import Busy, RunFailed, Workshop

#: Times that a run is placed anew when its node, or Ray's process for it, has died.
RETRIES = 3
#: Seconds between two looks at what has ended.
PERIOD = 1.0


class RayWorkshop:
    """As `eval.ablate_runs.Workshop`, on a cluster: as many runs at a time as it has room for.

    Args:
        config: The ablation; `cluster` says what a run takes.
        address: As `ray.init` takes it: `auto`, or host:port of the head.

    Raises:
        ValueError: Ray is missing, the cluster does not answer, or no node of it has what a run takes.
    """

    def __init__(self, config: AblateConfig, address: str) -> None:
        self.config = config
        try:
            import ray
        except ImportError as error:
            raise ValueError(f"--ray needs Ray ({error}); pip install 'ray>=2.58,<2.61'") from None
        if config.server is not None:
            raise ValueError(
                f"server is {config.server}: it would listen on this machine only; with --ray, the "
                "training's reward names its scorers, or the url of a server that all nodes reach"
            )
        try:
            host, _, port = address.rpartition(":")
            if host:  # Ray itself would try for minutes
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (OSError, ValueError, RuntimeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise ValueError(f"--ray {address}: {reason}; run `ray start` on this machine") from None
        wanted = {"CPU": config.cluster.cpus, "GPU": config.cluster.gpus}
        there = _nodes()
        if not any(all(node[kind] >= amount for kind, amount in wanted.items()) for node in there):
            ray.shutdown()
            raise ValueError(
                f"cluster.cpus is {config.cluster.cpus:g}, cluster.gpus {config.cluster.gpus:g}: no node of "
                f"the cluster has as many; they have {there}"
            )

    def work(self, runs: Sequence[Run]) -> Iterator[tuple[Run, BaseException | None]]:
        """Yield each run as it ends, with what went wrong if it failed or is busy elsewhere.

        When the caller is interrupted, the runs under way are asked to stop and are waited for.
        """
        import ray

        takes = {"num_cpus": self.config.cluster.cpus, "num_gpus": self.config.cluster.gpus}
        task = ray.remote(max_retries=RETRIES, **takes)(carry_out)
        waiting = {task.remote(self.config, run, os.getcwd()): run for run in runs}
        try:
            while waiting:
                for reference in ray.wait(list(waiting), timeout=PERIOD)[0]:
                    yield waiting.pop(reference), _outcome(reference)
        finally:
            for reference in waiting:
                ray.cancel(reference, force=False)
            deadline = time.monotonic() + 60.0  # a trainer may be writing a checkpoint
            while waiting and time.monotonic() < deadline:
                for reference in ray.wait(list(waiting), timeout=PERIOD)[0]:
                    waiting.pop(reference)
            ray.shutdown()


def carry_out(config: AblateConfig, run: Run, folder: str) -> tuple[str, str] | None:
    """Train and compare one run on this node; None, or `busy` or `failed` and the reason.

    Args:
        config: The ablation.
        run: One of its runs.
        folder: That its paths are relative to.
    """
    try:
        os.chdir(folder)
    except OSError as error:
        return (
            "failed",
            f"{folder} is not on this node ({error.strerror}); start the ablation on a shared disk",
        )
    [(_, trouble)] = Workshop(config, threads=max(1, int(config.cluster.cpus))).work([run])
    if isinstance(trouble, Busy):
        return "busy", str(trouble)
    return None if trouble is None else ("failed", str(trouble))


def _outcome(reference: Any) -> BaseException | None:
    import ray
    from ray.exceptions import RayError

    try:
        found = ray.get(reference)
    except RayError as error:
        return RunFailed(f"its task was lost: {' '.join(str(error).split())}")
    if found is None:
        return None
    kind, reason = found
    return Busy(reason) if kind == "busy" else RunFailed(reason)


def _nodes() -> list[dict[str, float]]:
    import ray

    return [
        {kind: node["Resources"].get(kind, 0.0) for kind in ("CPU", "GPU")}
        for node in ray.nodes()
        if node["Alive"]
    ]
