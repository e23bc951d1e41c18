"""Which keys a cluster file may hold, by the clouds' own descriptions of their interfaces. No network."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .errors import nearest

Complaints = Iterator[tuple[str, str]]
"""(path inside what was checked, what is wrong there and what to write instead)."""

PROVIDER_KEYS: dict[str, tuple[set[str], set[str]]] = {
    "aws": (
        {"region"},
        {"availability_zone", "cache_stopped_nodes", "key_pair", "security_group", "aws_credentials", "cloudwatch"}
        | {"use_internal_ips", "use_external_head_ip"},
    ),
    "gcp": (
        {"project_id", "region", "availability_zone"},
        {"cache_stopped_nodes", "gcp_credentials", "use_internal_ips", "use_external_head_ip"},
    ),
    "local": (set(), {"head_ip", "external_head_ip", "worker_ips", "coordinator_address", "use_internal_ips"}),
}
"""By type of provider, the keys of `provider` that Ray requires, and those that it reads."""
_OF_ALL_PROVIDERS = {"type", "disable_node_updaters", "disable_launch_config_check", "foreground_node_launch"}
OTHER_PROVIDERS = {"azure", "aliyun", "vsphere", "spark", "external", "kuberay", "readonly", "fake_multinode"}
"""Types of provider whose keys are not checked."""


def provider_complaints(provider: Mapping[str, Any]) -> Complaints:
    """What Ray would not read, or would miss, in `provider`."""
    kind = str(provider.get("type"))
    if kind not in PROVIDER_KEYS:
        if kind not in OTHER_PROVIDERS:
            known = sorted(PROVIDER_KEYS)
            yield "type", f"must be one of {', '.join(known)}, not {kind!r}{nearest(kind, known)}"
        return
    required, read = PROVIDER_KEYS[kind]
    for key in sorted(required - {k for k, v in provider.items() if v is not None}):
        yield key, f"is missing: {kind} needs it"
    yield from _unknown(provider, required | read | _OF_ALL_PROVIDERS)
    if kind == "local" and "coordinator_address" not in provider:
        for key in ("head_ip", "worker_ips"):
            if key not in provider:
                yield key, "is missing: name the hosts that Ray shall reach by SSH"


def _unknown(found: Mapping[str, Any], known: Collection[str]) -> Complaints:
    for key in found:
        if key not in known:
            yield str(key), f"is not known{nearest(str(key), known) or f': known are {_some(known)}'}"


def _some(known: Collection[str]) -> str:
    names = sorted(known)
    return ", ".join(names[:12]) + (", …" if len(names) > 12 else "")


# --- AWS -------------------------------------------------------------------------------------------------------------

_SET_BY_RAY = {"MinCount", "MaxCount"}


def aws_complaints(node_config: Mapping[str, Any]) -> Complaints | None:
    """What EC2's RunInstances would refuse in a `node_config`; None where botocore, which knows, is not installed."""
    if find_spec("botocore") is None:
        return None
    from botocore.loaders import Loader
    from botocore.model import ServiceModel

    model = ServiceModel(Loader().load_service_model("ec2", "service-2"), "ec2")
    shape = model.operation_model("RunInstances").input_shape
    return _against_shape({k: v for k, v in node_config.items() if k != "SubnetIds"}, shape, "", {"SubnetIds"})


