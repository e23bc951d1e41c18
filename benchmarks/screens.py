"""What a run looks like in a terminal, in every state; and what it costs to draw it.

    python benchmarks/screens.py [--out FOLDER]

Writes an SVG for each state of `tests/orchestrator/states.py`, each size of terminal and each theme, to be looked at.
Then prints how long an event and a screen take with 1,000, 10,000 and 100,000 tasks: neither may grow with these.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "orchestrator")]

from rich.console import Console  # noqa: E402
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, SVG_EXPORT_THEME  # noqa: E402
from states import STATES, many  # noqa: E402

from orchestrator.screen import screen  # noqa: E402
from orchestrator.standing import Standing  # noqa: E402

SIZES = ((80, 24), (120, 40), (200, 50))
THEMES = {"dark": SVG_EXPORT_THEME, "light": DEFAULT_TERMINAL_THEME}


def draw(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in STATES.items():
        run = make()
        for width, height in SIZES:
            with open(os.devnull, "w") as nowhere:
                console = Console(record=True, width=width, height=height, file=nowhere, force_terminal=True)
                console.print(screen(run.standing, run.now, width, height - 1, title="sam_rho"))
            for theme, colours in THEMES.items():
                path = folder / f"{name}-{width}-{theme}.svg"
                path.write_text(console.export_svg(title=f"{name} {width}×{height}", theme=colours, clear=False))
    print(f"{len(STATES)} states in {folder}")


def measure(tasks: int, workers: int) -> None:
    run, standing = many(tasks, workers), Standing()
    begun = time.perf_counter()
    for event in run.events:
        standing.feed(event)
    event_seconds = (time.perf_counter() - begun) / len(run.events)
    screen(standing, run.now, 120, 39)
    begun = time.perf_counter()
    for _ in range(20):
        screen(standing, run.now, 120, 39)
    screen_seconds = (time.perf_counter() - begun) / 20
    cost = f"{1e6 * event_seconds:.0f} µs an event, {1e3 * screen_seconds:.1f} ms a screen"
    print(f"{tasks:7} tasks, {workers:4} workers: {cost}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("screens"), help="where to write them (default: %(default)s)")
    draw(parser.parse_args().out)
    for tasks, workers in ((1000, 100), (10_000, 100), (100_000, 100), (100_000, 1000)):
        measure(tasks, workers)


if __name__ == "__main__":
    main()
