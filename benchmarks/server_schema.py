"""Requests that schemathesis makes from the server's own OpenAPI page: half of them break the schema.

    python -m benchmarks.server_schema '{"url": "http://127.0.0.1:8199", "count": 2000, "rate": 4}'

Needs `pip install "schemathesis>=4,<5"`; not part of `make test`. Prints the same lines as `server_fuzz`.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.server_fuzz import INSIDE, Found, print_found

#: What a schema cannot break.
FORBIDDEN = range(500, 600)


@dataclass(frozen=True)
class Schema:
    """What to send.

    Attributes:
        url: Of the server.
        count: Requests.
        rate: Requests a second at most; 0 is as fast as they are made.
        seed: Of what is drawn.
    """

    url: str
    count: int
    rate: float = 0.0
    seed: int = 0


def run(task: Schema) -> None:
    """Send requests for every operation of the page; print what happens."""
    import hypothesis
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.core.result import Ok

    schema = schemathesis.openapi.from_url(task.url + "/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    strategies = [
        operation.as_strategy(generation_mode=mode)
        for operation in operations
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    ]
    found, reported, start, sent = Found(), time.monotonic(), time.monotonic(), 0

    @hypothesis.seed(task.seed)
    @hypothesis.settings(
        max_examples=task.count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=hypothesis.strategies.one_of(strategies))
    def one(case: Any) -> None:
        nonlocal found, reported, sent
        if task.rate:
            time.sleep(max(0.0, start + sent / task.rate - time.monotonic()))
        response = case.call(base_url=task.url, timeout=60)
        sent += 1
        found.sent += 1
        found.statuses[str(response.status_code)] += 1
        what = f"schema: {case.method} {case.path}"
        if response.status_code in FORBIDDEN and response.status_code != 503:
            found.problems.append(f"{what}: {response.status_code}: {response.content[:200]!r}")
        if response.status_code != 200 and INSIDE.search(response.content):
            found.problems.append(f"{what}: the answer tells about the inside: {response.content[:200]!r}")
        if time.monotonic() - reported > 1:
            print_found(found)
            found, reported = Found(), time.monotonic()

    one()
    print_found(found)


def main() -> None:
    """Send what the command line describes."""
    run(Schema(**json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
