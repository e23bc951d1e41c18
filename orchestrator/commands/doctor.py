"""Versions, devices, store and cluster at a glance.

examples:
  python -m orchestrator doctor
  python -m orchestrator doctor --address auto --store s3://bucket/prefix
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version

from ..errors import UserError
from ..store import Store

PACKAGES = ("ray", "torch", "torchvision", "numpy", "pyarrow", "matplotlib", "scipy", "safetensors", "optuna")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address", help="of a Ray cluster to look at; 'auto' finds this machine's")


def run(options: argparse.Namespace) -> int:
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
    try:
        store.check_writable()
        free = f", {shutil.disk_usage(store.local).free / 1e9:.1f} GB free" if store.local else ""
        _tell("store", f"{store}: writable, {sum(1 for _ in store.find(''))} artifacts{free}")
    except UserError as error:
        _tell("store", str(error))
        sound = False
    if options.address or os.environ.get("RAY_ADDRESS"):
        sound = _look_at_cluster(options.address) and sound
    else:
        _tell("cluster", "none named: Ray would be started on this machine")
    return 0 if sound else 1


def _tell(what: str, value: str) -> None:
    print(f"{what:12} {value}")


def _gpus() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none that torch can use"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{len(names)}: {', '.join(dict.fromkeys(names))}"


def _look_at_cluster(address: str | None) -> bool:
    from ..cluster import node_offers, ray_session

    try:
        with ray_session(address):
            nodes = node_offers()
    except UserError as error:
        _tell("cluster", str(error))
        return False
    totals = {k: sum(n.resources.get(k, 0) for n in nodes) for k in ("CPU", "GPU")}
    _tell("cluster", f"{len(nodes)} nodes, {totals['CPU']:g} CPUs, {totals['GPU']:g} GPUs")
    return True
