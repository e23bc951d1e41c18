"""What is wrong with a cluster file, found before it costs anything: offline, without credentials.

`ray up` itself says little: keys that it does not know it passes over, and what a cloud refuses it learns when nodes
are due. Ray is imported only for a file in which nothing else is wrong.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from .cloud_keys import aws_complaints, gcp_complaints, provider_complaints
from .cluster_file import provider_of, ray_start_flags, read_cluster_file
from .cluster_problem import Problem, installed, label_problems, said, states
from .cluster_values import (
    PLACEHOLDER,
    aws_place_complaints,
    aws_value_complaints,
    command_complaints,
    gcp_place_complaints,
    gcp_value_complaints,
    host_complaints,
    scheme_of,
    store_complaint,
    store_complaints,
    stores_of,
)
from .cluster_yaml import forgotten, ray_cluster, read_documents
from .errors import InvalidValue, nearest
from .kuberay_checks import kuberay_problems

_WORLD = {"0.0.0.0/0", "::/0"}
_MADE_BY_USE = (".git", ".venv", "artifacts", "data")
"""What lies in a project's folder and is no part of it."""


def problems(path: str | Path) -> list[Problem]:
    """All that is found to be wrong with a cluster file; [] means that `ray up`, or KubeRay, should take it."""
    path = Path(path)
    try:
        documents = read_documents(path)
    except InvalidValue as error:
        return [Problem("", str(error))]
    found = [*_unfilled(path, documents)]
    found += _forgotten(path)
    if any(not PLACEHOLDER.search(problem.place) for problem in found):
        return found
    cluster = ray_cluster(documents)
    found += kuberay_problems(documents, cluster) if cluster is not None else _of_ray_up(documents[0])
    if not any(not PLACEHOLDER.search(problem.place) for problem in found):
        found += _of_ray_itself(documents, cluster)
    if not found and not _detects(documents[0]):
        try:
            read_cluster_file(path)
        except InvalidValue as error:
            found.append(Problem("", str(error).removeprefix(f"{path}: ")))
    return _together(found)


def _together(found: Sequence[Problem]) -> list[Problem]:
    """What is wrong in the same way with several node types, as types that take it from each other are, in one."""
    places: dict[str, list[str]] = {}
    for problem in found:
        places.setdefault(problem.sentence.removeprefix(f"{problem.place}: "), []).append(problem.place)
    joined = []
    for what, names in places.items():
        *more, last = dict.fromkeys(names)
        of = f"{', '.join(more)} and {last}" if more else last
        whole = Problem(last, f"{last}: {what}") in found
        joined.append(Problem(names[0], f"{of}: {what}" if whole else what))
    return joined


def _detects(config: Mapping[str, Any]) -> bool:
    """Whether the nodes are hosts whose resources Ray may find out by itself: sound, though nothing can be planned."""
    return provider_of(config) == "local"


def _unfilled(path: Path, documents: Sequence[Any]) -> Iterator[Problem]:
    names = {name for text in _texts(documents) for name in PLACEHOLDER.findall(text)}
    lines = [line.split(" #")[0] for line in path.read_text(encoding="utf-8").splitlines()]
    stands = {n: [i for i, line in enumerate(lines, 1) if n in PLACEHOLDER.findall(line)] for n in names}
    for name in sorted(names, key=lambda n: (stands[n], n)):
        *more, last = map(str, stands[name] or [0])
        where = f"Lines {', '.join(more)} and {last}" if more else f"Line {last}"
        yield Problem(name, f"{where}: {name} is still to be filled in.")


def _forgotten(path: Path) -> Iterator[Problem]:
    """Values that were forgotten: whatever else is wrong may follow from them."""
    for place, line, shared in forgotten(path.read_text(encoding="utf-8")):
        remedy = "write its value" if shared else "write its value, or take the line out where none is needed"
        taken = ", and other places take it from there" if shared else ""
        yield Problem(place, f"Line {line}: {place} is empty{taken}: {remedy}.")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inside in value.items():
            yield from _texts(key)
            yield from _texts(inside)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


# --- files for `ray up` ----------------------------------------------------------------------------------------------