def _against_shape(value: Any, shape: Any, path: str, more: Collection[str] = ()) -> Complaints:
    """`SubnetIds` is Ray's own: it chooses one of them."""
    dot = f"{path}." if path else ""
    kind = shape.type_name
    if kind == "structure":
        if not isinstance(value, Mapping):
            yield path, f"must be a mapping with {_some(shape.members)}, not {value!r}"
            return
        for key, inside in value.items():
            if key in shape.members and key not in _SET_BY_RAY:
                yield from _against_shape(inside, shape.members[key], f"{dot}{key}")
            elif key in _SET_BY_RAY and not path:
                yield str(key), "is set by Ray: leave it out, and state min_workers and max_workers of the node type"
            else:
                known = [*shape.members, *more]
                yield f"{dot}{key}", f"is not known to EC2{nearest(str(key), known) or f': known are {_some(known)}'}"
    elif kind == "list":
        if not isinstance(value, list):
            yield path, f"must be a list, not {value!r}"
            return
        for i, item in enumerate(value):
            yield from _against_shape(item, shape.member, f"{path}[{i}]")
    elif kind == "string":
        if not isinstance(value, str):
            yield path, f"must be text, not {value!r}"
        elif shape.enum and value not in shape.enum and not value.startswith("FILL-IN"):
            close = nearest(value, shape.enum)
            yield path, f"must not be {value!r}{close or f': EC2 knows {_some(shape.enum)}'}"
    elif kind in ("integer", "long") and (isinstance(value, bool) or not isinstance(value, int)):
        yield path, f"must be a whole number, not {value!r}"
    elif kind == "boolean" and not isinstance(value, bool):
        yield path, f"must be true or false, not {value!r}"


# --- GCP -------------------------------------------------------------------------------------------------------------


def gcp_complaints(node_config: Mapping[str, Any]) -> Complaints | None:
    """What Compute Engine would refuse in a `node_config`; None where its description is not installed.

    TPUs are not checked.
    """
    if {"acceleratorType", "acceleratorConfig"} & set(node_config):
        return iter(())
    spec = find_spec("googleapiclient")
    if spec is None or spec.origin is None:
        return None
    described = Path(spec.origin).parent / "discovery_cache/documents/compute.v1.json"
    schemas = json.loads(described.read_text(encoding="utf-8"))["schemas"]
    return _against_schema(node_config, {"$ref": "Instance"}, schemas, "")


def _against_schema(value: Any, schema: Mapping[str, Any], schemas: Mapping[str, Any], path: str) -> Complaints:
    schema = schemas[schema["$ref"]] if "$ref" in schema else schema
    dot = f"{path}." if path else ""
    known = schema.get("properties")
    if path == "scheduling" and isinstance(value, list):  # as in Ray's own examples
        for item in value:
            yield from _against_schema(item, schema, schemas, path)
    elif schema.get("type") == "object":
        if not isinstance(value, Mapping):
            yield path, f"must be a mapping, not {value!r}"
            return
        for key, inside in value.items():
            if known is None:  # free names, such as labels
                continue
            if key in known:
                yield from _against_schema(inside, known[key], schemas, f"{dot}{key}")
            else:
                close = nearest(str(key), known) or f": known are {_some(known)}"
                yield f"{dot}{key}", f"is not known to Compute Engine{close}"
    elif schema.get("type") == "array":
        if not isinstance(value, list):
            yield path, f"must be a list, not {value!r}"
            return
        for i, item in enumerate(value):
            yield from _against_schema(item, schema["items"], schemas, f"{path}[{i}]")
    elif schema.get("type") == "boolean" and not isinstance(value, bool):
        yield path, f"must be true or false, not {value!r}"
    elif schema.get("type") == "integer" and (isinstance(value, bool) or not str(value).isdecimal()):
        yield path, f"must be a whole number, not {value!r}"
    elif schema.get("enum") and value not in schema["enum"]:
        yield path, f"must be one of {_some(schema['enum'])}, not {value!r}{nearest(str(value), schema['enum'])}"


# --- KubeRay ---------------------------------------------------------------------------------------------------------

