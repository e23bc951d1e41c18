"""`python -m orchestrator VERB …`: the command line. One module per verb in `orchestrator.commands`."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from tasks.errors import UserError, nearest

from .text import one_line

GROUPS = {
    "begin": {
        "init": "write a commented sweep file, and run it small",
        "doctor": "versions, devices, store and cluster at a glance",
        "completion": "words that your shell offers at TAB",
    },
    "run a study": {
        "sweep": "plan a sweep, run what is not stored, report",
        "plan": "what would run, and why",
        "confirm": "run the best setting against the baseline again, on fresh seeds",
        "status": "where the newest run of each sweep stands",
    },
    "read what it found": {
        "report": "make the report of a run again, or one of several runs together",
        "compare": "what tells one run from another",
        "export": "the tables of a run as CSV, parquet or LaTeX",
    },
    "look at single tasks": {
        "ls": "artifacts in the store",
        "show": "how an artifact came to be",
        "logs": "what a task printed, and its traceback",
        "rerun": "compute one artifact again, and say whether the bytes agree",
    },
    "look after the store": {
        "verify": "hash everything again, and name what is damaged",
        "gc": "delete what no sweep file needs",
    },
}
"""The verbs by what people do with them, each with what it does."""

VERBS = {verb: text for verbs in GROUPS.values() for verb, text in verbs.items()}

FIRST_SESSION = """\
a first session (a minute, no GPU, no download):
  python -m orchestrator init study.py                    a sweep file, every line explained; run small
  python -m orchestrator plan study.py                    what the full size would run
  python -m orchestrator sweep study.py                   train, measure, report
  python -m orchestrator sweep study.py --seeds 10        more seeds; nothing is done twice
  python -m orchestrator report study --to study-report   report, tables and pictures in a folder
"""

EXIT_FAILED, EXIT_MISTAKE, EXIT_INTERRUPTED = 1, 2, 130


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one sentence, as everything else here does."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message.rstrip('.')}: see `{self.prog} --help`.")

    def parse_all(self, args: Sequence[str]) -> argparse.Namespace:
        """The options; what is not known is refused with the nearest that is."""
        options, unknown = self.parse_known_args(args)
        if unknown:
            known = [text for action in self._actions for text in action.option_strings]
            name = unknown[0].partition("=")[0]
            what = "option" if name.startswith("-") else "argument"
            hint = nearest(name, known) if what == "option" else ""
            raise UserError(f"{self.prog} knows no {what} {name!r}{hint}: see `{self.prog} --help`.")
        return options

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = list(map(str, action.choices))
            name = "/".join(action.option_strings) or str(action.metavar or action.dest)
            raise UserError(f"{name} must be one of {', '.join(choices)}, not {value!r}{nearest(str(value), choices)}.")


def help_text() -> str:
    """What `python -m orchestrator --help` says."""
    lines = ["usage: python -m orchestrator VERB [options]", ""]
    lines += ["Multi-seed robustness studies of neural networks, on a laptop or a Ray cluster.", ""]
    for group, verbs in GROUPS.items():
        lines += [f"{group}:", *(f"  {name:10} {text}" for name, text in verbs.items()), ""]
    return "\n".join([*lines, FIRST_SESSION, "`python -m orchestrator VERB --help` tells more of each, with examples."])


def make_parser(verb: str) -> Parser:
    """The parser of a verb, whose module is imported for it."""
    command = importlib.import_module(f"orchestrator.commands.{verb}")
    parser = Parser(
        prog=f"orchestrator {verb}",
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--store",
        metavar="URI",
        default=default_store(),
        help="where artifacts are: a folder, s3://…, gs://… (default: $ORCHESTRATOR_STORE, else ./artifacts)",
    )
    command.add_arguments(parser)
    parser.set_defaults(run_verb=command.run)
    return parser


def default_store() -> str:
    """The store that is used where --store is not given."""
    return os.environ.get("ORCHESTRATOR_STORE") or "./artifacts"


def _check_working_folder() -> None:
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("The working folder has been deleted: change to another.") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code: 0 well, 1 a task failed, 2 a mistake, 130 interrupted."""
    if argv is None and "_ARGCOMPLETE" in os.environ:  # a shell asks
        from .completion import complete

        complete(VERBS, default_store())
    args = list(sys.argv[1:] if argv is None else argv)
    if args and args[0] == "help":  # `help sweep` is what some type
        args = [*args[1:2], "--help"]
    if not args or args[0] in ("-h", "--help"):
        print(help_text())
        return 0 if args else EXIT_MISTAKE
    verb, rest = args[0], args[1:]
    if verb not in VERBS:
        hint = nearest(verb, VERBS) or f": the verbs are {', '.join(VERBS)}"
        if verb.startswith("-"):
            hint = f": options such as {verb} come after it, as in `python -m orchestrator status {verb} …`"
        print(f"There is no verb {verb!r}{hint}.", file=sys.stderr)
        return EXIT_MISTAKE
    try:
        _check_working_folder()
        options = make_parser(verb).parse_all(rest)
        return int(options.run_verb(options))
    except UserError as error:
        print(one_line(str(error)), file=sys.stderr)
        return EXIT_MISTAKE
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `orchestrator ls | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
