"""Tasks that are interrupted and resumed, and what they leave; shared by the tests of resumable tasks."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

from tasks.task import Artifact, Context, Task, check_results, execute, inherited_seeds


class Memory:
    """Snapshots kept in memory, taken at every offer or at none."""

    def __init__(self, always: bool = True) -> None:
        self.always = always
        self.saved = 0
        self.data: bytes | None = None

    def due(self) -> bool:
        return self.always

    def save(self, data: bytes) -> None:
        self.saved += 1
        self.data = data

    def load(self) -> bytes | None:
        return self.data


class Run:
    """One start of a task, under the seed 0, and what it has shown so far."""

    def __init__(self, task: Task, inputs: tuple[Artifact, ...], folder: Path, snapshots: Memory | None = None) -> None:
        folder.mkdir()
        self.folder = folder
        self.log: list[str] = []
        self.reports: list[dict[str, Any]] = []
        self.results: dict[str, Any] | None = None
        seeds = dict.fromkeys(task.streams, 0) if task.streams else inherited_seeds(inputs)
        self.context = Context(folder, seeds=seeds, device="cpu", log=self.log.append, snapshots=snapshots)
        self._steps = task.run(self.context, *inputs)

    def advance(self, reports: int | None = None) -> Run:
        """Go on until there are so many reports in all, or to the end."""
        while self.results is None and (reports is None or len(self.reports) < reports):
            try:
                self.reports.append(dict(self.context.advance(self._steps)))
            except StopIteration as end:
                self.results = check_results(end.value)
        return self

    def close(self) -> None:
        self._steps.close()

    @property
    def outcome(self) -> tuple[str, str, dict[str, bytes]]:
        """Reports, results and files: all that must not depend on interruptions."""
        return repr(self.reports), repr(self.results), files(self.folder)


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def interrupted_after_every_report(task: Task, inputs: tuple[Artifact, ...], folder: Path, memory: Memory) -> Run:
    """Each start makes one report more than the one before and is abandoned there; the last one ends the task.

    If nothing is saved by itself, the state is saved when the task is abandoned.
    """
    reports = 0
    while True:
        reports += 1
        run = Run(task, inputs, folder / f"start{reports}", memory).advance(reports)
        run.context.save_offered()
        run.close()
        if run.results is not None:
            return run
        assert memory.saved == reports


def start_in_a_process_of_its_own(
    task: Task,
    inputs: tuple[Artifact, ...],
    folder: Path,
    *,
    die_after_reports: int | None = None,
    die_in_step: int | None = None,
) -> dict[str, Any] | None:
    """`execute` elsewhere, with a snapshot file beside the folder; the process may die without notice on the way.

    Args:
        die_after_reports: `os._exit` as soon as there are so many.
        die_in_step: `os._exit` before the optimizer's step of this number, from 1.

    Returns:
        its reports and results, None if it died.
    """
    order = folder.with_suffix(".order")
    order.write_bytes(pickle.dumps((task, inputs, folder, die_after_reports, die_in_step)))
    done = subprocess.run(
        [sys.executable, __file__, str(order)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
    )
    died = die_after_reports is not None or die_in_step is not None
    assert done.returncode == (9 if died else 0), done.stderr
    return None if died else pickle.loads(order.with_suffix(".outcome").read_bytes())


def main(path: str) -> None:
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    order = Path(path)
    task, inputs, folder, die_after_reports, die_in_step = pickle.loads(order.read_bytes())
    steps, reports = [], []

    def before_step(*_: Any) -> None:
        steps.append(1)
        if len(steps) == die_in_step:
            os._exit(9)

    def report(progress: Any) -> None:
        reports.append(dict(progress))
        if len(reports) == die_after_reports:
            os._exit(9)

    register_optimizer_step_pre_hook(before_step)
    snapshot = folder.parent / "snapshot"
    artifact = execute(task, *inputs, folder=folder, device="cpu", report=report, snapshot=snapshot)
    outcome = {"reports": reports, "results": artifact.results, "steps": len(steps)}
    order.with_suffix(".outcome").write_bytes(pickle.dumps(outcome))


if __name__ == "__main__":
    main(sys.argv[1])
