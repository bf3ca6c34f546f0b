"""An application behind real sockets, with the protocol that `python -m reward_plugin serve` uses."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from reward_plugin.server.http import uvicorn_server


@contextlib.contextmanager
def serving(
    app: FastAPI, *, head_timeout: float = 60, certificate: Path | None = None, host: str = "127.0.0.1"
) -> Iterator[int]:
    """The port at which `app` answers; it stops at the end, as it does on SIGTERM."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family)
    server = uvicorn_server(app, head_timeout, certificate)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield int(listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()


def until(condition: Any, seconds: float = 30) -> None:
    """Wait for something that another thread brings about."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)
