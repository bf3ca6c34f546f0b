"""The client and its process: forks, pickles, interrupts, closing, threads and memory."""

import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import CancelledError
from pathlib import Path

import httpx
import numpy as np
import pytest

from reward_plugin import session
from reward_plugin.app import build_app
from reward_plugin.client import LocalRewards, RewardClient
from reward_plugin.encoding import encode_each
from reward_plugin.errors import ServerUnavailable
from reward_plugin.types import ScoreTable
from reward_plugin.workers import Workers
from tests.reward.helpers import ChannelMeans, plain
from tests.reward.serving import serving, until
from tests.reward.transports import Unreliable

ROOT = Path(__file__).resolve().parents[2]


class Forgotten:
    """Something that a test can see being freed."""


def test_a_client_scores_in_a_fork_and_after_a_trip_through_a_pickle():
    with serving(build_app([ChannelMeans()])) as port:
        with RewardClient(f"http://127.0.0.1:{port}", batch_size=3, concurrency=1) as client:
            local = LocalRewards([ChannelMeans()])
            for rewards in (client, local):
                assert rewards.score([plain(1, 2)]).values.tolist() == [[1, 2]]
            child = os.fork()
            if child == 0:  # whatever happens here, it must not go on with the tests
                code = 1
                try:
                    signal.alarm(60)
                    values = [rewards.score([plain(3, 4)]).values.tolist() for rewards in (client, local)]
                    client.close()
                    code = 0 if values == [[[3, 4]]] * 2 else 2
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            with pickle.loads(pickle.dumps(client)) as copy:
                assert copy.score([plain(5, 6)] * 4).values.tolist() == [[5, 6]] * 4
            assert client.score([plain(7, 8)]).values.tolist() == [[7, 8]]


INTERRUPTED = """
import os, signal, sys, threading
from reward_plugin.client import RewardClient
client = RewardClient(sys.argv[1], max_outage=300)
threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    if sys.argv[2] == "with":
        with client:
            client.score([b"a picture"])
    else:
        client.score([b"a picture"])
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("form", ["with", "without"])
def test_an_interrupt_ends_the_process_though_the_server_hangs(form: str):
    over = threading.Event()
    with Unreliable(lambda: over.wait(100)) as server:
        command = [sys.executable, "-c", INTERRUPTED, server.url, form]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90)
        over.set()
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


def test_an_interrupted_call_is_given_up_by_its_threads():
    with Unreliable(502) as server, RewardClient(server.url, max_outage=300, concurrency=1) as client:
        main = threading.main_thread().ident or 0
        timer = threading.Timer(0.5, lambda: signal.pthread_kill(main, signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            client.score([plain(1, 0)])
        timer.join()
        for workers in (client._session._batches, client._session._requests):
            assert workers.submit(len, "abc").result(60) == 3  # each of the two has a single thread


def test_closing_finishes_what_is_under_way_and_drops_what_waits():
    channels = ChannelMeans()
    with serving(build_app([channels])) as port:
        client = RewardClient(f"http://127.0.0.1:{port}", concurrency=1)
        client.wait_ready(60)
        channels.go.clear()
        first, second = (client.submit([plain(i, 0)]) for i in range(2))
        until(lambda: httpx.get(f"http://127.0.0.1:{port}/health").json()["requests"] == 1)
        threading.Timer(0.3, channels.go.set).start()
        client.close()
        client.close()
    assert first.result(0).values.tolist() == [[0, 0]] and len(channels.batches) == 2  # one warms up
    with pytest.raises((CancelledError, ServerUnavailable)):
        second.result(0)
    with pytest.raises(RuntimeError, match="closed"):
        client.submit([plain(0, 0)])


def test_leaving_with_an_error_does_not_wait_for_a_server_that_hangs():
    over = threading.Event()
    with Unreliable(lambda: over.wait(100)) as server:
        started = time.monotonic()
        with pytest.raises(ZeroDivisionError), RewardClient(server.url) as client:
            future = client.submit([plain(0, 0)])
            until(lambda: server.times)
            raise ZeroDivisionError
        assert time.monotonic() - started < 60 and not future.done()
        over.set()


def test_workers_hold_neither_results_nor_arguments_nor_their_threads():
    workers, kept = Workers(2, "test"), Forgotten()
    seen = weakref.ref(kept)
    assert [workers.submit(len, "abc").result(30) for _ in range(5)] == [3] * 5
    assert workers.submit(lambda one: one is not None, kept).result(30)
    del kept
    until(lambda: gc.collect() >= 0 and seen() is None)
    threads = list(workers._threads)
    assert len(threads) == 2 and all(thread.is_alive() for thread in threads)
    del workers  # forgotten without being closed
    until(lambda: gc.collect() >= 0 and not any(thread.is_alive() for thread in threads))


def test_encoding_happens_off_the_callers_thread_and_few_pictures_at_a_time(monkeypatch: pytest.MonkeyPatch):
    lock, at_once, most, threads = threading.Lock(), 0, 0, set()

    def count(images: list, raw: bool) -> object:
        nonlocal at_once, most
        with lock:
            at_once += len(images)
            most = max(most, at_once)
            threads.add(threading.get_ident())
        time.sleep(0.01)
        return encode_each(images, raw)

    def send(self: object, pictures: list, *rest: object) -> ScoreTable:
        nonlocal at_once
        with lock:
            at_once -= len(pictures)
        return ScoreTable.computed(("red",), [[0]] * len(pictures))

    monkeypatch.setattr(session, "encode_each", count)
    monkeypatch.setattr(session.Session, "_request", send)
    with Unreliable(200) as server, RewardClient(server.url, batch_size=2, concurrency=3) as client:
        futures = [client.submit([plain(i, j) for j in range(10)]) for i in range(5)]
        for future in futures:
            assert future.result(60).values.shape == (10, 1)
    assert 2 <= most <= 2 * 3 and threading.get_ident() not in threads


def test_many_threads_share_a_client():
    with serving(build_app([ChannelMeans()])) as port:
        with RewardClient(f"http://127.0.0.1:{port}", batch_size=3) as client:
            wrong: list[object] = []

            def ask(first: int) -> None:
                reds = [(first + i) % 40 for i in range(20)]
                values = client.score([plain(red, 1) for red in reds]).values
                if not np.array_equal(values[:, 0], reds):
                    wrong.append(values)

            askers = [threading.Thread(target=ask, args=(i,)) for i in range(16)]
            for thread in askers:
                thread.start()
            for thread in askers:
                thread.join()
    assert not wrong