_TEXT, _WHOLE, _FLAG = "text", "a whole number", "true or false"
_CHECKS: dict[str, Callable[[Any], bool]] = {
    _TEXT: lambda v: isinstance(v, str),
    _WHOLE: lambda v: isinstance(v, int) and not isinstance(v, bool),
    _FLAG: lambda v: isinstance(v, bool),
    "a number": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
    "a mapping": lambda v: isinstance(v, Mapping),
    "a mapping of text": lambda v: isinstance(v, Mapping) and all(isinstance(x, str) for x in v.values()),
    "a list": lambda v: isinstance(v, list),
}
_GROUP = {
    "rayStartParams": "a mapping of text",
    "resources": "a mapping of text",
    "labels": "a mapping of text",
    "template": "a mapping",
}
KUBERAY: dict[str, dict[str, Any]] = {
    "RayCluster": {
        "headGroupSpec": "HeadGroup",
        "workerGroupSpecs": ["WorkerGroup"],
        "rayVersion": _TEXT,
        "enableInTreeAutoscaling": _FLAG,
        "autoscalerOptions": "AutoscalerOptions",
        "authOptions": "AuthOptions",
        "gcsFaultToleranceOptions": "a mapping",
        "headServiceAnnotations": "a mapping of text",
        "upgradeStrategy": "a mapping",
        "managedBy": _TEXT,
        "suspend": _FLAG,
    },
    "HeadGroup": {**_GROUP, "serviceType": _TEXT, "headService": "a mapping", "enableIngress": _FLAG},
    "WorkerGroup": {
        **_GROUP,
        "groupName": _TEXT,
        **dict.fromkeys(("replicas", "minReplicas", "maxReplicas", "numOfHosts", "idleTimeoutSeconds"), _WHOLE),
        "priority": _WHOLE,
        "scaleStrategy": "a mapping",
        "suspend": _FLAG,
    },
    "AutoscalerOptions": {
        "resources": "a mapping",
        "image": _TEXT,
        "imagePullPolicy": _TEXT,
        "securityContext": "a mapping",
        "idleTimeoutSeconds": _WHOLE,
        "upscalingMode": _TEXT,
        "version": _TEXT,
        **dict.fromkeys(("env", "envFrom", "volumeMounts"), "a list"),
    },
    "AuthOptions": {"mode": _TEXT, "enableK8sTokenAuth": _FLAG},
    "RayJob": {
        "entrypoint": _TEXT,
        "rayClusterSpec": "RayCluster",
        "clusterSelector": "a mapping of text",
        "runtimeEnvYAML": _TEXT,
        "jobId": _TEXT,
        "submissionMode": _TEXT,
        "submitterPodTemplate": "a mapping",
        "submitterConfig": "a mapping",
        "metadata": "a mapping of text",
        "entrypointResources": _TEXT,
        **dict.fromkeys(("entrypointNumCpus", "entrypointNumGpus"), "a number"),
        **dict.fromkeys(("activeDeadlineSeconds", "preRunningDeadlineSeconds"), _WHOLE),
        **dict.fromkeys(("backoffLimit", "ttlSecondsAfterFinished"), _WHOLE),
        "shutdownAfterJobFinishes": _FLAG,
        "deletionStrategy": "a mapping",
        "managedBy": _TEXT,
        "suspend": _FLAG,
    },
}
"""Fields of KubeRay's objects (ray.io/v1, KubeRay 1.5 and 1.6) with what they hold; pods are Kubernetes's."""
_REQUIRED = {"RayCluster": ["headGroupSpec"], "HeadGroup": ["template"], "WorkerGroup": ["groupName", "template"]}
_REQUIRED["WorkerGroup"] += ["minReplicas", "maxReplicas"]


def kuberay_complaints(spec: Any, kind: str, path: str = "spec") -> Complaints:
    """What is unknown, missing, or of another type in the spec of a RayCluster or RayJob."""
    if not isinstance(spec, Mapping):
        yield path, f"must be a mapping, not {spec!r}"
        return
    fields = KUBERAY[kind]
    for key in _REQUIRED.get(kind, []):
        if key not in spec:
            yield f"{path}.{key}", "is missing"
    for key, value in spec.items():
        if key not in fields:
            close = nearest(str(key), fields) or f": known are {_some(fields)}"
            yield f"{path}.{key}", f"is not known to KubeRay{close}"
            continue
        holds = fields[key]
        if isinstance(holds, list):
            if isinstance(value, list):
                for i, item in enumerate(value):
                    yield from kuberay_complaints(item, holds[0], f"{path}.{key}[{i}]")
            else:
                yield f"{path}.{key}", f"must be a list, not {value!r}"
        elif holds in KUBERAY:
            yield from kuberay_complaints(value, holds, f"{path}.{key}")
        elif not _CHECKS[holds](value):
            yield f"{path}.{key}", f"must be {holds}, not {value!r}"
