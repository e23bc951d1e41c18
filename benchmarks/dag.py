"""The cost of orchestration: a thousand no-op tasks, each committed durably, here and elsewhere.

    python benchmarks/dag.py [--tools ours dask parsl redun] [--repetitions 3]

The graph is that of `dag_sweep.py`, the same for every tool: 100 roots, 400 probes on one root, 400
pairs on two, 100 fan-ins on four. Every task writes a file and commits it with a manifest through the
same `Store.commit` (files and manifest synced, one atomic rename, folder synced). Every tool has two
worker processes. The other tools are installed with pip, each in its own environment below
`benchmarks/.tools`; their tasks first look whether the store holds them already, which is what the
second run shows.

Reported for every tool, medians over the repetitions, which alternate between the tools:
    start-up  from the call to the start of the first task (cluster or workers, planning)
    run       from the start of the first task to the last commit; the figure that is compared
    second    wall time of a second run, everything stored, in the same kind of process; its imports not
              included, its cluster or workers included
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TOOLS = HERE / ".tools"
PACKAGES = {"dask": "distributed", "parsl": "parsl", "redun": "redun"}
WORKERS = 2

Manifest = dict[str, Any]
Call = tuple[str, str, tuple[str, ...], Manifest]  # key, class name, keys of the inputs, manifest


def calls() -> list[Call]:
    """The graph in plain data, inputs first."""
    return [(n.key, n.name, n.inputs, n.spec()) for n in plan().nodes.values()]


def plan(store: Any = None) -> Any:
    from orchestrator.plan import make_plan
    from orchestrator.sweep_file import load_sweep

    return make_plan(load_sweep(HERE / "dag_sweep.py"), store)


def work(uri: str, key: str, name: str, manifest: Manifest, needs: Sequence[Any] = ()) -> int:
    """A task as the other tools run it: the same file, the same manifest, the same commit."""
    started, clock = time.time(), time.perf_counter()
    from orchestrator.store import Store

    store = Store(uri)
    if store.read(f"artifacts/{name}/{key}/manifest.json") is not None:
        return 1
    folder = store.workspace()
    (folder / "value.txt").write_text(str(len(needs)))
    seconds = time.perf_counter() - clock
    about = {"status": "done", "results": {"value": 1}, "started": started, "seconds": seconds}
    store.commit(name, key, folder, {**manifest, **about})
    return 1


# The tools. Each context starts the workers and gives a function that runs the calls.

Run = Callable[[str, list[Call]], None]


@contextlib.contextmanager
def dask() -> Iterator[Run]:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=logging.ERROR
        ) as cluster,
        Client(cluster) as client,
    ):

        def run(uri: str, todo: list[Call]) -> None:
            futures: dict[str, Any] = {}
            for key, name, inputs, manifest in todo:
                needs = [futures[i] for i in inputs]
                futures[key] = client.submit(work, uri, key, name, manifest, needs, key=key, pure=False)
            client.gather(list(futures.values()))

        yield run


@contextlib.contextmanager
def parsl() -> Iterator[Run]:
    import dag_parsl
    import parsl as library
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    with tempfile.TemporaryDirectory() as folder:
        provider = LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1)
        executor = HighThroughputExecutor(
            label="workers", max_workers_per_node=WORKERS, provider=provider, address="127.0.0.1"
        )
        library.load(Config(executors=[executor], run_dir=folder, initialize_logging=False))
        app = library.python_app(dag_parsl.work)

        def run(uri: str, todo: list[Call]) -> None:
            futures: dict[str, Any] = {}
            for key, name, inputs, manifest in todo:
                futures[key] = app(uri, key, name, manifest, inputs=[futures[i] for i in inputs])
            for future in futures.values():
                future.result()

        try:
            yield run
        finally:
            library.dfk().cleanup()
            library.clear()


@contextlib.contextmanager
def redun() -> Iterator[Run]:
    import dag_redun
    from redun import Scheduler
    from redun.config import Config

    def run(uri: str, todo: list[Call]) -> None:
        database = Path(uri) / "redun.db"
        database.parent.mkdir(parents=True, exist_ok=True)
        processes = {"type": "local", "mode": "process", "max_workers": str(WORKERS)}
        config = Config({"backend": {"db_uri": f"sqlite:///{database}"}, "executors.process": processes})
        scheduler = Scheduler(config=config)
        scheduler.load()
        expressions: dict[str, Any] = {}
        for key, name, inputs, manifest in todo:
            expressions[key] = dag_redun.work(uri, key, name, manifest, [expressions[i] for i in inputs])
        scheduler.run(list(expressions.values()))

    logging.getLogger("redun").setLevel(logging.ERROR)
    yield run


@contextlib.contextmanager
def ours() -> Iterator[Run]:
    def run(uri: str, todo: list[Call]) -> None:
        """`todo` is not used: planning is part of it."""
        from orchestrator.store import Store

        store = Store(uri)
        planned = plan(store)
        if len(planned.stored) == len(planned.nodes):
            return
        import ray

        from orchestrator.run import QUIET, execute_plan

        os.environ.update(QUIET)
        ray.init(num_cpus=WORKERS, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
        done = execute_plan(planned, store, "runs/dag/0")
        assert done.graph.finished, done.graph.counts
        ray.shutdown()

    yield run


CONTEXTS = {"ours": ours, "dask": dask, "parsl": parsl, "redun": redun}


def measure(tool: str, uri: str, second: bool) -> None:
    """One run of one tool in this process; prints what came of it as JSON."""
    todo = [] if tool == "ours" else calls()
    begun = time.time()
    with CONTEXTS[tool]() as run:
        run(uri, todo)
        ended = time.time()
    found = {"wall": ended - begun}
    if not second:
        started, committed = span(uri)
        found |= {"startup": started - begun, "run": committed - started}
    print("RESULT", json.dumps(found), flush=True)


def span(uri: str) -> tuple[float, float]:
    """When the first task started and when the last commit was made, from the store alone."""
    folders = [p for p in (Path(uri) / "artifacts").iterdir() if p.is_dir()]
    manifests = [json.loads(p.read_bytes()) for f in folders for p in f.glob("*/manifest.json")]
    assert len(manifests) == 1000, f"{len(manifests)} tasks are committed, not 1000"
    # A rename into a folder sets the folder's time.
    return min(m["started"] for m in manifests), max(f.stat().st_mtime_ns for f in folders) / 1e9


# The comparison


def python_of(tool: str) -> str:
    """The Python that has the tool; installs it at the first time."""
    if tool == "ours":
        return sys.executable
    environment = TOOLS / tool
    python = environment / "bin" / "python"
    if not (environment / "complete").exists():
        print(f"installing {PACKAGES[tool]} into {environment.relative_to(ROOT)}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", PACKAGES[tool]], check=True)
        (environment / "complete").touch()
    return str(python)


def child(tool: str, uri: str, second: bool) -> Mapping[str, float]:
    code = f"import dag; dag.measure({tool!r}, {uri!r}, {second!r})"
    paths = os.pathsep.join([str(HERE), str(ROOT)])
    python = python_of(tool)
    path = os.pathsep.join([str(Path(python).parent), os.environ.get("PATH", "")])  # parsl starts programs of its own
    env = {**os.environ, "PATH": path, "PYTHONPATH": paths, "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryFile("w+") as output:  # not a pipe: a worker left behind would hold it open
        words = [python, "-c", code]
        process = subprocess.Popen(words, cwd=ROOT, env=env, stdout=output, stderr=output, start_new_session=True)
        try:
            status = process.wait(timeout=300)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the session that was started for it, workers and all
        output.seek(0)
        text = output.read()
    lines = [line for line in text.splitlines() if line.startswith("RESULT ")]
    if status or not lines:
        raise SystemExit(f"{tool} failed:\n{text[-4000:]}")
    return dict(json.loads(lines[-1].removeprefix("RESULT ")))


def command(uri: str) -> float:
    """Seconds of the whole command on a store that holds everything."""
    words = [sys.executable, "-m", "orchestrator", "sweep", str(HERE / "dag_sweep.py"), "--store", uri]
    for _ in range(2):  # the first writes the report
        begun = time.perf_counter()
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        seconds = time.perf_counter() - begun
        last = (done.stdout.strip().splitlines() or [""])[-1]
        assert last == "1000 tasks: 0 ran, 1000 stored, 0 failed, 0 skipped", done.stdout[-500:] + done.stderr[-2000:]
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", nargs="+", choices=CONTEXTS, default=list(CONTEXTS))
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    for tool in options.tools:
        python_of(tool)
    TOOLS.mkdir(exist_ok=True)
    figures: dict[str, list[Mapping[str, float]]] = {tool: [] for tool in options.tools}
    commands: list[float] = []
    folder = Path(tempfile.mkdtemp(prefix="store-", dir=TOOLS))
    try:
        for repetition in range(options.repetitions):
            for tool in options.tools:
                uri = str(folder / f"{tool}-{repetition}")
                first = child(tool, uri, second=False)
                figures[tool].append({**first, "second": child(tool, uri, second=True)["wall"]})
                if tool == "ours":
                    commands.append(command(uri))
                shutil.rmtree(uri)
                print(tool, {k: round(v, 2) for k, v in figures[tool][-1].items()}, flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    medians = {t: {k: statistics.median(f[k] for f in fs) for k in fs[0]} for t, fs in figures.items()}
    print(f"\n{'':8} {'start-up s':>10} {'run s':>8} {'tasks/s':>8} {'run / ours':>10} {'second run s':>12}")
    for tool, m in medians.items():
        ratio = f"{m['run'] / medians['ours']['run']:.2f}" if "ours" in medians else ""
        print(f"{tool:8} {m['startup']:10.2f} {m['run']:8.2f} {1000 / m['run']:8.0f} {ratio:>10} {m['second']:12.3f}")
    if commands:
        print(f"\nours, second run as a command: {statistics.median(commands):.2f} s")


if __name__ == "__main__":
    main()
