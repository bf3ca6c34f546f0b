"""How scorers are spread over the replicas of a Ray cluster; needs no Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from reward_plugin.errors import ConfigError

#: What `scorers` may say of one scorer alone.
OF_ONE_SCORER = ("num_replicas", "num_gpus", "num_cpus")
#: Ray starts no smaller object store.
SMALLEST_STORE = 100 * 1024 * 1024


@dataclass(frozen=True)
class RayOptions:
    """How scorers are spread over replicas: processes on this machine, or on the nodes of a cluster.

    Attributes:
        address: Existing cluster to join: HOST:PORT of its head, or auto for the one that this machine is
            part of. Without it, a cluster is started on this machine, on loopback, and stopped with the
            server.
        name: What the deployments are called in the cluster, with the scorer's name behind it; two servers in
            one cluster need two names.
        num_replicas: Processes that hold a copy of each scorer.
        num_gpus: GPUs of one replica; a fraction shares a GPU with other replicas, 0 hides all of them.
        num_cpus: CPU cores that one replica counts for; also its number of threads, where OMP_NUM_THREADS
            does not say otherwise.
        scorers: What differs for one scorer, such as {pixels: {num_gpus: 0}}; its keys are num_replicas,
            num_gpus and num_cpus.
        max_ongoing_requests: Requests that one replica holds, the one that it scores among them.
        max_queued_requests: Requests that wait for a replica; the next is told to come back later (503).
        coalesce: Requests that wait at a replica are scored as one batch while it has at most so many
            pictures; 0 scores each by itself, so that the last digits of a score do not depend on who else
            asks.
        retries: How often a request is given to another replica because the one that had it died.
        stuck_after: Seconds without an answer after which a replica that has work is killed and replaced.
        object_store_bytes: Memory for requests on their way to a replica, in a cluster that is started here;
            beyond it they go to the disk.
    """

    address: str | None = None
    name: str = "rewards"
    num_replicas: int = 1
    num_gpus: float = 0.0
    num_cpus: float = 1.0
    scorers: dict[str, dict[str, Any]] = field(default_factory=dict)
    max_ongoing_requests: int = 8
    max_queued_requests: int = 32
    coalesce: int = 0
    retries: int = 3
    stuck_after: float = 600.0
    object_store_bytes: int = 512 * 1024 * 1024

    def __post_init__(self) -> None:
        lowest = {
            "num_replicas": 1, "num_gpus": 0, "num_cpus": 0, "max_ongoing_requests": 1,
            "max_queued_requests": 1, "coalesce": 0, "retries": 0, "stuck_after": 1,
            "object_store_bytes": SMALLEST_STORE,
        }  # fmt: skip
        for key, low in lowest.items():
            if not getattr(self, key) >= low:
                raise ConfigError(f"ray.{key} {getattr(self, key)}: must be at least {low}")
        if self.address is not None and self.address.startswith("ray://"):
            raise ConfigError(
                f"ray.address {self.address}: the server runs on a node of the cluster; run `ray start` on "
                "this machine and write auto"
            )
        for name, own in self.scorers.items():
            unknown = [key for key in own if key not in OF_ONE_SCORER]
            if unknown:
                raise ConfigError(
                    f"ray.scorers.{name}: unknown key {unknown[0]!r}; its keys are {', '.join(OF_ONE_SCORER)}"
                )

    def of(self, name: str) -> RayOptions:
        """The same options, with what `scorers` says of one of them.

        Raises:
            ConfigError: a value of `scorers` is out of range.
        """
        try:
            return replace(self, **self.scorers.get(name, {}), scorers={})
        except (ConfigError, TypeError) as error:
            raise ConfigError(f"ray.scorers.{name}: {error}") from None

    def check(self, names: Mapping[str, int]) -> None:
        """Compare with the scorers of a config: name -> how often it occurs.

        Raises:
            ConfigError: `scorers` names one that is not served.
        """
        for name in self.scorers:
            if name not in names:
                raise ConfigError(f"ray.scorers: no scorer {name!r} is served; there are {', '.join(names)}")
