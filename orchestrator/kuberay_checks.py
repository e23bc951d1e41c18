"""What is wrong with a manifest for KubeRay, offline: see `cluster_checks`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .cloud_keys import kuberay_complaints
from .cluster_problem import Problem, installed, label_problems, said


def kuberay_problems(documents: Sequence[Mapping[str, Any]], cluster: Mapping[str, Any]) -> Iterator[Problem]:
    """Of a manifest with a RayCluster or RayJob."""
    for document in documents:
        kind = document.get("kind")
        if kind in ("RayCluster", "RayJob"):
            if document.get("apiVersion") != "ray.io/v1":
                yield Problem(str(kind), f"{kind}: apiVersion must be ray.io/v1, not {document.get('apiVersion')!r}.")
            yield from said(str(kind), kuberay_complaints(document.get("spec"), str(kind)), str(kind))
        if kind == "RayJob" and not (document.get("spec") or {}).get("entrypoint"):
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
        env = {item.get("name"): item for item in container.get("env") or [] if isinstance(item, Mapping)}
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


def _exposed_by(document: Mapping[str, Any]) -> Iterator[Problem]:
    """Services and ingresses beside the cluster that open the dashboard."""
    spec = document.get("spec") or {}
    name = f"{document.get('kind')} {(document.get('metadata') or {}).get('name')}"
    ports = {8265, "8265", "dashboard"}
    if document.get("kind") == "Service" and spec.get("type") in ("LoadBalancer", "NodePort"):
        if any(ports & {port.get("port"), port.get("targetPort")} for port in spec.get("ports") or []):
            yield Problem(name, f"{name} opens the dashboard to the world: take port 8265 out of it.")
    if document.get("kind") == "Ingress" and "8265" in json.dumps(spec):
        yield Problem(name, f"{name} opens the dashboard to the world: take port 8265 out of it.")


def _same_ray(spec: Mapping[str, Any], pods: Mapping[str, Mapping[str, Any]]) -> Iterator[Problem]:
    here = installed("ray")
    said = {"rayVersion": str(spec.get("rayVersion") or "")}
    for name, group in pods.items():
        image = str((_container(group) or {}).get("image") or "")
        tag = re.search(r":v?(\d+\.\d+\.\d+)", image) if "ray" in image else None
        if tag:
            said[f"{name}: image {image}"] = tag[1]
    if not said["rayVersion"]:
        yield Problem(
            "rayVersion", "rayVersion is missing: state the Ray of the images, which token authentication needs."
        )
    for where, got in said.items():
        if got and here is not None and got != here:
            yield Problem(where.partition(":")[0], f"{where} has Ray {got}, but here is {here}.")