def _of_ray_up(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Of a file for `ray up`. What the file leaves out, Ray fills in, so that is checked too."""
    provider = config.get("provider")
    if not isinstance(provider, Mapping):
        yield Problem("provider", "provider must be a mapping with a type, such as {type: aws, region: us-east-1}.")
        return
    yield from said("provider", provider_complaints(provider), "provider")
    places = {"aws": aws_place_complaints, "gcp": gcp_place_complaints}.get(provider_of(config))
    if places is not None:
        yield from said("provider", places(provider), "provider")
    broken = list(_against_ray_schema(config))
    yield from broken
    if broken:
        return
    missing = [key for key in _STARTS.values() if key not in config]
    for key in missing:
        yield Problem(key, f"{key} is missing: Ray's own asks for no token, and opens the dashboard to the network.")
    whole = {**_defaults(provider_of(config)), **config}
    checks: list[Callable[[Mapping[str, Any]], Iterator[Problem]]] = [_node_types]
    checks += [] if missing else [_starts, _token, _dashboard]
    checks += [_commands, _hosts, _packages, _mounts, _key, _rights]
    for check in checks:
        yield from check(whole)


def _ray_folder() -> Path | None:
    spec = find_spec("ray")
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def _against_ray_schema(config: Mapping[str, Any]) -> Iterator[Problem]:
    folder = _ray_folder()
    if folder is None:
        return
    import jsonschema

    schema = json.loads((folder / "autoscaler/ray-schema.json").read_text(encoding="utf-8"))
    for error in sorted(jsonschema.Draft7Validator(schema).iter_errors(config), key=lambda e: list(map(str, e.path))):
        where = ".".join(map(str, error.path))
        place = str(error.path[1]) if len(error.path) > 1 and error.path[0] == "available_node_types" else where
        if error.validator == "additionalProperties":
            known = error.schema.get("properties", {})
            for key in [k for k in error.instance if k not in known]:
                inside = error.instance[key]
                if not where and isinstance(inside, Mapping) and {"node_config", "resources"} & set(inside):
                    yield Problem(
                        str(key),
                        f"{key} looks like a node type: indent it so that it stands below available_node_types.",
                    )
                    continue
                dot = f"{where}.{key}" if where else str(key)
                yield Problem(place, f"{dot} is not known to Ray{nearest(str(key), known) or ': take it out'}.")
        elif error.validator == "required":
            missing = [k for k in error.validator_value if k not in error.instance]
            yield Problem(place, f"{where or 'The file'} must state {' and '.join(missing)}.")
        elif error.validator == "type":
            wanted = {"integer": "a whole number", "object": "a mapping", "array": "a list", "string": "text"}
            kind = wanted.get(str(error.validator_value), error.validator_value)
            listed = f": write [{error.instance}]" if kind == "a list" and isinstance(error.instance, str) else ""
            yield Problem(place, f"{where} must be {kind}, not {error.instance!r}{listed}.")
        else:
            yield Problem(place, f"{where} is not valid: {error.message}.")


def _defaults(provider: str) -> dict[str, Any]:
    folder = _ray_folder()
    path = folder / f"autoscaler/{provider}/defaults.yaml" if folder is not None else None
    return dict(yaml.safe_load(path.read_text(encoding="utf-8"))) if path is not None and path.exists() else {}


def _workers(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    types = config.get("available_node_types") or {}
    return {name: kind for name, kind in types.items() if name != config.get("head_node_type")}


def _node_types(config: Mapping[str, Any]) -> Iterator[Problem]:
    provider = provider_of(config)
    types = config.get("available_node_types") or {}
    if provider == "local":
        if types:
            yield Problem(
                "available_node_types",
                "available_node_types is not for hosts reached by SSH: state what they have by flags of `ray start`.",
            )
        return
    head = config.get("head_node_type")
    if head not in types:
        yield Problem(
            "head_node_type",
            f"head_node_type must be one of {', '.join(types)}, not {head!r}{nearest(str(head), types)}.",
        )
    if config.get("max_workers") == 0 or all(kind.get("max_workers") == 0 for n, kind in types.items() if n != head):
        yield Problem("max_workers", "max_workers is 0, so there would be no workers: write how many there may be.")
        return
    least = sum(kind.get("min_workers", 0) for kind in types.values())
    if least > config.get("max_workers", 0):
        yield Problem("max_workers", f"max_workers is {config.get('max_workers')}, but the node types want {least}.")
    for name, kind in types.items():
        most = kind.get("max_workers", config.get("max_workers", 0))
        if name != head and kind.get("min_workers", 0) > most:
            yield Problem(name, f"{name}: min_workers ({kind['min_workers']}) is larger than max_workers ({most}).")
        yield from label_problems(name, kind.get("labels") or {})
        yield from _node_config(provider, name, kind, config)


def _node_config(provider: str, name: str, kind: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[Problem]:
    node_config = kind["node_config"]
    known = {"aws": aws_complaints, "gcp": gcp_complaints}.get(provider)
    if known is None:
        return
    complaints = known(node_config)
    if complaints is None:
        package = {"aws": ".[cluster]", "gcp": ".[gcp]"}[provider]
        yield Problem(name, f"{name}: node_config cannot be checked: install '{package}' with pip.")
        return
    yield from said(name, complaints, f"{name}: node_config")
    values = {"aws": aws_value_complaints, "gcp": gcp_value_complaints}[provider]
    yield from said(name, values(node_config), f"{name}: node_config")
    if provider == "aws":
        if not states(node_config, "InstanceType") and "LaunchTemplate" not in node_config:
            yield Problem(name, f"{name}: node_config does not state an InstanceType, such as g5.xlarge.")
        if (config.get("auth") or {}).get("ssh_private_key") and not {"KeyName", "UserData"} & set(node_config):
            yield Problem(name, f"{name}: node_config needs the KeyName of auth.ssh_private_key, or nobody can log in.")
    elif node_config.get("guestAccelerators") or re.match(r"(a[2-4]|g[24])-", str(node_config.get("machineType"))):
        scheduling = node_config.get("scheduling") or {}
        parts = scheduling if isinstance(scheduling, list) else [scheduling]
        if not any(part.get("onHostMaintenance") == "TERMINATE" for part in parts if isinstance(part, Mapping)):
            yield Problem(
                name, f"{name}: Compute Engine refuses GPUs without scheduling: {{onHostMaintenance: TERMINATE}}."
            )
        if not (kind.get("resources") or {}).get("GPU"):
            yield Problem(name, f"{name}: resources does not state the GPUs, so Ray would never ask for this type.")


_STARTS = {"head": "head_start_ray_commands", "worker": "worker_start_ray_commands"}


def _starts(config: Mapping[str, Any]) -> Iterator[Problem]:
    for role, key in _STARTS.items():
        flags = ray_start_flags(config.get(key) or [])
        if not flags:
            yield Problem(key, f"{key} has no `ray start`.")
        elif role == "head" and "head" not in flags:
            yield Problem(key, f"{key} starts no head: add --head to `ray start`.")
        elif role == "head" and "autoscaling-config" not in flags:
            yield Problem(
                key, f"{key} adds no workers: give `ray start` --autoscaling-config=~/ray_bootstrap_config.yaml."
            )
        elif role == "worker" and "address" not in flags:
            yield Problem(key, f"{key} joins no cluster: give `ray start` --address=$RAY_HEAD_IP:6379.")
    if provider_of(config) == "local" and not _sets(config, "head", "RAY_enable_autoscaler_v2", "0"):
        yield Problem(
            _STARTS["head"],
            "head_start_ray_commands must export RAY_enable_autoscaler_v2=0: Ray's newer autoscaler adds no SSH hosts.",
        )


def _sets(config: Mapping[str, Any], role: str, name: str, value: str) -> bool:
    """Whether the nodes of a role are started with an environment variable."""
    docker = config.get("docker") or {}
    options = [*(docker.get("run_options") or []), *(docker.get(f"{role}_run_options") or [])]
    texts = [*(config.get(_STARTS[role]) or []), *options]
    return any(re.search(rf"\b{name}=['\"]?{value}\b", str(text)) for text in texts)


def _commands(config: Mapping[str, Any]) -> Iterator[Problem]:
    for key, what in command_complaints(config):
        yield Problem(key, f"{key} {what}.")
    for sentence in store_complaints(config):
        yield Problem("setup_commands", sentence)


def _hosts(config: Mapping[str, Any]) -> Iterator[Problem]:
    if provider_of(config) == "local":
        yield from said("provider", host_complaints(config), "")


def _token(config: Mapping[str, Any]) -> Iterator[Problem]:
    for role, key in _STARTS.items():
        if not _sets(config, role, "RAY_AUTH_MODE", "token"):
            yield Problem(
                key,
                f"{key} does not export RAY_AUTH_MODE=token: whoever reaches the {role} could run commands.",
            )
    mounts = config.get("file_mounts") or {}
    path_set = all(_sets(config, role, "RAY_AUTH_TOKEN_PATH", r"\S+") for role in _STARTS)
    if not any(str(remote).endswith(".ray/auth_token") for remote in mounts) and not path_set:
        yield Problem(
            "file_mounts",
            "file_mounts does not bring the token to the nodes: add ~/.ray/auth_token: ~/.ray/auth_token, "
            "which `ray get-auth-token --generate` makes.",
        )


def _dashboard(config: Mapping[str, Any]) -> Iterator[Problem]:
    key = _STARTS["head"]
    host = ray_start_flags(config.get(key) or []).get("dashboard-host", "127.0.0.1")
    if host not in ("127.0.0.1", "localhost", "::1"):
        yield Problem(
            key,
            f"{key} opens the dashboard to the network (--dashboard-host={host}): write --dashboard-host=127.0.0.1.",
        )
    group = (config.get("provider") or {}).get("security_group") or {}
    for rule in group.get("IpPermissions") or []:
        ranges = [
            r.get("CidrIp") or r.get("CidrIpv6") for r in [*rule.get("IpRanges", []), *rule.get("Ipv6Ranges", [])]
        ]
        if _WORLD & set(ranges) and rule.get("FromPort") != 22:
            ports = f"ports {rule.get('FromPort')} to {rule.get('ToPort')}"
            yield Problem(
                "provider", f"provider.security_group opens {ports} to the world: name your own addresses in CidrIp."
            )


def _packages(config: Mapping[str, Any]) -> Iterator[Problem]:
    """The nodes' Ray must be this one: drivers and jobs of another version are refused."""
    here = installed("ray")
    docker = config.get("docker") or {}
    texts = [docker.get(key) for key in ("image", "head_image", "worker_image")]
    lists = [config.get(f"{role}setup_commands") or [] for role in ("", "head_", "worker_")]
    texts += [command for commands in lists for command in commands]
    found: list[tuple[str, str]] = []
    for text in filter(None, texts):
        for pattern in (
            r"\bray(?:\[[\w,]*\])?==([\w.]+)",
            r"\bray-(\d[\w.]*?)-cp\d",
            r"\brayproject/ray[\w-]*:([\d.]+\d)",
        ):
            found += [(got, str(text)) for got in re.findall(pattern, str(text))]
        for name in re.findall(r"-(?:c|-constraint)[ =](\S+)", str(text)):
            constraints = _local(config, name)
            pinned = constraints and re.search(r"^ray==([\w.]+)", constraints.read_text(encoding="utf-8"), re.MULTILINE)
            if pinned:
                found.append((pinned[1], name))
    for got, where in found:
        if here is not None and got != here:
            yield Problem("setup_commands", f"The nodes would have Ray {got} ({_short(where)}), but here is {here}.")
    if not found and provider_of(config) != "local":
        yield Problem(
            "setup_commands",
            "setup_commands does not pin Ray: install with `-c constraints.txt`, or the nodes get another version.",
        )


def _local(config: Mapping[str, Any], name: str) -> Path | None:
    """A file that a command on the nodes names, as it lies here: by its mount, or relative to this folder."""
    for remote, local in (config.get("file_mounts") or {}).items():
        if str(remote).endswith(f"/{name.rpartition('/')[2]}") and Path(os.path.expanduser(str(local))).is_file():
            return Path(os.path.expanduser(str(local)))
    return Path(name) if Path(name).is_file() else None


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}…"


