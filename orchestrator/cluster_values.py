"""Which values a cluster file may hold: what no cloud, shell, bucket or network takes. No network, no Ray."""

from __future__ import annotations

import difflib
import ipaddress
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from .cloud_keys import Complaints
from .cluster_file import ray_start_flags
from .errors import nearest

PLACEHOLDER = re.compile(r"FILL-IN[A-Z0-9-]*")
MARKET = "ray.io/market-type"
COMMANDS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)
_STORE = re.compile(r"ORCHESTRATOR_STORE=['\"]?([^\s'\";]*)")
_OTHER_SCHEMES = {"abfs", "abfss", "file", "hdfs", "viewfs"}
"""Of stores that are not checked."""
_EXTRAS = {"s3": "s3", "gs": "gcs"}
"""By scheme of a store, the extra of the project that its nodes need."""


# --- labels ----------------------------------------------------------------------------------------------------------


def market_complaint(market: Any) -> str | None:
    """What is wrong with the label that tells spot nodes from others: which of them Ray asks for hangs on it."""
    if market in ("spot", "on-demand"):
        return None
    return f"must be spot or on-demand, not {market!r}{nearest(str(market), ['spot', 'on-demand'])}"


# --- commands --------------------------------------------------------------------------------------------------------


def command_complaints(config: Mapping[str, Any]) -> Complaints:
    """Commands that the nodes' shell would not understand: `ray up` says so when a node is paid for."""
    for key in COMMANDS:
        for number, command in enumerate(config.get(key) or [], 1):
            fault = shell_fault(str(command))
            if fault:
                text = " ".join(str(command).split())
                short = text if len(text) <= 60 else f"{text[:57]}…"
                yield key, f"has a command that is no valid shell (number {number}: {short}): {fault}"


