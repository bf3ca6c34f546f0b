"""Server and client as on two machines: no loopback, a token, TLS, and a cable that is cut for a while.

    python -m benchmarks.server_hosts                # 30 s, the link is down for 5 of them
    python -m benchmarks.server_hosts --cut 90       # longer than the server waits for a request (60 s)

Makes two network namespaces of this machine with one link between them, and removes them again; nothing else
can be reached from them. Linux with iproute2, as root; needs trustme (`pip install -e '.[dev]'`). Prints a
markdown table; exits with 1 where an answer was wrong or a request was lost.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.server_crew import Crew, Total
from benchmarks.server_host import milliseconds
from benchmarks.server_worker import Work
from reward_plugin.access import TOKEN_VARIABLE

#: Addresses of the server and of the client; a network that is meant for tests (RFC 2544).
SERVER, CLIENT, PORT = "198.18.77.1", "198.18.77.2", 8100


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="of sending")
    parser.add_argument("--cut", type=float, default=5.0, help="seconds for which the link is down")
    parser.add_argument("--side", type=int, default=256, help="width and height of a picture")
    parser.add_argument("--batch", type=int, default=16, help="pictures in one request")
    options = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise SystemExit(
            "server_hosts: makes network namespaces, which takes root and iproute2 (the command ip)"
        )
    os.environ[TOKEN_VARIABLE] = secrets.token_hex(32)  # for the server and the client that are started below
    with tempfile.TemporaryDirectory() as folder, linked() as (server_side, client_side):
        certificate, authority = certificates(Path(folder))
        log = Path(folder) / "server.log"
        with serving(server_side, certificate, log), Crew(inside(client_side)) as crew:
            crew.start(Work(
                f"https://{SERVER}:{PORT}", options.seconds,
                side=options.side, batch=options.batch, report=0.2, ca_file=str(authority),
            ))  # fmt: skip
            before, after = cut_once(server_side, crew, options.cut)
            crew.join()
        if "Traceback" in log.read_text(encoding="utf-8"):
            crew.total.failed.append("the server's log has a traceback")
    print(table(crew.total, options.cut, before, after))
    for trouble in (bad := [*crew.total.wrong, *crew.total.failed]):
        print(f"server_hosts: {trouble}", file=sys.stderr)
    return 1 if bad or crew.total.images <= after else 0


def cut_once(server_side: str, crew: Crew, seconds: float) -> tuple[int, int]:
    """Answers that had come when the link went down, and when it came back."""
    until = time.monotonic() + 120
    while not crew.total.images:
        if time.monotonic() > until:
            raise SystemExit("server_hosts: no answer in two minutes")
        time.sleep(0.1)
    time.sleep(3)
    before = crew.total.images
    ip("-n", server_side, "link", "set", "link0", "down")
    time.sleep(seconds)
    after = crew.total.images
    ip("-n", server_side, "link", "set", "link0", "up")
    return before, after


@contextmanager
def linked() -> Iterator[tuple[str, str]]:
    """Names of two network namespaces with a link between them."""
    sides = [f"rewards-{os.getpid()}-{name}" for name in ("server", "client")]
    try:
        for side in sides:
            ip("netns", "add", side)
        ip("-n", sides[0], "link", "add", "link0", "type", "veth", "peer", "name", "link0", "netns", sides[1])
        for side, address in zip(sides, (SERVER, CLIENT), strict=True):
            ip("-n", side, "address", "add", f"{address}/24", "dev", "link0")
            ip("-n", side, "link", "set", "link0", "up")
            ip("-n", side, "link", "set", "lo", "up")
        yield sides[0], sides[1]
    finally:
        for side in sides:
            subprocess.run(["ip", "netns", "delete", side], capture_output=True, check=False)


@contextmanager
def serving(side: str, certificate: Path, log: Path) -> Iterator[None]:
    """A server in a namespace, which the client waits for."""
    command = [sys.executable, "-m", "benchmarks.server_stamp", "--port", str(PORT), "--host", SERVER]
    with log.open("w") as file:
        process = subprocess.Popen(
            [*inside(side), *command, "--tls_certificate", str(certificate)], stdout=file, stderr=file
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def certificates(folder: Path) -> tuple[Path, Path]:
    """Files with the server's certificate and key, and with the authority that both sides trust."""
    import trustme

    authority, own, trusted = trustme.CA(), folder / "server.pem", folder / "authority.pem"
    authority.issue_cert(SERVER).private_key_and_cert_chain_pem.write_to_path(str(own))
    authority.cert_pem.write_to_path(str(trusted))
    return own, trusted


def inside(side: str) -> list[str]:
    """What goes in front of a command that is to run in a namespace."""
    return ["ip", "netns", "exec", side]


def ip(*arguments: str) -> None:
    """Run `ip`; what it says is the message where it fails."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"server_hosts: ip {' '.join(arguments)}: {done.stderr.strip()}")


def table(total: Total, cut: float, before: int, after: int) -> str:
    """The result in markdown."""
    waits = milliseconds(total.latencies)
    rows = [
        ("pictures answered before the cut, during it, after it",
         f"{before}, {after - before}, {total.images - after}"),
        ("seconds that the link was down", f"{cut:g}"),
        ("answers checked against their picture, wrong", f"{total.images}, {len(total.wrong)}"),
        ("requests lost", str(len(total.failed))),
        ("request, p50 / largest", f"{waits['p50']:.0f} / {waits['max']:.0f} ms"),
    ]  # fmt: skip
    return "\n".join(["| | measured |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])


if __name__ == "__main__":
    sys.exit(main())