def _mounts(config: Mapping[str, Any]) -> Iterator[Problem]:
    excluded = [str(p).strip("/") for p in config.get("rsync_exclude") or []]
    for remote, local in (config.get("file_mounts") or {}).items():
        path = Path(os.path.expanduser(str(local)))
        if PLACEHOLDER.search(str(local)):
            continue
        if not path.exists():
            make = ": make it with `ray get-auth-token --generate`" if path.name == "auth_token" else ""
            yield Problem(
                "file_mounts", f"file_mounts: {str(local)!r} does not exist here{make or ': mount what does'}."
            )
            continue
        taken = [name for name in _MADE_BY_USE if path.is_dir() and (path / name).is_dir() and name not in excluded]
        if taken and (path / ".git").exists():
            yield Problem(
                "file_mounts",
                f"file_mounts: {remote} takes {' and '.join(taken)} along: mount what nodes need, folder by folder.",
            )


def _key(config: Mapping[str, Any]) -> Iterator[Problem]:
    """The private key that is logged in with: `ray up` would try for minutes with one that ssh passes over."""
    name = (config.get("auth") or {}).get("ssh_private_key")
    if name is None or PLACEHOLDER.search(str(name)):
        return
    path = Path(os.path.expanduser(str(name)))
    try:
        text, mode = path.read_bytes(), path.stat().st_mode
    except OSError as error:
        yield Problem("auth", f"auth.ssh_private_key: {str(name)!r} cannot be read ({error.strerror}).")
        return
    if b"PRIVATE KEY" not in text.split(b"\n", 1)[0]:
        yield Problem(
            "auth", f"auth.ssh_private_key: {str(name)!r} is no private key; its public half goes to the hosts."
        )
    elif mode & 0o077:
        yield Problem(
            "auth", f"auth.ssh_private_key: {str(name)!r} is open to others, and ssh refuses it: chmod 600 {name}."
        )


