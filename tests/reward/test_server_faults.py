"""What a reward server must survive, in a short form of `python -m benchmarks.server_load soak`.

One server process, as `python -m reward_plugin serve` runs it, answers all of these tests one after another.
"""

import json
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from prometheus_client import generate_latest

from benchmarks import server_load, server_soak
from benchmarks.server_bodies import KINDS, draw_case
from benchmarks.server_cases import Draw
from benchmarks.server_crew import Crew
from benchmarks.server_fuzz import problem_of, send
from benchmarks.server_host import HOST, Server
from benchmarks.server_stamp import blank, expected, prompt_of, stamp
from benchmarks.server_worker import Work
from reward_plugin.client import RewardClient
from reward_plugin.serve import ServeConfig
from reward_plugin.server.metrics import Metrics

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(["benchmarks.server_stamp"]) as running:
        yield running


def answers_rightly(server: Server, serial: int) -> bool:
    picture = blank(8)
    stamp(picture, serial)
    with RewardClient(server.url) as client:
        table = client.score([picture], [prompt_of(serial)])
    return bool(np.array_equal(table.values, expected([serial])))


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_request_is_refused_and_costs_nobody_else_anything(server: Server, kind: str):
    draw = Draw(3)
    for _ in range(4):
        case = draw_case(draw, kind)
        assert problem_of(case, *send(server.port, case)) is None
    assert not draw.trap_sprung  # nobody has unpickled anything
    assert server.alive


def test_the_checks_see_what_they_are_for():
    draw = Draw(5)
    case = draw_case(draw, "decompression bomb")
    assert case.rows is not None
    rows = expected(case.rows).tolist()
    good = {"version": 1, "dimensions": ["first", "last", "prompt"], "errors": [None, "a bomb", None]}

    def judge(values: list[list[float]] | list[object], status: str = "200", **changes: object) -> str | None:
        return problem_of(case, status, json.dumps(good | {"values": values} | changes).encode())

    null = [None, None, None]
    assert judge([rows[0], null, rows[2]]) is None
    assert "got" in (judge([rows[2], null, rows[0]]) or "")  # crossed
    assert "a damaged picture got" in (judge([rows[0], rows[0], rows[2]], errors=[None] * 3) or "")
    assert "2 rows for 3" in (judge([rows[0], rows[2]], errors=[None, None]) or "")
    assert "500, allowed" in (judge([], "500") or "")
    assert judge([], "503") is None
    assert "tells" in (judge([rows[0], null, rows[2]], errors=[None, "site-packages", None]) or "")


