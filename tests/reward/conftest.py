"""What a failed test of the Ray engine shows."""

from collections.abc import Generator
from typing import Any

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The state of the cluster and the ends of Ray's logs, which go with the cluster otherwise."""
    report = yield
    service: Any = getattr(item, "funcargs", {}).get("service")
    if report.failed and report.when == "call" and hasattr(service, "logs"):
        report.sections.append(("Ray", f"{service.state()}\n{service.logs()}"))
    return report
