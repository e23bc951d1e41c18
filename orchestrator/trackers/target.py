"""What `--log` says: which tracker, and where in it."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidValue, nearest
from ..store import without_passwords

__all__ = ["KINDS", "Kind", "Target", "parse_target"]


@dataclass(frozen=True)
class Kind:
    """A tracker.

    Attributes:
        name: as its makers write it.
        module: what has to be importable; `extra` installs it.
        where: what stands behind the colon, in a word; `example` of it.
        variable: the environment variable that says so where nothing stands there.
    """

    name: str
    module: str
    extra: str
    where: str
    example: str
    variable: str = ""


KINDS = {
    "mlflow": Kind("MLflow", "mlflow", "mlflow", "URI", "http://localhost:5000", "MLFLOW_TRACKING_URI"),
    "tensorboard": Kind("TensorBoard", "tensorboardX", "tensorboard", "FOLDER", "logs"),
    "wandb": Kind("Weights & Biases", "wandb", "wandb", "PROJECT", "landscapes", "WANDB_PROJECT"),
    "comet": Kind("Comet", "comet_ml", "comet", "PROJECT", "landscapes", "COMET_PROJECT_NAME"),
}

_SECRET = re.compile(r"://[^/@]*:[^/@]*@|[?&;](password|token|api_?key|secret)=", re.IGNORECASE)


@dataclass(frozen=True)
class Target:
    """Where trials are told of.

    Attributes:
        kind: one of KINDS.
        where: a URI, a folder or a project.
    """

    kind: str
    where: str

    @property
    def name(self) -> str:
        """ "MLflow"."""
        return KINDS[self.kind].name

    @property
    def shown(self) -> str:
        """`where` for people; from the environment it may hold a password."""
        return without_passwords(self.where)


def parse_target(text: str) -> Target:
    """`--log mlflow:http://localhost:5000` and the like, with all checked that can be without a network.

    Raises:
        InvalidValue: there is no such tracker, its package is not installed, or the place cannot be.
    """
    kind, _, where = text.partition(":")
    where = where.strip()
    if kind not in KINDS:
        hint = nearest(kind, KINDS) or f": the trackers are {', '.join(KINDS)}"
        raise InvalidValue(f"--log {_shown(text)}: there is no tracker {kind!r}{hint}.")
    known = KINDS[kind]
    if _SECRET.search(where):
        other = (
            f"put the address into ${known.variable} and write --log {kind}"
            if kind == "mlflow"
            else "leave it to the environment"
        )
        raise InvalidValue(
            f"--log {kind}:…: the {known.where} holds a password, which lists of processes and reports would show: "
            f"{other}."
        )
    where = where or os.environ.get(known.variable, "")
    if not where:
        variable = f", or set ${known.variable}" if known.variable else ""
        raise InvalidValue(
            f"--log {text}: which {known.where}? Write --log {kind}:{known.where}, such as "
            f"--log {kind}:{known.example}{variable}."
        )
    if importlib.util.find_spec(known.module) is None:
        raise InvalidValue(
            f"--log {kind}: the package {known.module} is not installed: pip install -e '.[{known.extra}]' "
            "-c constraints.txt."
        )
    if kind == "tensorboard":
        _check_folder(where)
    elif kind in ("wandb", "comet") and not re.fullmatch(r"[\w. -]+(/[\w. -]+)?", where):
        raise InvalidValue(f"--log {kind}:{where}: {where!r} is no name of a project; OWNER/PROJECT is one too.")
    return Target(kind, where)


def _check_folder(where: str) -> None:
    if "://" in where:
        raise InvalidValue(f"--log tensorboard:{where}: a folder of this machine is wanted, not a URI.")
    try:
        Path(where).expanduser().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidValue(f"--log tensorboard:{where}: {where!r} cannot be a folder: {error.strerror}.") from None


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "…")
