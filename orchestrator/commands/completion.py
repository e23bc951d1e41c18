"""Print what makes a shell complete verbs, options, sweep files, and the names and keys in the store.

For the command `orchestrator`, which the installation brings along, not for `python -m orchestrator`. Put the line for
your shell into its start-up file (~/.bashrc, ~/.zshrc behind compinit, ~/.config/fish/config.fish):

  eval "$(orchestrator completion bash)"
  eval "$(orchestrator completion zsh)"
  orchestrator completion fish | source

examples:
  python -m orchestrator completion bash
  python -m orchestrator completion fish > ~/.config/fish/completions/orchestrator.fish
"""

from __future__ import annotations

import argparse
import importlib.util

from ..errors import UserError

SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh or fish")


def run(options: argparse.Namespace) -> int:
    if importlib.util.find_spec("argcomplete") is None:
        raise UserError("The package argcomplete is not installed: pip install -e '.[completion]' -c constraints.txt.")
    import argcomplete

    print(argcomplete.shellcode(["orchestrator"], shell=options.shell))
    return 0
