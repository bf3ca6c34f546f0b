"""Threads that do the client's work, and do not keep the process alive."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")

#: A future with the function that gives its result; None ends a thread.
Work: TypeAlias = "tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None"


class Workers:
    """A fixed number of threads, started as they are needed.

    As `ThreadPoolExecutor`, but for one thing: Python waits for that one's threads before it exits, which may
    be minutes where they wait for a server. These end with the process.
    """

    def __init__(self, count: int, name: str) -> None:
        """Start nothing yet."""
        self._count, self._name = count, name
        self._queue: SimpleQueue[Work] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._is_open = True
        weakref.finalize(self, _end, self._queue, count)  # forgotten without being closed

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Have a thread call `function`."""
        future: Future[T] = Future()
        with self._lock:
            if not self._is_open:
                raise RuntimeError("the client is closed; make another one")
            self._queue.put((future, function, arguments))
            if len(self._threads) < self._count:
                name = f"{self._name}-{len(self._threads)}"
                thread = threading.Thread(target=_work, args=(self._queue,), name=name, daemon=True)
                self._threads.append(thread)
                thread.start()
        return future

    def close(self, *, wait: bool) -> None:
        """Cancel what has not begun; wait for what has, or do not."""
        with self._lock:
            self._is_open = False
            try:
                while (work := self._queue.get_nowait()) is not None:
                    work[0].cancel()
            except Empty:
                pass
            _end(self._queue, len(self._threads))
        for thread in self._threads if wait else ():
            thread.join()


def _work(queue: SimpleQueue[Work]) -> None:
    while (work := queue.get()) is not None:
        future, function, arguments = work
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(function(*arguments))
            except BaseException as error:
                future.set_exception(error)
        del work, future, function, arguments  # pictures: not to be held until the next ones come


def _end(queue: SimpleQueue[Work], count: int) -> None:
    for _ in range(count):
        queue.put(None)
