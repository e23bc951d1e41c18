"""The Ray cluster: started here or joined, and the nodes it has."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .cluster_file import read_cluster_file
from .errors import ClusterError, InvalidValue
from .joining import check_joinable
from .shipping import Shipment
from .signals import StopSignals
from .slots import NodeKind, NodeOffer

MANY_NODES = 1000
"""How many nodes of a kind are reckoned with where there is no bound."""


@contextlib.contextmanager
def ray_session(address: str | None, code: Shipment | None = None) -> Iterator[StopSignals]:
    """Ray, started here or joined; left as it was found.

    Args:
        code: what is to be sent to the nodes of a cluster that is joined.

    Raises:
        ClusterError: the cluster at the address cannot be joined.
    """
    import ray

    target = target_of(address)
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if target == "local":
        options["include_dashboard"] = False
    mine = not ray.is_initialized()
    if mine:
        with contextlib.ExitStack() as stack:
            stack.enter_context(by_environment({} if address is None else {"RAY_ADDRESS": ""}))
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            check_joinable(target)
            if code is not None and target != "local":
                options["runtime_env"] = stack.enter_context(code.runtime_env())
            try:
                ray.init(address=target, **options)
            except Exception as error:
                text = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
                raise ClusterError(f"Ray at {target!r} cannot be used: {text}; see `orchestrator doctor`.") from error
    with StopSignals() as signals, without_raylet_messages():
        try:
            yield signals
        finally:
            if mine:
                ray.shutdown()


def target_of(address: str | None) -> str:
    """What is given to Ray as address; "local" for a Ray that is started here."""
    if address is not None and not address.strip():
        raise InvalidValue("--address is empty: write host:port or auto, or leave it out to start Ray on this machine.")
    return address or os.environ.get("RAY_ADDRESS") or "local"


def joins(address: str | None) -> bool:
    """Whether `ray_session` will join a cluster: it is neither started here nor was joined before."""
    import ray

    return target_of(address) != "local" and not ray.is_initialized()


@contextlib.contextmanager
def without_raylet_messages() -> Iterator[None]:
    """Keep Ray's accounts of dead workers and nodes off the screen, which `log_to_driver=False` does not."""
    import ray

    module: Any = ray._private.worker
    name = "_worker_logs_enabled"  # private, so it may go away: then Ray is talkative
    before = getattr(module, name, None)
    if before is not None:
        setattr(module, name, False)
    try:
        yield
    finally:
        if before is not None:
            setattr(module, name, before)


def node_offers() -> list[NodeOffer]:
    """What every live node has; one that is being drained, since it is about to be taken away, is left out."""
    import ray

    try:
        leaving = ray._private.state.state.get_draining_nodes()
    except (AttributeError, RuntimeError):  # private, so it may go away: then it counts until it is gone
        leaving = {}
    return [
        NodeOffer(str(n["NodeID"]), str(n["NodeManagerHostname"]), dict(n["Resources"]), dict(n.get("Labels") or {}))
        for n in ray.nodes()
        if n["Alive"] and n["NodeID"] not in leaving
    ]


def possible_kinds() -> tuple[NodeKind, ...] | None:
    """What kinds of node the autoscaler may add; None without one, or where that cannot be told.

    A Ray that this process has started has none, whatever files lie here.
    $ORCHESTRATOR_CLUSTER_FILE names a cluster file that says it. Else Ray has a record of its cluster's configuration,
    which is private and which not every provider fills. Else the file that `ray up` has left on the head says it, if
    the driver runs there.

    Raises:
        InvalidValue: the file that the variable names cannot be read.
    """
    import ray

    if getattr(getattr(ray._private.worker, "_global_node", None), "head", False):
        return None
    if named := os.environ.get("ORCHESTRATOR_CLUSTER_FILE"):
        return read_cluster_file(named).kinds
    try:
        config = ray._private.state.state.get_cluster_config()
    except (AttributeError, RuntimeError):
        config = None
    if config is not None and config.node_group_configs:
        return tuple(
            NodeKind(group.name, dict(group.resources), group.min_count, _bounded(group.max_count))
            for group in config.node_group_configs
        )
    left = Path.home() / "ray_bootstrap_config.yaml"
    head = ray.get_runtime_context().gcs_address.rpartition(":")[0]
    if not left.is_file() or head not in (ray.util.get_node_ip_address(), "127.0.0.1"):
        return None
    try:
        return read_cluster_file(left).kinds
    except InvalidValue:
        return None


def _bounded(count: int) -> int:
    """How many nodes a group may have; Ray says -1 where there is no bound."""
    return count if count >= 0 else MANY_NODES


@contextlib.contextmanager
def by_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a while; an empty value removes one."""
    before = {k: os.environ.get(k) for k in values}
    for name, value in values.items():
        if value:
            os.environ[name] = value
        else:
            os.environ.pop(name, None)
    try:
        yield
    finally:
        for name, old in before.items():
            if old is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = old