@lru_cache(maxsize=512)
def shell_fault(command: str) -> str | None:
    """Why a shell would refuse a command; None where it is valid."""
    bash = shutil.which("bash")
    if bash is None:
        try:
            shlex.split(command, comments=True)
        except ValueError:
            return "a quote is not closed"
        return None
    done = subprocess.run([bash, "-n", "-c", command], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode == 0:
        return None
    said = done.stderr
    if quote := re.search(r"looking for matching .(.)'", said):
        return f"the quote {quote[1]} is not closed" if quote[1] in "'\"`" else f"{quote[1]} is missing"
    if token := re.search(r"near unexpected token .(.+)'", said):
        return (
            f"{token[1]!r} cannot stand where it does" if token[1] != "newline" else "something is missing at its end"
        )
    return (
        "it is not finished" if "end of file" in said else said.splitlines()[0].partition("line ")[2] or "see bash -n"
    )


# --- store -----------------------------------------------------------------------------------------------------------


def stores_of(config: Mapping[str, Any]) -> list[str]:
    """What the commands export as ORCHESTRATOR_STORE."""
    texts = [str(command) for key in COMMANDS for command in config.get(key) or []]
    docker = config.get("docker") or {}
    texts += [str(option) for key in docker if str(key).endswith("run_options") for option in docker[key] or []]
    return list(dict.fromkeys(store for text in texts for store in _STORE.findall(text)))


def scheme_of(store: str) -> str:
    """The scheme of a store, "s3" or "gs" for example, as it is usually written; "" of a folder."""
    scheme, colon, _ = store.partition("://")
    return {"gcs": "gs"}.get(scheme.lower(), scheme.lower()) if colon else ""


def store_complaint(store: str) -> str | None:
    """Why no store can be at an address, after its words; None where one can."""
    if PLACEHOLDER.search(store) or "$" in store:
        return None
    _, colon, rest = store.partition("://")
    if not colon:
        if store.startswith(("/", "~")):
            return None
        if found := re.fullmatch(r"(s3|gs):/*(.+)", store):
            return f"has not two slashes: write {found[1]}://{found[2]}"
        return (
            "is relative, so every node would have its own: write s3://bucket/prefix or a folder that all nodes share"
        )
    scheme = scheme_of(store)
    if scheme not in ("s3", "gs"):
        return None if scheme in _OTHER_SCHEMES else f"is of no known kind: write s3://{rest} or gs://{rest}"
    bucket = rest.split("/")[0].split("?")[0]
    allowed = "a-z0-9._-" if scheme == "gs" else "a-z0-9.-"
    if re.fullmatch(rf"[a-z0-9][{allowed}]{{1,61}}[a-z0-9]", bucket):
        return None
    signs = "'-', '_' and '.'" if scheme == "gs" else "'-' and '.'"
    return f"cannot be: no bucket is named {bucket!r}; names have 3 to 63 lower-case letters, digits, {signs}"


def store_complaints(config: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the stores that the commands of a file for `ray up` export."""
    found = stores_of(config)
    for store in found:
        complaint = store_complaint(store)
        if complaint:
            yield f"The store {store!r} {complaint}."
    texts = [str(command) for key in COMMANDS for command in config.get(key) or []]
    extras = [extra for text in texts for extra in re.findall(r"\.\[([\w, -]+)\]", text)]
    installed = {name.strip() for extra in extras for name in extra.split(",")}
    for scheme in dict.fromkeys(map(scheme_of, found)):
        wanted = _EXTRAS.get(scheme)
        if extras and wanted and wanted not in installed:
            others = ",".join(wanted if name in _EXTRAS.values() else name for name in extras[0].split(","))
            take = others if wanted in others.split(",") else f"{wanted},{others}"
            yield f"The store is {scheme}://…, but setup_commands install '.[{extras[0]}]': write '.[{take}]'."


# --- AWS -------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _aws_regions() -> tuple[str, ...]:
    """The regions that botocore knows; () where it is not installed."""
    if find_spec("botocore") is None:
        return ()
    from botocore.session import Session

    session = Session()
    partitions = session.get_available_partitions()
    return tuple(sorted(r for p in partitions for r in session.get_available_regions("ec2", p)))


def aws_place_complaints(provider: Mapping[str, Any]) -> Complaints:
    """A region or zone that AWS has not."""
    region, regions = provider.get("region"), _aws_regions()
    if region is None or not regions or PLACEHOLDER.search(str(region)):
        return
    if region not in regions:
        if str(region)[:-1] in regions:
            one = str(region)[:-1]
            yield "region", f"is the zone {region!r}: write region: {one} and, if you like, availability_zone: {region}"
        else:
            close = difflib.get_close_matches(str(region), regions, n=3) or ["us-east-1"]
            yield "region", f"must be a region of AWS such as {', '.join(sorted(close))}, not {region!r}"
        return
    for zone in filter(None, str(provider.get("availability_zone") or "").replace(" ", "").split(",")):
        if not zone.startswith(str(region)):
            yield "availability_zone", f"{zone!r} is not of the region {region}: write one such as {region}a"


def aws_value_complaints(node_config: Mapping[str, Any]) -> Complaints:
    """Values that EC2 would refuse although their type is right."""
    image = str(node_config.get("ImageId") or "ami-0123456789abcdef0")
    if not re.fullmatch(r"ami-[0-9a-f]{8,17}|resolve:ssm:\S+|latest_dlami", image) and not PLACEHOLDER.search(image):
        yield "ImageId", f"must be the id of an image, such as ami-0123456789abcdef0, not {image!r}"


# --- GCP -------------------------------------------------------------------------------------------------------------

_SIZES = (
    "standard", "highmem", "highcpu", "highgpu", "megagpu", "ultragpu", "edgegpu", "megamem", "ultramem", "hypermem",
    "maxgpu", "custom", "medium", "micro", "small",
)  # fmt: skip


def gcp_place_complaints(provider: Mapping[str, Any]) -> Complaints:
    """A region or zone that cannot be of Google, or a zone that is not of the region."""
    region, zone = str(provider.get("region") or ""), str(provider.get("availability_zone") or "")
    if PLACEHOLDER.search(region + zone) or not region:
        return
    if found := re.fullmatch(r"([a-z]+-[a-z]+\d+)-[a-z]", region):
        yield "region", f"is the zone {region!r}: write region: {found[1]} and availability_zone: {region}"
    elif not re.fullmatch(r"[a-z]+-[a-z]+\d+", region):
        yield "region", f"must be a region such as us-central1, not {region!r}"
    elif zone and not re.fullmatch(rf"{region}-[a-z]", zone):
        yield "availability_zone", f"must be a zone of {region}, such as {region}-a, not {zone!r}"


def gcp_value_complaints(node_config: Mapping[str, Any]) -> Complaints:
    """Values that Compute Engine would refuse although their type is right."""
    machine = str(node_config.get("machineType") or "").rpartition("/")[2]
    parts = machine.split("-")
    if machine and not PLACEHOLDER.search(machine) and parts[0] != "custom":
        shared = machine in ("f1-micro", "g1-small", "e2-micro", "e2-small", "e2-medium")
        form = re.fullmatch(r"([a-z]+\d+[a-z]*)-([a-z]+)(-\d[\w-]*)", machine)
        if form and form[2] not in _SIZES:  # perhaps a new one, unless it is near to one that is known
            close = nearest(form[2], _SIZES)
            if close:
                right = close.split("'")[1]
                what = f" (did you mean '{form[1]}-{right}{form[3]}'?)"
                yield "machineType", f"{machine!r} is no type of machine{what}"
        elif not form and not shared:
            yield "machineType", f"{machine!r} is no type of machine: write one such as g2-standard-4"
    accounts = node_config.get("serviceAccounts")
    for i, account in enumerate(accounts if isinstance(accounts, list) else []):
        email = str(account.get("email") or "default") if isinstance(account, Mapping) else "default"
        if email != "default" and "@" not in email and not PLACEHOLDER.search(email):
            yield (
                f"serviceAccounts[{i}].email",
                f"must be an address such as {email}@PROJECT.iam.gserviceaccount.com, not {email!r}",
            )


# --- hosts of one's own ----------------------------------------------------------------------------------------------


def host_complaints(config: Mapping[str, Any]) -> Complaints:
    """Hosts that cannot be reached by SSH, or that stand in the file twice."""
    provider = config["provider"]
    if "coordinator_address" in provider:
        return
    for key in ("head_ip", "external_head_ip"):
        if key in provider and (fault := _host_fault(provider[key])):
            yield f"provider.{key}", fault
    workers = provider.get("worker_ips", [None])
    if not isinstance(workers, Sequence) or isinstance(workers, str):
        yield "provider.worker_ips", f"must be a list such as [10.0.0.2, 10.0.0.3], not {workers!r}"
        return
    faults = [fault for worker in workers if worker is not None and (fault := _host_fault(worker))]
    yield from (("provider.worker_ips", fault) for fault in dict.fromkeys(faults))
    for worker in dict.fromkeys(w for w in workers if isinstance(w, str)):
        if worker == provider.get("head_ip"):
            yield "provider.worker_ips", f"names the head {worker!r} too: Ray would start twice there; take it out"
        if list(workers).count(worker) > 1:
            yield "provider.worker_ips", f"names {worker!r} twice: take one out"
    if not workers and ray_start_flags(config.get("head_start_ray_commands") or []).get("num-cpus") == "0":
        yield (
            "provider.worker_ips",
            "is empty, and the head takes no tasks (--num-cpus=0): name the hosts that are to compute",
        )


def _host_fault(host: Any) -> str | None:
    text = str(host)
    if PLACEHOLDER.search(text):
        return None
    if not isinstance(host, str) or not text:
        return f"must name hosts by address or name, not {host!r}"
    if len(text.split()) > 1:
        return f"holds {text!r}, in which a comma is missing: write {', '.join(text.replace(',', ' ').split())}"
    if "@" in text:
        user, _, rest = text.rpartition("@")
        return f"holds {text!r}: write {rest}; who logs in stands in auth.ssh_user ({user})"
    try:
        ipaddress.ip_address(text)
        return None
    except ValueError:
        pass
    if found := re.fullmatch(r"(?:ssh://)?([\w.-]+):(\d+)", text):
        return f"holds {text!r}: write {found[1]}; another port for SSH stands in ~/.ssh/config, here and on the head"
    if re.fullmatch(r"[\d.]+", text) or not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\.?", text):
        return f"holds {text!r}, which is neither an address nor a name of a host: write it such as 10.0.0.2"
    return None
