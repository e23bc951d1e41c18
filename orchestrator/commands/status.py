"""Where the newest run of each sweep stands, from the store alone.

examples:
  python -m orchestrator status
  python -m orchestrator status sam_rho --store s3://bucket/prefix
  python -m orchestrator status sam_rho --watch --store s3://bucket/prefix

With --watch it stays until the run ends, and ends with its exit code: 0 all well, 1 a task failed or the run had to
end, 130 the run was interrupted. Ctrl-C ends the watching (130), not the run.
"""

from __future__ import annotations

import argparse
import math
import time

from ..__main__ import EXIT_FAILED, EXIT_INTERRUPTED
from ..errors import StoreError
from ..runs import find_run, runs_of
from ..standing import Best, Standing, Tally
from ..standing_words import best_in_words, duration, expected_end
from ..store import Store
from ..text import say
from ..watching import Watched, ago
from .common import counted, open_store, same_store, time_in_words

SHOWN = 8
"""How many workers, losses and failures are listed."""

LEAST_SECONDS = 0.2

BUCKET_SECONDS, FOLDER_SECONDS = 5.0, 1.0
"""How often a watched run is looked at, unless stated: that often its record gets to an object store."""


PATIENCE = 3600.0
"""How long a store that ceases to answer is waited for by who watches."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", nargs="?", help="name of the sweep (default: all; to watch, the newest)")
    parser.add_argument("--run", help="a run by name (default: the newest)")
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        type=_seconds,
        const=0.0,
        help="show the run until it ends, looking that often (default: every second, every 5 in a bucket)",
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of seconds (a sweep is named before --watch)"
        ) from None
    if not LEAST_SECONDS <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"it takes at least {LEAST_SECONDS:g} seconds, not {text}")
    return seconds


def run(options: argparse.Namespace) -> int:
    store = open_store(options.store)
    sweeps = [options.sweep] if options.sweep else [s for s in store.names("runs") if runs_of(store, s)]
    if not sweeps:
        raise StoreError(f"The store {store} holds no runs: name another with --store, or run a sweep first.")
    if options.run and not options.sweep and len(sweeps) > 1:
        raise StoreError(f"The store {store} holds runs of {', '.join(sweeps)}: name one of them before --run.")
    paths = [newest_run(store, sweep, options.run) for sweep in sweeps]
    if options.watch is not None:
        newest = max(paths, key=lambda path: path.rpartition("/")[2])
        return watch(store, newest, options.watch, same_store(options))
    for path in paths:
        print_status(store, path)
    return 0


def newest_run(store: Store, sweep: str, run: str | None) -> str:
    """Path of the run to tell of: one that is still going on counts as the newest."""
    path = find_run(store, sweep, run)
    folder, _, _ = path.rpartition("/")
    return path if run else f"{folder}/{max(runs_of(store, folder.rpartition('/')[2]))}"


# Again and again


def watch(store: Store, path: str, seconds: float, about_store: str) -> int:
    """Show a run until it ends.

    Args:
        seconds: how often to look; 0 for what suits the store.
        about_store: what to add to a command so that it is about the same store.

    Returns:
        the exit code of the run.
    """
    from rich.console import Console

    from ..progress import Progress

    seconds = seconds or (BUCKET_SECONDS if store.local is None else FOLDER_SECONDS)
    store.patience = PATIENCE
    console = Console(highlight=False)
    try:
        with Progress(console, title=path.split("/")[1], store=about_store) as progress:
            watched = Watched(store, path, progress.standing)
            store.on_wait = progress.note
            progress.catch_up(watched.look())  # what has happened before is no news
            progress.tell()
            while watched.state(time.time())[1]:
                silent = watched.silence()
                progress.note(f"no sign of life of the run for {ago(silent)}" if silent else "")
                time.sleep(seconds)
                for event in watched.look():
                    progress(event)
    except KeyboardInterrupt:
        say("No longer watching; the run goes on.")
        return EXIT_INTERRUPTED
    _print(watched)
    ended, failed = watched.standing.ended, watched.standing.total.failed
    if ended == "finished":
        return EXIT_FAILED if failed else 0
    return EXIT_INTERRUPTED if ended == "interrupted" else EXIT_FAILED


# Once


def print_status(store: Store, path: str) -> None:
    """The run's state, counts, what is at work, and failures with what depends on them."""
    watched = Watched(store, path)
    watched.feed(watched.look())
    _print(watched)


