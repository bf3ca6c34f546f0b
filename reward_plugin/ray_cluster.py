"""Joining a Ray cluster, or starting one that only this machine can reach, and deploying scorers on it."""

from __future__ import annotations

import logging
import math
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import psutil

from reward_plugin.access import is_loopback
from reward_plugin.errors import CheckpointError, ConfigError, RewardError, ScorerFailed
from reward_plugin.ray_options import RayOptions
from reward_plugin.ray_replica import Replica

log = logging.getLogger(__name__)

#: Seconds between two health checks of a replica: so long a dead one may count as alive at most.
HEALTH_PERIOD = 2.0
#: Seconds that a replica has for a health check; three late ones in a row cost its life.
HEALTH_TIMEOUT = 30.0
#: How often a cluster is tried to be started.
STARTS = 3
#: Ray's settings, which it reads from the environment when it is imported.
_EVERYWHERE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "1",  # 0.1 otherwise: late and loud where cores are busy
    "RAY_SERVE_MAX_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "5",
}
_STARTED_HERE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # nodes on 127.0.0.1, as on a Mac
    "RAY_AUTH_MODE": "token",
    "RAY_prestart_worker_first_driver": "0",  # no idle processes, one per core
    "RAY_worker_niceness": "0",  # 15 otherwise: whatever else runs on the machine would come first
    "RAY_health_check_failure_threshold": "40",  # 5 otherwise: a busy machine would call itself dead
    "RAY_worker_register_timeout_seconds": "300",  # 60 otherwise, for a process to start and say so
}
#: Errors that a replica's constructor raises, by the name that they have in Ray's report.
_ERRORS: dict[str, type[RewardError]] = {
    error.__name__: error for error in (ConfigError, CheckpointError, ScorerFailed)
}


def join(options: RayOptions, cores: float) -> bool:
    """Connect this process to the cluster of `options`, or start one; True where it was started here.

    A cluster that is started here listens on loopback only, asks for a token that no file holds, and has no
    dashboard. Ray reads these settings when it is imported, so it must not have been before.

    Args:
        options: of the server.
        cores: that all replicas together count for.

    Raises:
        ConfigError: Ray is not installed, the cluster does not answer, or it would listen on more than
            loopback.
    """
    local = options.address is None
    os.environ.update(settings(local))
    try:
        import ray
        from ray import serve
    except ImportError as error:
        raise ConfigError(
            f"engine: ray needs Ray Serve ({error}); pip install 'flow-grpo-perceptual[ray]'"
        ) from None

    common: dict[str, Any] = {"logging_level": "WARNING", "namespace": "rewards"}
    if local:
        _start(options, cores, common)
        try:
            check_loopback()
        except BaseException:
            ray.shutdown()
            raise
    else:
        try:
            ray.init(address=options.address, **common)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"ray.address {options.address}: {_last_line(str(error))}; run `ray start` on this machine, "
                "with the same Ray version and token as the head"
            ) from None
    serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # the engine itself tells of replicas that died
    return local


def settings(local: bool) -> dict[str, str]:
    """Ray's environment, for a cluster that is started here or another one; before Ray is imported."""
    return _EVERYWHERE | (_STARTED_HERE | {"RAY_AUTH_TOKEN": _token()} if local else {})


@cache
def _token() -> str:
    """What processes of a cluster that is started here show one another; Ray reads it once in a process."""
    return secrets.token_hex(32)


def check_loopback() -> None:
    """Whether every process of the cluster that was started here listens on loopback only.

    Asked twice, of the bare cluster and of the loaded one, because it hangs on how a version of Ray opens its
    ports: whoever reaches one of them needs the token, but with it can run code.

    Raises:
        ConfigError: one listens elsewhere; naming the address.
    """
    import ray

    for process in psutil.Process().children(recursive=True):
        try:
            sockets = process.net_connections("inet")
        except psutil.Error:  # it has ended
            continue
        for one in sockets:
            address = one.laddr.ip if one.laddr else ""
            if one.status == psutil.CONN_LISTEN and not is_loopback(address.removeprefix("::ffff:")):
                raise ConfigError(
                    f"Ray {ray.__version__} listens on {address}:{one.laddr.port}, not on loopback: it "
                    "was imported before the server, or this version opens its ports in another way; then "
                    "install one that docs/server_ray.md names"
                )


def _start(options: RayOptions, cores: float, common: dict[str, Any]) -> None:
    """A cluster of this machine; tried again, because Ray gives a busy machine half a minute only."""
    import ray

    for left in reversed(range(STARTS)):
        try:
            ray.init(
                "local",  # without it, Ray would join a cluster that it finds on this machine
                # cores are counted, not taken: a small machine may run more replicas than it has cores
                num_cpus=max(os.cpu_count() or 1, math.ceil(cores)),
                include_dashboard=False,
                object_store_memory=options.object_store_bytes,
                **common,
            )
            return
        except Exception as error:
            ray.shutdown()
            if not left:
                raise ConfigError(f"engine: ray did not start: {_last_line(str(error))}") from error
            log.warning("Ray did not start, trying again: %s", _last_line(str(error)))