def _rights(config: Mapping[str, Any]) -> Iterator[Problem]:
    provider = provider_of(config)
    if provider not in ("aws", "gcp"):
        return
    stores = stores_of(config)
    schemes = {scheme for scheme in map(scheme_of, stores) if scheme}
    if not schemes and not any(map(store_complaint, stores)):
        of = {"aws": "s3", "gcp": "gs"}[provider]
        yield Problem(
            "setup_commands",
            f"The store {stores[0]!r} is a folder of each node, and goes with it: write {of}://bucket/prefix."
            if stores
            else f"No command exports ORCHESTRATOR_STORE={of}://bucket/prefix: "
            f"results need a place that all nodes reach.",
        )
    types = config.get("available_node_types") or {}
    if provider == "aws" and "s3" in schemes:
        profiles = [name for name, kind in types.items() if _has(kind, "IamInstanceProfile", "LaunchTemplate")]
        for name in _workers(config):
            if name not in profiles:
                yield Problem(
                    name, f"{name}: workers cannot write to S3: add IamInstanceProfile: {{Name: …}} to node_config."
                )
        head = config.get("head_node_type")
        if head in types and head not in profiles and profiles:
            yield Problem(
                str(head),
                f"{head}: the role that Ray makes for the head may not hand the workers' profile on (iam:PassRole): "
                f"add an IamInstanceProfile that may.",
            )
    if provider == "gcp" and "gs" in schemes:
        for name, kind in _workers(config).items():
            if not _has(kind, "serviceAccounts"):
                yield Problem(name, f"{name}: workers cannot write to the bucket: add serviceAccounts to node_config.")


def _has(kind: Mapping[str, Any], *keys: str) -> bool:
    return any(states(kind["node_config"], key) for key in keys)


# --- Ray's own word --------------------------------------------------------------------------------------------------


def _of_ray_itself(documents: Sequence[Mapping[str, Any]], cluster: Mapping[str, Any] | None) -> Iterator[Problem]:
    """What Ray's own preparation and validation reject; costs the import of Ray."""
    if _ray_folder() is None:
        yield Problem("", "Ray is not installed here, so its own check was left out: pip install 'ray[default]'.")
        return
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            if cluster is None:
                from ray.autoscaler._private.util import prepare_config, validate_config

                validate_config(prepare_config(copy.deepcopy(dict(documents[0]))))
            elif cluster["spec"].get("enableInTreeAutoscaling"):
                from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

                metadata = {"name": "cluster", "namespace": "default", **cluster["metadata"]}
                _derive_autoscaling_config_from_ray_cr({"metadata": metadata, "spec": copy.deepcopy(cluster["spec"])})
    except Exception as error:
        words = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        yield Problem("", f"Ray refuses the file: {words}.")