def _print(watched: Watched) -> None:
    now, standing = time.time(), watched.standing
    state, going_on = watched.state(now)
    say(f"{watched.path}: {state}")
    if standing.started is None:
        return
    say(f"  started {time_in_words(standing.started)} on {counted(standing.slots, 'slot')}")
    say(f"  {', '.join(_counts(standing))}")
    for kind, tally in standing.tallies.items():
        if tally.tasks is not None:
            say(f"  {kind}: {_of_kind(tally)}")
    if going_on:
        _print_going_on(standing, now)
    elif (best := standing.best()) is not None:
        _print_best(standing, best)
    for why in standing.left_out.values():
        say(f"  {why}")
    losses = sorted(standing.losses.items(), key=lambda item: -item[1].times)
    for key, loss in losses[:SHOWN]:
        why = f": {loss.why}" if loss.why else ""
        say(f"  lost {'once' if loss.times == 1 else f'{loss.times} times'}: {loss.label}{why}; logs {key[:12]}")
    failures = list(standing.failures.values())
    for failure in failures[-SHOWN:]:
        need = "1 task that needs it" if failure.blocked == 1 else f"{failure.blocked} tasks that need it"
        skipped = f" ({need} skipped)" if failure.blocked else ""
        say(f"  failed: {failure.label}: {failure.error}{skipped}; logs {failure.key[:12]}")
    if standing.total.failed > SHOWN:
        say(f"  … and {standing.total.failed - SHOWN} more failed")


def _counts(standing: Standing) -> list[str]:
    counts, total = standing.counts, standing.total
    of = "" if total.tasks is None else f" of {max(total.tasks - standing.stored_before, 0)}"
    told = [f"{counts['committed']}{of} tasks committed"]
    was = "was" if standing.stored_before == 1 else "were"
    told += [f"{standing.stored_before} {was} stored"] if standing.stored_before else []
    told += [f"{counts['found']} made by other runs"] if counts["found"] else []
    told += [f"{total.failed} failed"]
    told += [f"{total.skipped} skipped"] if total.skipped else []
    told += [f"{counts['stopped']} stopped early by the scheduler"] if counts["stopped"] else []
    told += [f"{counts['damaged']} found damaged, to be made again"] if counts["damaged"] else []
    told += [f"{counts['enlarged']} given a larger slot"] if counts["enlarged"] else []
    return told


def _of_kind(tally: Tally) -> str:
    told = [f"{tally.stored + tally.done} of {tally.tasks} done"]
    told += [f"{tally.stored} stored already"] if tally.stored else []
    told += [f"{tally.running} handed out"] if tally.running else []
    told += [f"{tally.failed} failed"] if tally.failed else []
    told += [f"{tally.skipped} skipped"] if tally.skipped else []
    return ", ".join(told)


def _print_going_on(standing: Standing, now: float) -> None:
    say(f"  {expected_end(standing, now) or 'ending, what is running is saved'}")
    if (best := standing.best()) is not None:
        _print_best(standing, best)
    workers = standing.workers()
    for worker in workers[:SHOWN]:
        where = f" on {worker.worker}" if worker.worker else ""
        doing = f", {worker.doing}" if worker.doing else ""
        say(f"  at work{where} for {duration(now - worker.since)}: {worker.label}{doing}")
    if len(workers) > SHOWN:
        say(f"  … and {len(workers) - SHOWN} more workers")
    if standing.total.elsewhere:
        theirs = counted(standing.total.elsewhere, "task")
        say(f"  {theirs} left to other runs on this store, which are at work on them")


def _print_best(standing: Standing, best: Best) -> None:
    what, value = best_in_words(standing, best)
    say(f"  {what}: {best.setting}: {value}")