def test_half_sent_requests_hold_nobody_up(server: Server):
    data = draw_case(Draw(1), "right as json").data
    held = [socket.create_connection((HOST, server.port), timeout=30) for _ in range(20)]
    try:
        for i, connection in enumerate(held):
            connection.sendall(data[: len(data) * (i + 1) // 22])
        assert answers_rightly(server, 77)
        assert server.get("/health")[0] == 200
    finally:
        for connection in held:
            connection.close()


def test_a_worker_that_is_killed_in_the_middle_of_requests_leaves_nothing_behind(server: Server):
    files = server.descriptors()
    with Crew() as crew:
        process = crew.start(Work(server.url, 60, side=256, batch=8, report=0.05))
        until = time.monotonic() + 60
        while not crew.total.images and time.monotonic() < until:
            time.sleep(0.02)
        crew.kill(process)
        crew.join()
    assert crew.total.images and not crew.total.wrong and not crew.total.failed
    assert answers_rightly(server, 78)

    def requests() -> int:
        return int(json.loads(server.get("/health")[1])["requests"])

    until = time.monotonic() + 30
    while (server.descriptors() > files + 2 or requests()) and time.monotonic() < until:
        time.sleep(0.05)
    assert server.descriptors() <= files + 2  # its connections are closed
    assert requests() == 0  # and none of its requests waits for ever


def test_many_clients_at_once_get_their_own_answers(server: Server):
    draws = [Draw(seed) for seed in range(4)]

    def ask(draw: Draw) -> list[str | None]:
        cases = [replace(draw_case(draw, "right as json"), hang_up=False) for _ in range(15)]
        return [problem_of(case, *send(server.port, case)) for case in cases]

    with ThreadPoolExecutor(4) as pool:
        assert [problem for problems in pool.map(ask, draws) for problem in problems if problem] == []


def test_the_operators_page_names_what_there_is(server: Server):
    page = (ROOT / "docs/server.md").read_text(encoding="utf-8")
    there, alerts = server.get("/metrics")[1], (ROOT / "docs/server_alerts.yaml").read_text(encoding="utf-8")
    named = set(re.findall(r"\breward_[a-z_]+|\bprocess_[a-z_]+", page + alerts)) - {"reward_plugin"}
    assert len(named) > 8 and {name for name in named if name not in there} == set()
    asked = re.findall(r'(\w+)=~?"([\w|/]+)"', alerts)
    fresh = generate_latest(Metrics(lambda: 0, lambda: 0, lambda: 0).registry).decode()
    for label, values in asked:
        for value in values.split("|"):  # from the start, or the first event would not show as an increase
            assert label == "job" or f'{label}="{value}"' in fresh
    rules = [rule["alert"] for rule in yaml.safe_load(alerts)["groups"][0]["rules"]]
    assert rules == re.findall(r"^\| `(Rewards\w+)` \|", page, flags=re.MULTILINE)
    defaults = ServeConfig()
    rows = re.findall(r"^\| `((?:max|read)_\w+)` \| (\d+) (\w*)", page, flags=re.MULTILINE)
    scale = {"MiB": 1 << 20, "GiB": 1 << 30}
    limits = {name: int(number) * scale.get(unit, 1) for name, number, unit in rows}
    assert set(limits) == {"max_items", "max_bytes", "max_waiting", "max_memory", "read_timeout"}
    assert limits == {name: getattr(defaults, name) for name in limits}


def test_the_figures_on_the_page_are_those_that_were_measured():
    measured = json.loads((ROOT / "benchmarks/results/server_load.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs/server.md").read_text(encoding="utf-8")
    assert set(server_load.PARTS) <= measured.keys() and server_load.failures(measured) == []
    assert server_load.table(measured) in page


def test_the_rate_and_the_latency_are_measured():
    options = server_load.parse(["throughput", "--seconds", "0.4", "--side", "64", "--batch", "4"])
    result = server_load.measure(options)["throughput"]
    full, half, half_aim = result["full"], result["half"], result["half_aim"]
    assert (
        full["images_per_second"] > 0 and full["latency_ms"]["count"] > 0 and full["health_ms"]["count"] > 0
    )
    assert abs(half["asked_images_per_second"] / full["images_per_second"] - 0.5) < 0.01
    assert half_aim["asked_images_per_second"] == 250 and half_aim["latency_ms"]["count"] > 0


def test_a_soak_of_seconds(tmp_path):
    command = (
        "soak --minutes 0.04 --calibrate 0.3 --kill_every 1.2 --malformed 40 --schema_cases 0 "
        f"--soak_side 64 --soak_batch 4 --json {tmp_path / 'a.json'}"
    )
    options = server_load.parse(command.split())
    result = server_load.measure(options)
    soak = result["soak"]
    assert server_load.failures(result) == []
    assert soak["answers_checked"] > 0 and soak["workers_killed"] >= 1
    assert soak["malformed"]["fuzz"]["sent"] == 40
    assert "| answers checked against their picture, wrong |" in server_load.table(result)
    soak["malformed"] = {}
    wrong = {**result, "soak": {**soak, "wrong": ["picture 1"], "alive": False}}
    assert server_load.failures(wrong) == ["soak: picture 1", "soak: the server did not survive"]
    grown = {**soak, "minutes": 10.0, "memory": {**soak["memory"], "growth": 0.06}}
    assert server_soak.failures(grown) == ["soak: resident memory grew by 6.0%"]
