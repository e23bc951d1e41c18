"""Reports: a study's tables as pictures, as a page of HTML, and as a table on a terminal."""

from __future__ import annotations

from .page import write_report
from .terminal import terminal_table
from .terminal_verdicts import print_verdicts

__all__ = ["print_verdicts", "terminal_table", "write_report"]
