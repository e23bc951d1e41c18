"""Cluster files: what `ray up` and KubeRay read, as far as a plan and a check need it. No network, no Ray."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .cluster_yaml import ray_cluster, read_documents
from .errors import InvalidValue
from .instance_types import instance_type
from .slots import NodeKind

PRICE = "dollars-per-hour"
"""The label of a node type that states the price of one node for an hour."""

_FOR_TASKS = 0.7
"""The share of an AWS worker's memory that Ray offers as `memory`; the rest is for objects."""
_SUFFIXES = {"": 1, "m": 1e-3, **{s: 1000**i for i, s in enumerate("kMGTP", 1)}}
_SUFFIXES |= {f"{s}i": 1024**i for i, s in enumerate("KMGTP", 1)}


@dataclass(frozen=True)
class ClusterFile:
    """A cluster file that could be read; whether it makes sense is for `cluster_checks`.

    Attributes:
        path: of the file.
        name: of the cluster.
        provider: "aws", "gcp", "local" (hosts reached by SSH), "kuberay", or another of Ray's.
        kinds: of nodes, the head's first.
        most_workers: how many nodes there may be besides the head.
        idle_minutes: after which a node without work is let go.
    """

    path: Path
    name: str
    provider: str
    kinds: tuple[NodeKind, ...]
    most_workers: int
    idle_minutes: float


def read_cluster_file(path: str | Path) -> ClusterFile:
    """What a cluster file says of the nodes that there may be.

    Raises:
        InvalidValue: it cannot be read, or does not say what its nodes have.
    """
    path = Path(path)
    documents = read_documents(path)
    cluster = ray_cluster(documents)
    try:
        if cluster is not None:
            return _of_kuberay(path, cluster)
        config = documents[0]
        return _of_hosts(path, config) if provider_of(config) == "local" else _of_cloud(path, config)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, InvalidValue):
            raise
        raise InvalidValue(
            f"{path} does not say which nodes there may be ({type(error).__name__}: {error}): "
            f"see `python -m orchestrator doctor {path}`."
        ) from None


def provider_of(config: Mapping[str, Any]) -> str:
    """`provider: type`; "" where there is none."""
    provider = config.get("provider")
    return str(provider.get("type") or "") if isinstance(provider, Mapping) else ""


# --- kinds of node ---------------------------------------------------------------------------------------------------


def _of_cloud(path: Path, config: Mapping[str, Any]) -> ClusterFile:
    most = int(config.get("max_workers", 2))
    head_type = config["head_node_type"]
    kinds = []
    for name, node_type in config["available_node_types"].items():
        head = name == head_type
        labels = node_type.get("labels") or {}
        kinds.append(
            NodeKind(
                name=name,
                resources=_resources(path, provider_of(config), name, node_type, head),
                least=1 if head else int(node_type.get("min_workers", 0)),
                most=1 if head else min(int(node_type.get("max_workers", most)), most),
                labels=labels,
                dollars=_dollars(path, name, labels),
                head=head,
            )
        )
    idle = float(config.get("idle_timeout_minutes", 5))
    return ClusterFile(path, str(config["cluster_name"]), provider_of(config), _head_first(kinds), most, idle)


def _resources(path: Path, provider: str, name: str, node_type: Mapping[str, Any], head: bool) -> dict[str, float]:
    """What Ray will offer of a node: as stated, over what it finds out of the instance type."""
    stated = {str(k): float(v) for k, v in (node_type.get("resources") or {}).items()}
    machine = (node_type.get("node_config") or {}).get("InstanceType")
    known = instance_type(str(machine)) if provider == "aws" else None
    if known is None and "CPU" not in stated:
        of = f" is of type {machine!r}, which is not known here, and" if machine else ""
        raise InvalidValue(
            f"{path}: the node type {name!r}{of} does not state what a node has: "
            f"add, for example, resources: {{CPU: 8, GPU: 1}}."
        )
    found: dict[str, float] = {}
    if known is not None:
        found["CPU"] = known.cpus
        if not head:
            found["memory"] = int(known.memory * _FOR_TASKS)
        if known.gpus:
            found |= {"GPU": known.gpus, f"accelerator_type:{known.accelerator}": 1}
    return found | stated


def _of_hosts(path: Path, config: Mapping[str, Any]) -> ClusterFile:
    """Hosts reached by SSH: what they have stands in the flags of `ray start`."""
    provider = config["provider"]
    hosts = list(provider["worker_ips"])
    most = min(int(config.get("max_workers", len(hosts))), len(hosts))
    kinds = []
    for name, key in (("head", "head_start_ray_commands"), ("worker", "worker_start_ray_commands")):
        flags = ray_start_flags(config.get(key) or [])
        if name == "worker" and not hosts:
            continue
        if "num-cpus" not in flags:
            raise InvalidValue(
                f"{path}: {key} does not state what a {name} has, so nothing can be planned: "
                f"add, for example, --num-cpus=8 --num-gpus=1 to `ray start`."
            )
        labels = _labels(flags.get("labels", ""))
        found = {"CPU": float(flags["num-cpus"]), **_custom(flags.get("resources", ""))}
        for flag, resource in (("num-gpus", "GPU"), ("memory", "memory")):
            if flag in flags:
                found[resource] = float(flags[flag])
        head = name == "head"
        least = 1 if head else min(int(config.get("min_workers", len(hosts))), most)
        kinds.append(NodeKind(name, found, least, 1 if head else most, labels, _dollars(path, name, labels), head))
    idle = float(config.get("idle_timeout_minutes", 5))
    return ClusterFile(path, str(config["cluster_name"]), "local", tuple(kinds), most, idle)


