"""Versions, devices, store and cluster at a glance; or what is wrong with a cluster file.

A cluster file is checked without network and credentials: what is still to be filled in, keys that nobody reads,
workers without rights to the store, a dashboard open to the world, a missing token, another version of Ray.

examples:
  python -m orchestrator doctor
  python -m orchestrator doctor cluster.yaml
  python -m orchestrator doctor --address auto --store s3://bucket/prefix
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from ..cache import describe
from ..errors import UserError
from ..store import Store

PACKAGES = ("ray", "torch", "torchvision", "numpy", "pyarrow", "matplotlib", "scipy", "safetensors", "optuna")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", metavar="FILE", help="a cluster file to check, for `ray up` or KubeRay")
    parser.add_argument("--address", help="of a Ray cluster to look at; 'auto' finds this machine's")


def run(options: argparse.Namespace) -> int:
    if options.file is not None:
        return _look_at_file(options.file)
    sound = True
    _tell("python", platform.python_version())
    for package in PACKAGES:
        try:
            _tell(package, version(package))
        except PackageNotFoundError:
            optional = package == "optuna"
            _tell(package, "not installed" + (" (only for Optuna searches)" if optional else ""))
            sound = sound and optional
    _tell("cpus", str(os.cpu_count()))
    _tell("gpus", _gpus())
    store = Store(options.store)
    reached: Store | None = store
    try:
        store.check_writable()
        free = f", {shutil.disk_usage(store.local).free / 1e9:.1f} GB free" if store.local else ""
        _tell("store", f"{store}: writable, {sum(1 for _ in store.find(''))} artifacts{free}")
        if store.local is None:
            _tell("cache", describe())
    except UserError as error:
        _tell("store", str(error))
        sound, reached = False, None
    if options.address or os.environ.get("RAY_ADDRESS"):
        sound = _look_at_cluster(options.address, reached) and sound
    else:
        _tell("cluster", "none named: Ray would be started on this machine")
    return 0 if sound else 1


def _look_at_file(path: str) -> int:
    from ..cluster_checks import problems

    found = problems(path)
    for problem in found:
        print(problem)
    if found:
        print(f"{len(found)} {'problem' if len(found) == 1 else 'problems'} in {path}.")
        return 1
    _print_kinds(path)
    return 0


def _print_kinds(path: str) -> None:
    """The nodes that there may be, and what they cost."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from ..cluster_file import read_cluster_file

    try:
        file = read_cluster_file(path)
    except UserError as error:  # sound for Ray, which finds out by itself what its hosts have
        print(f"{path} is sound. {str(error).removeprefix(f'{path}: ')}")
        return
    table = Table(box=box.SIMPLE_HEAD, title=f"{path}: sound", title_justify="left")
    for name in ("nodes", "how many", "each has", "$ an hour"):
        table.add_column(name, justify="right" if name.startswith("$") else "left")
    for kind in file.kinds:
        count = str(kind.most) if kind.least == kind.most else f"{kind.least} to {kind.most}"
        price = "not stated" if kind.dollars is None else f"{kind.dollars:g}"
        table.add_row(f"{kind.name}{' (head)' if kind.head else ''}", count, _has(kind.resources), price)
    Console(highlight=False).print(table)
    print(f"At most {file.most_workers} nodes besides the head; one without work goes after {file.idle_minutes:g} min.")


def _has(resources: Mapping[str, float]) -> str:
    """What a node has, in words: 4 CPU, 1 GPU, 11 GB memory."""
    words = []
    for name, amount in resources.items():
        if name == "memory":
            words.append(f"{amount / 1e9:.0f} GB memory")
        elif name.startswith("accelerator_type:"):
            words.append(name.partition(":")[2])
        else:
            words.append(f"{amount:g} {name}")
    return ", ".join(words)


def _tell(what: str, value: str) -> None:
    print(f"{what:12} {value}")


def _gpus() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none that torch can use"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{len(names)}: {', '.join(dict.fromkeys(names))}"


def _look_at_cluster(address: str | None, store: Store | None) -> bool:
    """The cluster and, a line each, its nodes, checked as before a run; whether all are sound."""
    from ..cluster import joins, node_offers, ray_session
    from ..node_watch import checked_nodes
    from ..shipping import local_code, shipment

    try:
        code = shipment(sweep=False) if joins(address) else None
        with ray_session(address, code):
            nodes = checked_nodes(store, node_offers, code or local_code())
    except UserError as error:
        _tell("cluster", str(error))
        return False
    totals = {k: sum(n.resources.get(k, 0) for n, _ in nodes) for k in ("CPU", "GPU")}
    _tell("cluster", f"{len(nodes)} nodes, {totals['CPU']:g} CPUs, {totals['GPU']:g} GPUs")
    for node, fault in nodes:
        has = _has({k: v for k, v in node.resources.items() if k in ("CPU", "GPU", "memory")})
        _tell("node", fault or f"{node.host} ({node.id[:8]}): {has}: sound")
    return all(fault is None for _, fault in nodes)
