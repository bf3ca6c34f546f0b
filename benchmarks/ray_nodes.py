"""A Ray cluster of several nodes on this machine, each with processes of its own; a whole node can be killed.

The head runs no replicas, so that every node which does can be lost. Needs `ray start` beside this Python.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil

#: What `ray start` says when a node has joined.
STARTED = "Ray runtime started."
#: Seconds for that: now and then, Ray's first call of another node is never answered.
LONGEST_START = 90.0


class Nodes:
    """A head and `count` nodes; an engine joins them at `address`."""

    def __init__(self, count: int, cores: int = 2) -> None:
        """Start them all; this process may not have imported Ray yet.

        Args:
            count: nodes beside the head.
            cores: that each of them counts for.

        Raises:
            RuntimeError: a node did not start; with what it said.
        """
        os.environ.update(
            RAY_AUTH_MODE="token",
            RAY_AUTH_TOKEN=secrets.token_hex(32),
            RAY_USAGE_STATS_ENABLED="0",
            RAY_worker_niceness="0",  # 15 otherwise: on a busy machine, replicas would start after minutes
        )
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.address, self._cores = f"127.0.0.1:{port}", cores
        self._started: list[psutil.Popen] = []
        try:
            self._start("--head", f"--port={port}", "--include-dashboard=false", "--num-cpus=0")
            self.nodes = [self.add() for _ in range(count)]
        except BaseException:
            self.stop()
            raise

    def add(self) -> psutil.Popen:
        """Another node."""
        return self._start(f"--address={self.address}", f"--num-cpus={self._cores}")

    def replicas(self, title: str) -> dict[int, int]:
        """How many processes whose command contains `title` each node has, by its place in `nodes`."""
        return {at: sum(title in command(one) for one in family(node)) for at, node in enumerate(self.nodes)}

    def kill(self, at: int) -> None:
        """Kill all processes of a node at once, as when its power fails."""
        end(self.nodes[at])

    def stop(self) -> None:
        """End every process of every node."""
        for node in reversed(self._started):
            end(node)

    def _start(self, *options: str) -> psutil.Popen:
        self._started.append(start(*options))
        return self._started[-1]


def start(*options: str) -> psutil.Popen:
    """A node of this machine, with the options of `ray start`; comes back when it has joined.

    Raises:
        RuntimeError: it did not start, tried three times; with what it said.
    """
    for _ in range(3):
        node = psutil.Popen(
            [
                *(Path(sys.executable).with_name("ray"), "start", "--block", "--node-ip-address=127.0.0.1"),
                *options,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # an engine that started its own cluster keeps it to this machine in this way
            env=os.environ | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"},
        )
        patience = threading.Timer(LONGEST_START, end, [node])
        patience.start()
        stream: IO[str] = node.stdout
        said = []
        for line in stream:
            said.append(line)
            if STARTED in line:
                patience.cancel()
                return node
        patience.cancel()
        end(node)
    raise RuntimeError(f"ray start {' '.join(options)} ended: {''.join(said)}")


def family(node: psutil.Popen) -> list[psutil.Process]:
    """A process and all that it started, which have not ended."""
    try:
        return [node, *node.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def end(node: psutil.Popen) -> None:
    """Kill a node's processes."""
    for process in family(node):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    node.wait()


def command(process: psutil.Process) -> str:
    """The command line of a process, empty when it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