def leave(names: Sequence[str], started_here: bool) -> None:
    """Stop the applications `names`, and the cluster where it was started here."""
    import ray

    if not started_here:  # in our own cluster they end with it
        leave_applications(names)
    ray.shutdown()


def leave_applications(names: Sequence[str]) -> None:
    """Remove applications from the cluster, as far as it answers."""
    from ray import serve

    for name in names:
        with suppress(Exception):  # of one that is not there, or of a cluster that is not
            serve.delete(name)


def deploy(specs: Sequence[Mapping[str, Any]], options: RayOptions) -> dict[str, Any]:
    """Load every scorer on all of its replicas; the name of each application and its handle.

    Raises:
        ConfigError: wrong options, or the cluster has not enough GPUs or cores.
        CheckpointError: a model cannot be loaded.
        ScorerFailed: a first score could not be made, or a replica did not start.
    """
    from ray import serve
    from ray.exceptions import RayError

    each = [options.of(str(spec.get("name"))) for spec in specs]
    _check_resources(specs, each)
    targets = []
    for spec, own in zip(specs, each, strict=True):
        deployment = serve.deployment(Replica).options(
            name=str(spec.get("name")),
            num_replicas=own.num_replicas,
            ray_actor_options={"num_cpus": own.num_cpus, "num_gpus": own.num_gpus},
            max_ongoing_requests=own.max_ongoing_requests,
            max_queued_requests=-1,  # the engine counts them: what it has taken is never sent away
            health_check_period_s=HEALTH_PERIOD,
            health_check_timeout_s=HEALTH_TIMEOUT,
            max_constructor_retry_count=1,  # of the first start only: a dead replica is restarted for ever
            logging_config={"log_level": "WARNING", "enable_access_log": False},
        )
        bound = deployment.bind(
            dict(spec), own.max_ongoing_requests, own.coalesce, own.stuck_after, options.address is None
        )
        targets.append(serve.RunTarget(bound, f"{options.name}-{spec.get('name')}", None))
    names = [target.name for target in targets]
    try:
        handles = serve.run_many(targets)
        if options.address is None:
            check_loopback()
    except (RuntimeError, RayError) as error:
        report = f"{error}\n{_messages(names)}"
        leave_applications(names)
        raise reason(report) from None
    except BaseException:  # interrupted: what is half loaded would keep its GPUs
        leave_applications(names)
        raise
    return dict(zip(names, handles, strict=True))


def running_replicas(names: Sequence[str]) -> dict[str, int]:
    """How many replicas of each application can take requests, as the cluster last looked."""
    from ray import serve

    applications = serve.status().applications
    return {
        name: sum(
            count
            for deployment in (applications[name].deployments.values() if name in applications else ())
            for state, count in deployment.replica_states.items()
            if str(getattr(state, "value", state)) == "RUNNING"
        )
        for name in names
    }


def _messages(names: Sequence[str]) -> str:
    """What Ray says of deployments, with the tracebacks of replicas that did not start."""
    from ray import serve

    applications = serve.status().applications
    return "\n".join(
        deployment.message
        for name in names
        if name in applications
        for deployment in applications[name].deployments.values()
    )


def _check_resources(specs: Sequence[Mapping[str, Any]], each: Sequence[RayOptions]) -> None:
    """Replicas that never find a place would be waited for without end."""
    import ray

    there = ray.cluster_resources()
    for resource, option in (("GPU", "num_gpus"), ("CPU", "num_cpus")):
        wanted = {
            str(spec.get("name")): own.num_replicas * getattr(own, option)
            for spec, own in zip(specs, each, strict=True)
        }
        if sum(wanted.values()) > there.get(resource, 0):
            parts = ", ".join(f"{name} {amount:g}" for name, amount in wanted.items() if amount)
            raise ConfigError(
                f"ray.num_replicas x ray.{option}: {sum(wanted.values()):g} {resource}s are wanted "
                f"({parts}), the cluster has {there.get(resource, 0):g}; lower one of them, or add nodes"
            )


def reason(report: str) -> RewardError:
    """The error that a replica raised, out of Ray's report with its traceback."""
    for line in reversed(report.splitlines()):
        found = re.match(r"(?:\w+\.)*(\w+): (.*)", line.strip())
        if found and found[1] in _ERRORS:
            return _ERRORS[found[1]](found[2])
    log.error("%s", report)
    why = _last_line(report)
    if re.search(r"\b(ActorDiedError|ActorUnavailableError|OutOfMemoryError)\b", report):
        why = "its process died while it loaded, as when memory runs out; its own log may say more"
    return ScorerFailed(f"a scorer did not start: {why}")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]
