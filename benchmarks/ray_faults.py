"""Kills replicas of the Ray engine under load: is every request answered, and with its own pictures' scores?

Clients send requests of a few pictures each and come back where the queue is full. At even intervals one
replica gets kill -9, the next one when all are back. With `--nodes 2` it is a whole node: every process of it
at once, and an empty one takes its place. Every answer is compared, bit for bit, with what the scorer gives
in this process. Traffic stays on loopback; bounded in count (`--requests`) and time (`--seconds`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil

from benchmarks.ray_nodes import Nodes, command
from reward_plugin.errors import RewardError
from reward_plugin.images import to_npy
from reward_plugin.queueing import Full, ScoreJob
from reward_plugin.ray_cluster import running_replicas
from reward_plugin.ray_engine import RayEngine
from reward_plugin.ray_options import RayOptions
from reward_plugin.scorers import build_scorer
from reward_plugin.types import Scorer, ScoreTable

#: Seconds that a client stays away from a full queue; the server would say a whole second or more.
AWAY = 0.05


@dataclass
class Tally:
    """What happened.

    Attributes:
        right: answers that are, bit for bit, those of their pictures.
        wrong: other answers.
        failed: requests that ended in an error, by its text.
        unanswered: requests that were not over when the time was.
        refused: times that a queue was full; the client came back.
        kills: times that a replica, or a node, was killed.
        killed: replicas that each of them cost.
        seconds: of every request, from its first sending on.
        back: seconds from a kill until all replicas ran again.
    """

    right: int = 0
    wrong: int = 0
    unanswered: int = 0
    refused: int = 0
    kills: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    back: list[float] = field(default_factory=list)
    killed: list[int] = field(default_factory=list)


class Pictures:
    """A pool of random pictures with their scores; a request is a few of them, drawn by its number."""

    def __init__(self, scorer: Scorer, count: int, side: int) -> None:
        draw = np.random.default_rng(0)
        arrays = [draw.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(count)]
        self._images = [to_npy(array) for array in arrays]
        self._rows = scorer.score(arrays).values
        self._name = scorer.name

    def request(self, number: int, size: int) -> tuple[ScoreJob, np.ndarray]:
        """A job and the table that it must give."""
        chosen = random.Random(number).sample(range(len(self._images)), size)
        job = ScoreJob(tuple(self._images[i] for i in chosen), None, (self._name,), id=str(number))
        return job, self._rows[chosen]


def replicas(name: str) -> set[int]:
    """Process ids of the replicas of `pixels`."""
    return {one.pid for one in psutil.process_iter() if title(name) in command(one)}


def title(name: str) -> str:
    """What the command line of a replica of `pixels` contains."""
    return f"ServeReplica:{name}-pixels:"


def all_back(name: str, killed: set[int], wanted: int) -> bool:
    """Whether there are as many processes as wanted without the killed ones, and all take requests."""
    if len(replicas(name) - killed) < wanted:
        return False
    application = f"{name}-pixels"
    return running_replicas([application])[application] == wanted


async def ask(engine: RayEngine, job: ScoreJob, tally: Tally) -> ScoreTable:
    """An answer, however often the queue is full."""
    while True:
        try:
            return await engine.run(job)
        except Full:
            tally.refused += 1
            await asyncio.sleep(AWAY)


async def client(engine: RayEngine, pictures: Pictures, todo: list[int], size: int, tally: Tally) -> None:
    """One client: a request at a time until none is left."""
    while todo:
        job, expected = pictures.request(todo.pop(), size)
        start = time.monotonic()
        try:
            table = await ask(engine, job, tally)
        except RewardError as error:
            tally.failed[str(error)] = tally.failed.get(str(error), 0) + 1
            continue
        tally.seconds.append(time.monotonic() - start)
        if table.values.tobytes() == expected.tobytes() and not any(table.errors):
            tally.right += 1
        else:
            tally.wrong += 1


def kill(name: str, number: int, nodes: Nodes | None) -> set[int]:
    """End one replica, or every process of one node that has replicas; the ids of the replicas that died."""
    if nodes is None:
        alive = sorted(replicas(name))
        os.kill(alive[number % len(alive)], signal.SIGKILL)
        return {alive[number % len(alive)]}
    before, there = replicas(name), nodes.replicas(title(name))
    victim = max(there, key=lambda at: (there[at], at != number % len(there)))
    nodes.kill(victim)
    nodes.nodes[victim] = nodes.add()
    return before - replicas(name)


async def killer(
    options: argparse.Namespace, name: str, nodes: Nodes | None, todo: list[int], tally: Tally
) -> None:
    """Kill each time that another share of the requests is done and all replicas are there."""
    for number in range(options.kills):
        while len(todo) > options.requests * (1 - (number + 0.5) / options.kills):
            await asyncio.sleep(0.02)
        if not todo or len(await asyncio.to_thread(replicas, name)) < options.replicas:
            continue
        start = time.monotonic()
        killed = await asyncio.to_thread(kill, name, number, nodes)
        tally.kills += 1
        tally.killed.append(len(killed))
        while not await asyncio.to_thread(all_back, name, killed, options.replicas):
            await asyncio.sleep(0.2)
        tally.back.append(time.monotonic() - start)


async def load(
    engine: RayEngine, pictures: Pictures, options: argparse.Namespace, nodes: Nodes | None
) -> Tally:
    """All requests, or as many as the time allows."""
    tally, todo = Tally(), list(range(options.requests))
    clients = [client(engine, pictures, todo, options.images, tally) for _ in range(options.clients)]
    work = asyncio.gather(*clients, killer(options, engine.options.name, nodes, todo, tally))
    try:
        await asyncio.wait_for(work, options.seconds)
    except TimeoutError:
        tally.unanswered = options.requests - tally.right - tally.wrong - sum(tally.failed.values())
    return tally


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Start a cluster, load it, stop it."""
    pictures = Pictures(build_scorer({"name": "pixels"}), 64, options.side)
    nodes = Nodes(options.nodes) if options.nodes > 1 else None
    try:
        ray = RayOptions(
            address=nodes.address if nodes else None,
            name=f"faults-{uuid.uuid4().hex[:8]}",
            num_replicas=options.replicas,
            num_cpus=0.1,
        )
        engine = RayEngine([{"name": "pixels"}], ray)
        try:
            spread = nodes and list(nodes.replicas(title(ray.name)).values())
            start = time.monotonic()
            tally = asyncio.run(load(engine, pictures, options, nodes))
            seconds = time.monotonic() - start
        finally:
            engine.close()
    finally:
        if nodes is not None:
            nodes.stop()
    times = np.percentile(tally.seconds, (50, 99, 100)) if tally.seconds else np.full(3, np.nan)
    return {
        "requests": options.requests,
        "pictures in a request": options.images,
        "width and height": options.side,
        "replicas": options.replicas,
        "clients": options.clients,
        "nodes": options.nodes,
        "replicas on each node at the start": spread,
        "kills": tally.kills,
        "replicas that each kill cost": tally.killed,
        "answers, every picture right": tally.right,
        "answers, a picture wrong": tally.wrong,
        "requests failed": sum(tally.failed.values()),
        "requests unanswered": tally.unanswered,
        "given to another replica": engine.resent,
        "told to come back": tally.refused,
        "seconds": round(seconds, 1),
        "requests per second": round(len(tally.seconds) / seconds, 1),
        "seconds of a request, median": round(float(times[0]), 3),
        "seconds of a request, 99 %": round(float(times[1]), 3),
        "seconds of a request, longest": round(float(times[2]), 3),
        "seconds until all replicas were back": [round(one, 1) for one in tally.back],
        "errors": tally.failed,
    }


def table(found: dict[str, Any]) -> str:
    """The same as markdown."""
    rows = [f"| {name} | {json.dumps(value)} |" for name, value in found.items()]
    return "\n".join(["| what | measured |", "| --- | --- |", *rows])


def main() -> int:
    """Print a table; 1 where a request was lost or answered wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--images", type=int, default=3, help="pictures in a request")
    parser.add_argument("--side", type=int, default=96, help="width and height of a picture")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--nodes", type=int, default=1, help="more than one: whole nodes are killed")
    parser.add_argument("--clients", type=int, default=12, help="requests under way at a time")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=900.0, help="of load, at most")
    parser.add_argument("--json", help="file for what was measured")
    options = parser.parse_args()
    found = measure(options)
    print(table(found))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as stream:
            json.dump(found, stream, indent=1)
    return 0 if found["answers, every picture right"] == options.requests and found["kills"] else 1


if __name__ == "__main__":
    sys.exit(main())
