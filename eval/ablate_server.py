"""One reward server for all runs of an ablation."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from eval.ablate_config import AblateConfig
from eval.ablate_runs import RunFailed, stop, tail

START_SECONDS = 600.0


@contextlib.contextmanager
def reward_server(config: AblateConfig) -> Iterator[str | None]:
    """The address of a ready server, stopped on every way out; None if the ablation wants none.

    Raises:
        RunFailed: It ended, or was not ready in time.
    """
    if config.server is None:
        yield None
        return
    log = Path(config.out) / "server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    command = ["-m", "reward_plugin", "serve", "--config", config.server, "--host", "127.0.0.1"]
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, *command, "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_ready(child, url, log)
            yield url
        finally:
            stop(child)


def wait_ready(child: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Return once `/ready` answers 200.

    Raises:
        RunFailed: The server ended, or is not ready in time.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_SECONDS
    while child.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):  # refused while it starts, HTTP 503 while it loads
            opener.open(f"{url}/ready", timeout=5).close()
            return
        time.sleep(0.2)
    raise RunFailed(f"the reward server is not ready; the end of {log}:\n{tail(log)}")
