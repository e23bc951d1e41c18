"""Write a sweep file to begin with, every line explained, and run it at its small size.

It compares two settings of an optimizer on a small dataset that needs no download; change what you like. A file that
is there is never overwritten.

examples:
  python -m orchestrator init
  python -m orchestrator init sharpness.py
  python -m orchestrator init sharpness.py --no-run
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
import sys
from pathlib import Path

from ..__main__ import main
from ..errors import UserError
from .common import same_store

STARTER = Path(__file__).with_name("starter.txt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", nargs="?", default="study.py", metavar="FILE", help="the sweep file to write (default: %(default)s)"
    )
    parser.add_argument("--no-run", action="store_true", help="only write it")


def run(options: argparse.Namespace) -> int:
    path = Path(options.file)
    _check_name(path)
    name, store = shlex.quote(options.file), same_store(options)
    text = STARTER.read_text(encoding="utf-8").format(file=name)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(
            f"{options.file!r} is there already and stays as it is: name another file, or run it with "
            f"`python -m orchestrator sweep {name} --smoke`."
        ) from None
    except OSError as error:
        raise UserError(f"{options.file!r} cannot be written: {error.strerror}.") from None
    print(f"{options.file}: a sweep file in which every line says what it is for")
    if not options.no_run:
        code = _smoke(options.file, options.store if store else None)
        if code:
            return code
    print(f"\nnext:\n  look at {options.file}, and change what you like")
    if options.no_run:
        print(f"  python -m orchestrator sweep {name} --smoke{store}       a small run of it: half a minute")
    else:
        print("  open the report in a browser")
    print(
        f"  python -m orchestrator plan {name}{store}                what the full size would run\n"
        f"  python -m orchestrator sweep {name}{store}               run it\n"
        f"  python -m orchestrator sweep {name}{store} --seeds 10    add seeds; nothing is done twice"
    )
    return 0


def _check_name(path: Path) -> None:
    """Raise UserError where the file could not be a sweep, or would stand before a module of this name."""
    if path.suffix != ".py":
        raise UserError(f"{str(path)!r} is no name for a sweep file: it must end in .py, such as study.py.")
    if re.fullmatch(r"[\w-]+", path.stem) is None:
        raise UserError(f"{str(path)!r} is no name for a sweep file: use letters, digits, _ and - before the .py.")
    if path.exists():
        return
    spec = importlib.util.find_spec(path.stem)
    installed = spec is not None and "site-packages" in str(spec.origin)
    if path.stem in ("orchestrator", "tasks", *sys.stdlib_module_names) or installed:
        raise UserError(f"{str(path)!r} would stand in the way of the module {path.stem!r}: choose another name.")


def _smoke(file: str, store: str | None) -> int:
    """Run the file at its small size, as that command would."""
    before = sys.argv
    sys.argv = [before[0], "sweep", file, "--smoke", *(() if store is None else ("--store", store))]
    print(f"python -m orchestrator {shlex.join(sys.argv[1:])}", flush=True)
    try:
        return main(sys.argv[1:])
    finally:
        sys.argv = before
