"""How many pictures a second go through one server process, and how long a request takes at half of that, and
at half of what is aimed at.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.server_crew import Crew, Total
from benchmarks.server_host import HealthProbe, Server, milliseconds
from benchmarks.server_worker import Work

#: Pictures a second that one process must reach on two cores.
AIM_RATE = 500.0
#: Milliseconds: the 99 % quantile at half the rate, and of /health under load.
AIM_P99, AIM_HEALTH = 250.0, 50.0


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this part."""
    parser.add_argument("--seconds", type=float, default=30.0, help="of each of the three measurements")
    parser.add_argument("--side", type=int, default=512, help="width and height of a picture")
    parser.add_argument("--batch", type=int, default=16, help="pictures in one request")
    parser.add_argument("--concurrency", type=int, default=4, help="requests under way at once")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Closed loop for the rate, then open loop at half of it and at half of the aim; `/health` always."""
    with Server(["benchmarks.server_stamp"]) as server:
        full = _phase(server, options, 0.0)
        half = _phase(server, options, full["images_per_second"] / 2 / options.batch)
        half_aim = _phase(server, options, AIM_RATE / 2 / options.batch)
    return {"side": options.side, "batch": options.batch, "full": full, "half": half, "half_aim": half_aim}


def _phase(server: Server, options: argparse.Namespace, rate: float) -> dict[str, Any]:
    work = Work(
        server.url,
        options.seconds,
        side=options.side,
        batch=options.batch,
        concurrency=options.concurrency * (2 if rate else 1),
        rate=rate,
        report=options.seconds * 2,
    )
    cpu = server.cpu()
    with Crew() as crew, HealthProbe(server.port) as health:
        crew.start(work)
        crew.join()
    total = crew.total
    _must_be_right(total, health)
    return {
        "images_per_second": round(total.images / total.seconds, 1),
        "asked_images_per_second": round(rate * options.batch, 1) or None,
        "latency_ms": milliseconds(total.latencies),
        "health_ms": milliseconds(health.seconds),
        "server_cpu_ms_per_image": round((server.cpu() - cpu) / total.images * 1e3, 2),
        "client_cpu_ms_per_image": round(total.cpu / total.images * 1e3, 2),
    }


def _must_be_right(total: Total, health: HealthProbe) -> None:
    """A figure of a server that answers wrongly is worth nothing."""
    if total.wrong or total.failed or health.failures or not total.images:
        trouble = [*total.wrong, *total.failed, *health.failures][:3]
        raise SystemExit(f"throughput: no figure, because of answers that were wrong or missing: {trouble}")


def rows(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(figure, measured, aim) for the table."""
    full, half = result["full"], result["half"]
    half_aim = result.get("half_aim")  # earlier results have none
    size = f"{result['side']}x{result['side']} raw, {result['batch']} a request"
    return [
        (f"throughput, {size}", f"{full['images_per_second']:.0f} images/s", f">= {AIM_RATE:.0f}"),
        (
            "CPU time an image, server and client",
            f"{full['server_cpu_ms_per_image']:.2f} and {full['client_cpu_ms_per_image']:.2f} ms",
            "",
        ),
        _waits(f"request at half of that ({half['images_per_second']:.0f} images/s)", half),
        *([_waits(f"request at {AIM_RATE / 2:.0f} images/s", half_aim)] if half_aim else []),
        (
            "`/health` at full and at half load, p99 (largest)",
            " and ".join(
                f"{phase['health_ms']['p99']:.1f} ({phase['health_ms']['max']:.1f}) ms"
                for phase in (full, half)
            ),
            f"< {AIM_HEALTH:.0f}",
        ),
    ]


def _waits(name: str, phase: dict[str, Any]) -> tuple[str, str, str]:
    waits = phase["latency_ms"]
    times = f"{waits['p50']:.0f} / {waits['p95']:.0f} / {waits['p99']:.0f} ms"
    return f"{name}, p50 / p95 / p99", times, f"p99 < {AIM_P99:.0f}"
