"""What a shell offers behind `orchestrator` at a press of TAB.

The shell runs this program for it, so nothing is imported here but what the words at hand ask for, and stores are only
looked at in folders, by their names.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

MOST = 500
"""Keys that are offered at a time."""


def complete(verbs: Mapping[str, str], default_store: str) -> None:
    """Answer the shell, and end the process."""
    import argcomplete

    argcomplete.autocomplete(
        make_parser(verbs, default_store, os.environ.get("COMP_LINE", "")), always_complete_options=False
    )


def make_parser(verbs: Mapping[str, str], default_store: str, line: str) -> argparse.ArgumentParser:
    """A parser of the verbs, with the options of the one that the line names."""
    parser = argparse.ArgumentParser(prog="orchestrator")
    parsers = parser.add_subparsers(dest="verb", metavar="VERB")
    named = _words(line)[1:2]
    for verb, text in verbs.items():
        its = parsers.add_parser(verb, help=text)
        if [verb] == named:
            its.add_argument("--store", metavar="URI", default=default_store, help="where artifacts are")
            importlib.import_module(f"orchestrator.commands.{verb}").add_arguments(its)
            for action in its._actions:
                completer = _completer(action)
                if completer is not None:
                    action.completer = completer  # type: ignore[attr-defined]
    return parser


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # an open quotation mark
        return line.split()


def _completer(action: argparse.Action) -> Any:
    """What offers values for an option or argument; None leaves it to its choices, or to files of any kind."""
    from argcomplete.completers import DirectoriesCompleter, FilesCompleter

    name = action.option_strings[0] if action.option_strings else action.dest
    files = {
        "--store": DirectoriesCompleter(),
        "--to": DirectoriesCompleter(),
        "--file": FilesCompleter(["py"]),
        "--cluster": FilesCompleter(["yaml", "yml"]),
        "--graph": FilesCompleter(["dot"]),
    }
    names: dict[str, Callable[..., Iterable[str] | Mapping[str, str]]] = {
        "--run": _runs,
        "--address": lambda **_: ["auto"],
        "--log": lambda **_: ["mlflow:", "tensorboard:", "wandb:", "comet:"],
        "sweep": _sweeps,
        "a": _sweeps,
        "b": _sweeps,
        "task": _tasks,
        "key": _keys,
        "what": lambda **about: {**_keys(**about), **dict.fromkeys(_tasks(**about), "task")},
    }
    if name in ("file", "files"):
        return FilesCompleter(["yaml", "yml"] if "cluster" in (action.help or "") else ["py"])
    return files.get(name) or names.get(name)


def _folder(options: argparse.Namespace) -> Path | None:
    """The store, if it is a folder."""
    store = getattr(options, "store", None) or "."
    return None if "://" in store else Path(store).expanduser()


def _names(folder: Path | None) -> list[str]:
    try:
        return [] if folder is None else sorted(os.listdir(folder))
    except OSError:
        return []


def _sweeps(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """Names of sweeps; behind one and a slash those of its runs."""
    folder = _folder(parsed_args)
    sweep, slash, _rest = prefix.partition("/")
    if not slash:
        return _names(folder and folder / "runs")
    return [f"{sweep}/{run}" for run in _names(folder and folder / "runs" / sweep) if run != "latest"]


def _runs(parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """Names of runs, of the sweep that the line names or of all."""
    folder = _folder(parsed_args)
    if folder is None:
        return []
    named = getattr(parsed_args, "sweep", None) or []
    named = [named] if isinstance(named, str) else named
    sweeps = [Path(name).stem if name.endswith(".py") else name for name in named] or _names(folder / "runs")
    return [run for sweep in sweeps for run in _names(folder / "runs" / sweep) if run != "latest"]


def _tasks(parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    folder = _folder(parsed_args)
    return _names(folder and folder / "artifacts")


def _keys(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> dict[str, str]:
    """Keys that begin so, each with the name of its task; twelve digits are enough for every verb."""
    folder = _folder(parsed_args)
    found: dict[str, str] = {}
    for task in _tasks(parsed_args):
        assert folder is not None
        for key in _names(folder / "artifacts" / task):
            if key.startswith(prefix) and len(found) < MOST:
                found[key[: max(12, len(prefix))]] = task
    return found