def ray_start_flags(commands: Sequence[Any]) -> dict[str, str]:
    """The flags of the `ray start` among shell commands, without their dashes; "" for those without a value."""
    for command in commands:
        for words in _simple_commands(str(command)):
            if words[:2] != ["ray", "start"]:
                continue
            flags: dict[str, str] = {}
            rest = words[2:]
            for i, word in enumerate(rest):
                if word.startswith("--"):
                    name, equals, value = word[2:].partition("=")
                    follows = i + 1 < len(rest) and not rest[i + 1].startswith("-")
                    flags[name] = value if equals else rest[i + 1] if follows else ""
            return flags
    return {}


def _simple_commands(line: str) -> Iterator[list[str]]:
    """The words of each command of a shell line, without assignments before it, `exec`, `nohup` and `sudo`."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|\n")
    lexer.whitespace = " \t\r"
    lexer.whitespace_split = True
    lexer.commenters = "#"
    words: list[str] = []
    try:
        tokens = [*lexer, ";"]
    except ValueError:  # a quote that is never closed: the shell will say so
        return
    for token in tokens:
        if token.strip(";&|\n"):
            words.append(token)
            continue
        while words and (words[0] in ("exec", "nohup", "sudo", "env") or re.match(r"[A-Za-z_]\w*=", words[0])):
            words.pop(0)
        if words:
            yield words
        words = []


def _of_kuberay(path: Path, cluster: Mapping[str, Any]) -> ClusterFile:
    spec = cluster["spec"]
    scales = bool(spec.get("enableInTreeAutoscaling"))
    kinds = []
    for group in [spec["headGroupSpec"], *(spec.get("workerGroupSpecs") or [])]:
        head = group is spec["headGroupSpec"]
        name = "headgroup" if head else str(group["groupName"])
        hosts = int(group.get("numOfHosts", 1))
        replicas = int(group.get("replicas", group.get("minReplicas", 0)))
        least, most = (
            (int(group["minReplicas"]) * hosts, int(group["maxReplicas"]) * hosts)
            if scales and not head
            else (replicas * hosts, replicas * hosts)
        )
        labels = group.get("labels") or {}
        found = _of_group(path, name, group)
        kinds.append(
            NodeKind(name, found, 1 if head else least, 1 if head else most, labels, _dollars(path, name, labels), head)
        )
    idle = (spec.get("autoscalerOptions") or {}).get("idleTimeoutSeconds", 60) / 60
    name = str(cluster["metadata"].get("name") or cluster["metadata"].get("generateName") or "")
    return ClusterFile(path, name, "kuberay", tuple(kinds), sum(k.most for k in kinds if not k.head), idle)


def _of_group(path: Path, name: str, group: Mapping[str, Any]) -> dict[str, float]:
    """What Ray offers of a pod: the group's `resources` over `rayStartParams` over the container's limits."""
    stated = group.get("resources") or {}
    flags = group.get("rayStartParams") or {}
    asked = group["template"]["spec"]["containers"][0].get("resources") or {}
    limits = {**(asked.get("requests") or {}), **(asked.get("limits") or {})}
    gpus = next((v for k, v in limits.items() if k.endswith("/gpu")), None)
    found: dict[str, float] = {}
    for resource, flag, limit in (
        ("CPU", "num-cpus", limits.get("cpu")),
        ("GPU", "num-gpus", gpus),
        ("memory", "memory", limits.get("memory")),
    ):
        value = stated.get(resource, flags.get(flag, limit))
        if value is not None:
            found[resource] = math.ceil(quantity(value))
    if "CPU" not in found:
        raise InvalidValue(f"{path}: the group {name!r} states no CPUs: add limits: {{cpu: 8}} to its container.")
    custom = {k: quantity(v) for k, v in stated.items() if k not in ("CPU", "GPU", "memory")}
    return found | _custom(str(flags.get("resources") or "").strip('"').replace("\\", "")) | custom


def quantity(value: Any) -> float:
    """A Kubernetes quantity as a number: 8, "500m", "32Gi"."""
    found = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", str(value).strip())
    if found is None or found[2] not in _SUFFIXES:
        raise InvalidValue(f"{value!r} is no Kubernetes quantity such as 8, 500m or 32Gi.")
    return float(found[1]) * _SUFFIXES[found[2]]


def _custom(text: str) -> dict[str, float]:
    """`--resources '{"name": 1}'`."""
    return {str(k): float(v) for k, v in (yaml.safe_load(text) or {}).items()} if text else {}


def _labels(text: str) -> dict[str, str]:
    """`--labels a=b,c=d`."""
    return dict(part.strip().split("=", 1) for part in text.split(",") if "=" in part)


def _dollars(path: Path, name: str, labels: Mapping[str, Any]) -> float | None:
    if PRICE not in labels:
        return None
    try:
        dollars = float(labels[PRICE])
    except (TypeError, ValueError):
        dollars = math.nan
    if not 0 <= dollars < math.inf:
        raise InvalidValue(
            f'{path}: the label {PRICE} of {name!r} must be a price such as "1.01", not {labels[PRICE]!r}.'
        )
    return dollars


def _head_first(kinds: Sequence[NodeKind]) -> tuple[NodeKind, ...]:
    return tuple(sorted(kinds, key=lambda kind: not kind.head))
