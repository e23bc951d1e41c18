"""What is wrong with a manifest for KubeRay, offline: see `cluster_checks`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .cloud_keys import kuberay_complaints
from .cluster_file import quantity
from .cluster_problem import Problem, installed, label_problems, said, states
from .cluster_values import PLACEHOLDER, store_complaint
from .errors import InvalidValue


def kuberay_problems(documents: Sequence[Mapping[str, Any]], cluster: Mapping[str, Any]) -> Iterator[Problem]:
    """Of a manifest with a RayCluster or RayJob."""
    for document in documents:
        kind = document.get("kind")
        if kind in ("RayCluster", "RayJob"):
            if not isinstance(document.get("metadata") or {}, Mapping):
                yield Problem(str(kind), f"{kind}.metadata must be a mapping, not {document['metadata']!r}.")
            if document.get("apiVersion") != "ray.io/v1":
                yield Problem(str(kind), f"{kind}: apiVersion must be ray.io/v1, not {document.get('apiVersion')!r}.")
            yield from said(str(kind), kuberay_complaints(document.get("spec"), str(kind)), str(kind))
        if kind == "RayJob" and not states(document.get("spec") or {}, "entrypoint"):
            yield Problem("RayJob", "RayJob: spec.entrypoint is missing: name the command, such as a sweep.")
        yield from _exposed_by(document)
    spec = cluster["spec"]
    head = spec.get("headGroupSpec")
    groups = [group for group in spec.get("workerGroupSpecs") or [] if isinstance(group, Mapping)]
    if not isinstance(head, Mapping):
        return
    if head.get("enableIngress") or head.get("serviceType", "ClusterIP") != "ClusterIP":
        yield Problem(
            "headgroup",
            "headgroup: the dashboard is open outside the cluster: leave serviceType and enableIngress out, "
            "and use `kubectl port-forward`.",
        )
    pods = {"headgroup": head, **{str(group.get("groupName")): group for group in groups}}
    yield from _same_ray(spec, pods)
    by_operator = (spec.get("authOptions") or {}).get("mode") == "token"
    for name, group in pods.items():
        yield from label_problems(name, group.get("labels") or {})
        container = _container(group)
        if container is None:
            yield Problem(name, f"{name}: template.spec.containers is missing: the first container runs Ray.")
            continue
        env = {str(item.get("name")): item for item in container.get("env") or [] if isinstance(item, Mapping)}
        for wrong in [n for item in env.values() if not isinstance(n := item.get("name"), str)]:
            yield Problem(name, f"{name}: env: name must be text, not {wrong!r}.")
        by_hand = (env.get("RAY_AUTH_MODE") or {}).get("value") == "token" and {
            "RAY_AUTH_TOKEN",
            "RAY_AUTH_TOKEN_PATH",
        } & set(env)
        if not by_operator and not by_hand:
            yield Problem(
                name, f"{name}: no token is asked for: add authOptions: {{mode: token}} to the RayCluster's spec."
            )
        if "ORCHESTRATOR_STORE" not in env and name == "headgroup":
            yield Problem(name, f"{name}: env does not state ORCHESTRATOR_STORE, the place that all nodes reach.")
        yield from _store(name, group, container, (env.get("ORCHESTRATOR_STORE") or {}).get("value"))
        yield from _names(name, group)
        yield from _quantities(name, group, container)
        if not (
            group["template"]["spec"].get("serviceAccountName")
            or "AWS_ACCESS_KEY_ID" in env
            or container.get("envFrom")
        ):
            yield Problem(
                name, f"{name}: the pods have no rights to the store: add a serviceAccountName that may write there."
            )
        least, most = group.get("minReplicas", 0), group.get("maxReplicas", 0)
        if isinstance(least, int) and isinstance(most, int) and least > most:
            yield Problem(name, f"{name}: minReplicas ({least}) is larger than maxReplicas ({most}).")


def _container(group: Mapping[str, Any]) -> Mapping[str, Any] | None:
    try:
        container = group["template"]["spec"]["containers"][0]
    except (KeyError, IndexError, TypeError):
        return None
    return container if isinstance(container, Mapping) else None


def _store(name: str, group: Mapping[str, Any], container: Mapping[str, Any], store: Any) -> Iterator[Problem]:
    """A store that ends with the pod."""
    if store is None or PLACEHOLDER.search(str(store)):
        return
    fault = store_complaint(str(store))
    if fault is None and str(store).startswith(("/", "~")):
        volumes = {v.get("name"): v for v in group["template"]["spec"].get("volumes") or [] if isinstance(v, Mapping)}
        mounts = [m for m in container.get("volumeMounts") or [] if isinstance(m, Mapping)]
        below = [m for m in mounts if f"{store}/".startswith(f"{str(m.get('mountPath')).rstrip('/')}/")]
        if not any("emptyDir" not in volumes.get(m.get("name"), {}) for m in below):
            fault = "is a folder of the pod, and results go with it: write s3://bucket/prefix, or mount a shared volume"
    elif fault is not None and "relative" in fault:
        fault = "is a folder of the pod, and results go with it: write s3://bucket/prefix or gs://bucket/prefix"
    if fault is not None:
        yield Problem(name, f"{name}: ORCHESTRATOR_STORE {str(store)!r} {fault}.")


def _names(name: str, group: Mapping[str, Any]) -> Iterator[Problem]:
    """Names that Kubernetes refuses."""
    containers = [c for c in group["template"]["spec"].get("containers") or [] if isinstance(c, Mapping)]
    names = [("the container's name", c.get("name")) for c in containers] + [("groupName", group.get("groupName"))]
    for what, found in names:
        if found is not None and not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", str(found)):
            valid = re.sub(r"[^a-z0-9]+", "-", str(found).lower()).strip("-")
            close = f": write {valid}" if valid else ""
            yield Problem(
                name, f"{name}: {what} must be of lower-case letters, digits and '-', which {found!r} is not{close}."
            )


def _quantities(name: str, group: Mapping[str, Any], container: Mapping[str, Any]) -> Iterator[Problem]:
    asked = container.get("resources")
    asked = asked if isinstance(asked, Mapping) else {}
    places = {f"the container's resources.{key}": asked.get(key) for key in ("limits", "requests")}
    for place, amounts in {**places, "resources": group.get("resources")}.items():
        for resource, amount in (amounts if isinstance(amounts, Mapping) else {}).items():
            try:
                quantity(amount)
            except InvalidValue as error:
                yield Problem(name, f"{name}: {place}.{resource}: {error}")


def _exposed_by(document: Mapping[str, Any]) -> Iterator[Problem]:
    """Services and ingresses beside the cluster that open the dashboard."""
    spec = document.get("spec") or {}
    metadata = document.get("metadata")
    name = f"{document.get('kind')} {metadata.get('name') if isinstance(metadata, Mapping) else ''}".rstrip()
    ports = {8265, "8265", "dashboard"}
    if document.get("kind") == "Service" and spec.get("type") in ("LoadBalancer", "NodePort"):
        if any(ports & {port.get("port"), port.get("targetPort")} for port in spec.get("ports") or []):
            yield Problem(name, f"{name} opens the dashboard to the world: take port 8265 out of it.")
    if document.get("kind") == "Ingress" and "8265" in json.dumps(spec):
        yield Problem(name, f"{name} opens the dashboard to the world: take port 8265 out of it.")


def _same_ray(spec: Mapping[str, Any], pods: Mapping[str, Mapping[str, Any]]) -> Iterator[Problem]:
    here = installed("ray")
    stated = {"rayVersion": str(spec.get("rayVersion") or "")}
    for name, group in pods.items():
        image = str((_container(group) or {}).get("image") or "")
        tag = re.search(r":v?(\d+\.\d+\.\d+)[^/]*$", image)
        if tag and "ray" not in image:  # a number of one's own, unless it can be Ray's
            ours = stated["rayVersion"]
            if tag[1] != ours and tag[1].partition(".")[0] == ours.partition(".")[0]:
                yield Problem(
                    name, f"{name}: image {image} is tagged {tag[1]}, but rayVersion is {ours}: name one Ray in both."
                )
        elif tag:
            stated[f"{name}: image {image}"] = tag[1]
    if not stated["rayVersion"]:
        yield Problem(
            "rayVersion", "rayVersion is missing: state the Ray of the images, which token authentication needs."
        )
    for where, got in stated.items():
        if got and here is not None and got != here:
            yield Problem(where.partition(":")[0], f"{where} has Ray {got}, but here is {here}.")
