"""Why a Ray cluster cannot be joined, told at once and in one sentence: Ray tries for minutes, and says little."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import socket
from collections.abc import Iterator
from typing import Any

from .errors import ClusterError

SECONDS = 10.0
"""How long an address may take to answer."""

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
"""How a client of HTTP/2 begins, which Ray speaks: with it, and a frame of settings; the server sends its own."""
_SETTINGS = 4


def check_joinable(address: str) -> None:
    """Raise ClusterError if this process will not be able to join the cluster at an address.

    Args:
        address: "host:port"; "local" and "auto" are left to Ray, but for "auto" what is found here is checked too.
    """
    if address == "local":
        return
    if address.startswith("ray://"):
        raise ClusterError(
            f"--address {address} is that of Ray's remote client, which cannot run a sweep: submit the sweep to the "
            "cluster's head as a job (`ray job submit`), or start it there with --address auto."
        )
    import ray

    try:
        from ray._private import services

        several = services.find_gcs_addresses() if address == "auto" and not os.environ.get("RAY_ADDRESS") else ()
        if len(several) > 1:
            raise ClusterError(
                f"Several Ray clusters run on this machine, at {', '.join(sorted(several))}: name one with --address."
            )
        found = services.canonicalize_bootstrap_address_or_die(address)
    except (ImportError, AttributeError):
        return  # private, so it may go away: then Ray says what it says
    except ConnectionError:
        raise ClusterError(
            "No Ray cluster runs on this machine: start the sweep on a node of one, or leave --address out, and Ray "
            "is started here."
        ) from None
    except ValueError:
        found = ""
    if not found.rpartition(":")[2].isdecimal():
        raise ClusterError(f"{address!r} is no address of a Ray cluster: write host:port, or auto.")
    check_answers(found, found if address == "auto" else address)
    check_token(found)
    with contextlib.suppress(ImportError, AttributeError):
        cluster = _asked(found)
        check_versions(found, cluster, ray.__version__)
        check_member(found, cluster, services.find_node_ids())


def check_answers(address: str, named: str) -> None:
    """Raise ClusterError unless at "host:port" there is what speaks like Ray.

    Args:
        named: the address as the user has written it; Ray replaces that of the loopback.
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS") in (None, "", "0"):
                connection.settimeout(SECONDS)
                connection.sendall(_PREFACE)
                answer = connection.recv(9)
                if len(answer) < 4 or answer[3] != _SETTINGS:
                    raise ClusterError(
                        f"What answers at {named} is no Ray cluster: its head's port is the one of "
                        "`ray start --head`, 6379 if none was given."
                    )
    except TimeoutError:
        raise ClusterError(f"No Ray cluster answers at {named} in {SECONDS:.0f} s: check the address.") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise ClusterError(f"No Ray cluster answers at {named} ({reason}): check the address.") from None


def check_token(address: str) -> None:
    """Raise ClusterError if a token is to be used and there is none; Ray would end the process."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return
    with contextlib.suppress(ImportError, AttributeError):
        import ray._raylet

        raylet: Any = ray._raylet
        if not raylet.AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
            raise ClusterError(
                "RAY_AUTH_MODE is token, but there is no token here: copy ~/.ray/auth_token of the head of the "
                f"cluster at {address}, or export RAY_AUTH_TOKEN."
            )


def check_versions(address: str, cluster: dict[str, Any], ray_version: str) -> None:
    """Raise ClusterError if Ray or Python is not that of the cluster, as far as Ray demands it."""
    theirs, mine = str(cluster.get("ray_version")), ray_version
    if cluster.get("ray_version") and theirs != mine:
        raise ClusterError(
            f"The cluster at {address} runs Ray {theirs}, but here is Ray {mine}: install the same on all machines "
            "(constraints.txt pins it)."
        )
    theirs, mine = str(cluster.get("python_version")), platform.python_version()
    if os.environ.get("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL", "patch") == "minor":
        theirs, mine = (".".join(version.split(".")[:2]) for version in (theirs, mine))
    if cluster.get("python_version") and theirs != mine:
        raise ClusterError(
            f"The cluster at {address} runs Python {theirs}, but here is Python {mine}: Ray wants the same everywhere."
        )


def check_member(address: str, cluster: dict[str, Any], here: Any) -> None:
    """Raise ClusterError unless a node of the cluster runs on this machine.

    Args:
        here: identifiers of the nodes that run on this machine.
    """
    if not set(cluster["nodes"]) & set(here):
        raise ClusterError(
            f"This machine is no node of the cluster at {address}: start the sweep on its head, by `ray job submit` or "
            f"`ray exec`, or make this machine a node with `ray start --address={address}`."
        )


def _asked(address: str) -> dict[str, Any]:
    """What a cluster says of itself: Ray's record of its versions, and "nodes", the identifiers of its live nodes."""
    import ray._raylet
    from ray.exceptions import AuthenticationError, RayError

    raylet: Any = ray._raylet
    try:
        with _silent():
            client = raylet.GcsClient(address=address)
            record = client.internal_kv_get(b"CLUSTER_METADATA", b"cluster", timeout=SECONDS)
            nodes = [
                node.hex() for node, about in client.get_all_node_info(timeout=SECONDS).items() if about.state == 0
            ]
    except AuthenticationError:
        if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
            raise ClusterError(
                f"The cluster at {address} asks for a token: export RAY_AUTH_MODE=token, with the token of its head "
                "in ~/.ray/auth_token."
            ) from None
        raise ClusterError(
            f"The cluster at {address} refuses the token of this machine: copy ~/.ray/auth_token of its head, and "
            "unset RAY_AUTH_TOKEN if that holds another."
        ) from None
    except RayError as error:
        words = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ClusterError(f"The Ray cluster at {address} does not answer as it should: {words}.") from None
    return {**json.loads(record or b"{}"), "nodes": nodes}


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep off the screen what Ray's libraries write there past Python, again and again."""
    before = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
