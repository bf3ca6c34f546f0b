"""Sends damaged requests one after another and looks at each answer.

    python -m benchmarks.server_fuzz '{"port": 8199, "count": 1000, "rate": 20}'

Prints a JSON line of what happened since the last one about every second. A problem is a status that the case
does not allow, a good picture with a wrong score, a damaged one with any, or an answer that tells about the
server's inside.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field

import numpy as np

from benchmarks.server_bodies import draw_case
from benchmarks.server_cases import ANY, MISSING, Case, Draw
from benchmarks.server_host import HOST
from benchmarks.server_stamp import expected
from reward_plugin.errors import ProtocolError
from reward_plugin.wire import decode_response

#: Nothing of this belongs into an answer.
INSIDE = re.compile(rb"Traceback|site-packages|\.py\b|File \"|0x[0-9a-f]{8,}")
#: Seconds after which a request counts as not answered.
PATIENCE = 60.0


@dataclass(frozen=True)
class Fuzz:
    """What to send.

    Attributes:
        port: Of the server, on loopback.
        count: Requests.
        rate: Requests a second at most; 0 is as fast as they are answered.
        held: Half-sent requests that are kept open beside them.
        seed: Of what is drawn.
    """

    port: int
    count: int
    rate: float = 0.0
    held: int = 0
    seed: int = 0


@dataclass
class Found:
    """What happened."""

    sent: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def send(port: int, case: Case) -> tuple[str, bytes]:
    """Status and body of the answer; "closed" where there was none, "silent" where none came in time."""
    with socket.create_connection((HOST, port), timeout=PATIENCE) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before it was all sent
            connection.sendall(case.data)
        if case.hang_up:
            return "closed", b""
        try:
            response = http.client.HTTPResponse(connection, method=case.data[:4].decode("latin-1").strip())
            response.begin()
            return str(response.status), response.read()
        except TimeoutError:
            return "silent", b""
        except (http.client.HTTPException, OSError):
            return "closed", b""


def problem_of(case: Case, status: str, body: bytes) -> str | None:
    """What is wrong with an answer."""
    if status not in case.allowed | {"503"} and not (case.hang_up and status == "closed"):
        return f"{case.name}: {status}, allowed are {sorted(case.allowed)}: {body[:200]!r}"
    if inside := INSIDE.search(body):
        return f"{case.name}: the answer tells {inside[0]!r}: {body[:200]!r}"
    if status != "200" or case.rows is None:
        return None
    try:
        table = decode_response(json.loads(body))
    except (ValueError, ProtocolError) as damage:
        return f"{case.name}: {damage}"
    if len(table) != len(case.rows):
        return f"{case.name}: {len(table)} rows for {len(case.rows)} pictures"
    for serial, row, error in zip(case.rows, table.values, table.errors, strict=True):
        if serial == MISSING and (error is None or not np.isnan(row).all()):
            return f"{case.name}: a damaged picture got {row.tolist()}, error {error!r}"
        if serial not in (MISSING, ANY) and not np.array_equal(row, expected([serial])[0]):
            return f"{case.name}: picture {serial} got {row.tolist()}, error {error!r}"
    return None


def run(fuzz: Fuzz) -> None:
    """Send them all; print what happens."""
    draw, found, held = Draw(fuzz.seed), Found(), deque[socket.socket]()
    start = reported = time.monotonic()
    for i in range(fuzz.count):
        if fuzz.rate:
            time.sleep(max(0.0, start + i / fuzz.rate - time.monotonic()))
        case = draw_case(draw)
        status, body = send(fuzz.port, case)
        found.sent += 1
        found.statuses[status] += 1
        if problem := problem_of(case, status, body):
            found.problems.append(problem)
        if draw.trap_sprung:
            found.problems.append(f"{case.name}: the server unpickled it")
            break
        if len(held) < fuzz.held or (held and i % 50 == 0):
            held.append(_half(fuzz.port, draw))
            if len(held) > fuzz.held:
                held.popleft().close()
        if time.monotonic() - reported > 1:
            print_found(found)
            found, reported = Found(), time.monotonic()
    print_found(found)
    for connection in held:
        connection.close()


def _half(port: int, draw: Draw) -> socket.socket:
    """A connection on which the rest of a request never comes."""
    connection = socket.create_connection((HOST, port), timeout=PATIENCE)
    data = draw_case(draw, "right as json").data
    connection.sendall(data[: draw.random.randrange(1, len(data) - 1)])
    return connection


def print_found(found: Found) -> None:
    """One line of JSON."""
    print(json.dumps(vars(found)), flush=True)


def main() -> None:
    """Send what the command line describes."""
    run(Fuzz(**json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
