"""Ray Tune's logger callbacks, told of our trials. They live in the tracker's process (see `process`).

Each is handed what Tune would hand it: something like a Tune trial, and results with a `training_iteration`. What
stands here besides is what Tune's callbacks leave out: going on with a run that is there, and how a trial ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Client", "Seen", "Trial", "allowed", "make_client"]

Values = Mapping[str, float]


@dataclass
class Seen:
    """What a tracker holds of a trial already.

    Attributes:
        epochs: those that were told; `names`: of the results that were.
        status: how it ended; None while it has not.
    """

    epochs: set[int] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    status: str | None = None


class Trial:
    """A trial as Tune's callbacks want to see one.

    Attributes:
        key: of the training.
        trial_id: fit for a file's name and for all trackers, the same in every run.
        config, evaluated_params: its parameters.
        tags: sweep, run, key, setting, seed.
        local_path: a folder of its own, where the tracker wants one.
        experiment_dir_name: the sweep.
    """

    def __init__(self, told: Mapping[str, Any], folder: Path | None = None) -> None:
        self.key: str = told["key"]
        self.trial_id = self.key[:32]
        self.name: str = told["name"]
        self.config: dict[str, Any] = {allowed(k): v for k, v in told["params"].items()}
        self.evaluated_params = self.config
        self.tags: dict[str, str] = dict(told["tags"])
        self.experiment_dir_name = self.experiment_tag = self.tags["sweep"]
        self.local_path = str(folder or "")

    def __str__(self) -> str:
        return self.name

    def init_local_path(self) -> None:
        """Make its folder."""
        os.makedirs(self.local_path, exist_ok=True)


def allowed(name: str) -> str:
    """A name as every tracker takes it: some refuse the signs in that of a metric such as "Lanczos(k=3).lambda_max"."""
    return re.sub(r"_+", "_", re.sub(r"[^\w./ -]", "_", name)).replace("_.", ".").strip("_ ")


class Client:
    """One tracker, by Tune's callback for it.

    Attributes:
        answers: whether it can be asked what it holds, and so be told of trials of earlier runs too.
        most_open: trials that may be open at a time.
    """

    answers = False
    most_open = 100

    def __init__(self, callback: Any) -> None:
        self.callback = callback

    def setup(self) -> None:
        """Reach the tracker; raises what its package raises if that fails."""
        self.callback.setup()

    def known(self) -> dict[str, Seen]:
        """What it holds of the sweep's trials, by key."""
        return {}

    def trial(self, told: Mapping[str, Any]) -> Trial:
        """The trial, from the message that speaks of it."""
        return Trial(told)

    def start(self, trial: Trial) -> None:
        """Begin with a trial, or go on with one."""
        self.callback.log_trial_start(trial)

    def epoch(self, trial: Trial, epoch: int, values: Values) -> None:
        """What was measured in an epoch."""
        self.log(trial, epoch, values)

    def results(self, trial: Trial, epoch: int, values: Values) -> None:
        """Results of the training or a probe; `epoch`: the last one."""
        self.log(trial, epoch, values)

    def log(self, trial: Trial, step: int, values: Values) -> None:
        """Numbers at a step; their names are `allowed`."""
        self.callback.log_trial_result(step, trial, {**values, "training_iteration": step})

    def note(self, trial: Trial, seen: Seen) -> None:
        """What was told so far, where the client itself has to remember that."""

    def end(self, trial: Trial, seen: Seen) -> None:
        """Done with a trial, for good or until something else comes."""
        self.callback.log_trial_end(trial, failed=seen.status == "failed")

    def close(self) -> None:
        """Wait until all has arrived."""
        self.callback.on_experiment_end([])


class MLflow(Client):
    """An experiment a sweep, a run a trial. It is asked for runs with a tag `key`, so nothing is told twice."""

    answers = True
    most_open = 100_000

    def __init__(self, where: str, sweep: str) -> None:
        # A server that is not there is to be noticed in seconds, not in the ten minutes of MLflow's own patience.
        for name, value in (("TIMEOUT", "20"), ("MAX_RETRIES", "2"), ("BACKOFF_FACTOR", "1")):
            os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        super().__init__(MLflowLoggerCallback(tracking_uri=where, experiment_name=sweep))
        self._where = where
        self._runs: dict[str, str] = {}

    def known(self) -> dict[str, Seen]:
        from mlflow import MlflowClient

        self._api = MlflowClient(tracking_uri=self._where)
        found: dict[str, Seen] = {}
        token = None
        while True:
            page = self._api.search_runs([self.callback.mlflow_util.experiment_id], max_results=1000, page_token=token)
            for run in page:
                if (key := run.data.tags.get("key")) is not None:
                    self._runs[key] = run.info.run_id
                    epochs = int(run.data.metrics.get("epoch", 0))
                    found[key] = Seen(set(range(1, epochs + 1)), set(run.data.metrics), run.data.tags.get("status"))
            token = page.token
            if not token:
                return found

    def start(self, trial: Trial) -> None:
        if (run := self._runs.get(trial.key)) is not None:
            self.callback._trial_runs[trial] = run
            self._api.update_run(run, status="RUNNING")
        self.callback.tags = dict(trial.tags)
        super().start(trial)
        self._runs[trial.key] = self.callback._trial_runs[trial]

    def log(self, trial: Trial, step: int, values: Values) -> None:
        # Tune's callback asks the server twice for every number.
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        for first in range(0, len(metrics), 1000):
            self._api.log_batch(self._runs[trial.key], metrics=metrics[first : first + 1000])

    def end(self, trial: Trial, seen: Seen) -> None:
        if seen.status is not None:
            self._api.set_tag(self._runs[trial.key], "status", seen.status)
        super().end(trial, seen)
        if seen.status == "interrupted":
            self._api.set_terminated(self._runs[trial.key], "KILLED")


class TensorBoard(Client):
    """A folder a trial. What was told is noted beside its event files, so nothing is told twice."""

    answers = True
    NOTE = "logged.json"

    def __init__(self, where: str, sweep: str) -> None:
        from ray.tune.logger import TBXLoggerCallback

        class Callback(TBXLoggerCallback):
            """Puts the last value of everything into the table of hyper-parameters, not only what came last."""

            def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
                before = self._trial_result.get(trial, {})
                super().log_trial_result(iteration, trial, result)
                self._trial_result[trial] = {**before, **self._trial_result[trial]}

        super().__init__(Callback())
        self._folder = Path(where).expanduser() / sweep

    def known(self) -> dict[str, Seen]:
        found = {}
        for path in self._folder.glob(f"*/{self.NOTE}"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                note = json.loads(path.read_text())
                found[str(note["key"])] = Seen(set(note["epochs"]), set(note["names"]), note["status"])
        return found

    def trial(self, told: Mapping[str, Any]) -> Trial:
        name = re.sub(r"[^\w.=,+-]+", "_", told["name"])[:80].strip("_")
        return Trial(told, self._folder / f"{name}-{told['key'][:8]}")

    def end(self, trial: Trial, seen: Seen) -> None:
        trial.evaluated_params = {**trial.config, "status": seen.status or "running"}
        super().end(trial, seen)

    def note(self, trial: Trial, seen: Seen) -> None:
        path = Path(trial.local_path) / self.NOTE
        note = {"key": trial.key, "epochs": sorted(seen.epochs), "names": sorted(seen.names), "status": seen.status}
        path.with_suffix(".new").write_text(json.dumps(note))
        path.with_suffix(".new").replace(path)


class WandB(Client):
    """A project's group a sweep, a run a trial, with the same identifier whenever it is told of again.

    Tune's callback starts two processes for each trial. Here all runs are in this one, which wandb has learnt since.
    """

    def __init__(self, where: str, sweep: str) -> None:
        from ray.air.integrations.wandb import WandbLoggerCallback

        class Callback(WandbLoggerCallback):
            """With the runs in this process; results belong to the summary, they have no course."""

            def __init__(self, **options: Any) -> None:
                super().__init__(**options)
                self.runs: dict[Any, Any] = {}

            def _start_logging_actor(self, trial: Any, exclude_results: list[str], **options: Any) -> None:
                import wandb

                quiet = wandb.Settings(
                    console="off",
                    silent=True,
                    x_disable_stats=True,
                    disable_git=True,
                    disable_code=True,
                    init_timeout=30,
                )
                options = {**options, "resume": "allow", "reinit": "create_new"}
                self.runs[trial] = wandb.init(**options, tags=[trial.tags["sweep"]], settings=quiet)
                self.runs[trial].config.update(trial.tags, allow_val_change=True)

            def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
                self.runs[trial].log(result, step=iteration)

            def log_trial_end(self, trial: Any, failed: bool = False) -> None:
                self.runs.pop(trial).finish(exit_code=int(failed))

            def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
                for trial in list(self.runs):
                    self.log_trial_end(trial)

        owner, _, project = where.rpartition("/")
        super().__init__(Callback(project=project, group=sweep, **({"entity": owner} if owner else {})))

    def results(self, trial: Trial, epoch: int, values: Values) -> None:
        self.callback.runs[trial].summary.update(values)

    def end(self, trial: Trial, seen: Seen) -> None:
        if seen.status is not None:
            self.callback.runs[trial].summary["status"] = seen.status
        super().end(trial, seen)


class Comet(Client):
    """An experiment a trial; a file to be uploaded, if there is no API key but a $COMET_OFFLINE_DIRECTORY."""

    most_open = 20

    def __init__(self, where: str, sweep: str) -> None:
        import comet_ml
        from ray.air.integrations.comet import CometLoggerCallback

        owner, _, project = where.rpartition("/")
        self._online = bool(comet_ml.get_config("comet.api_key")) or not os.environ.get("COMET_OFFLINE_DIRECTORY")
        self._options: dict[str, Any] = {"project_name": project, **({"workspace": owner} if owner else {})}
        self._options |= dict.fromkeys(("log_code", "log_graph", "parse_args", "log_env_details"), False)
        self._options["display_summary_level"] = 0
        super().__init__(CometLoggerCallback(online=self._online, tags=[sweep], **self._options))
        self._keys: dict[str, str] = {}

    def start(self, trial: Trial) -> None:
        import comet_ml

        experiments = self.callback._trial_experiments
        if (key := self._keys.get(trial.key)) is not None:
            again = comet_ml.ExistingExperiment if self._online else comet_ml.ExistingOfflineExperiment
            experiments[trial] = again(previous_experiment=key, **self._options)
        super().start(trial)
        self._keys[trial.key] = experiments[trial].get_key()
        experiments[trial].log_others(trial.tags)

    def end(self, trial: Trial, seen: Seen) -> None:
        if seen.status is not None:
            self.callback._trial_experiments[trial].log_other("status", seen.status)
        super().end(trial, seen)


def make_client(kind: str, where: str, sweep: str) -> Client:
    """The client for a kind of tracker (see `target.KINDS`)."""
    made: dict[str, Callable[[str, str], Client]] = {
        "mlflow": MLflow,
        "tensorboard": TensorBoard,
        "wandb": WandB,
        "comet": Comet,
    }
    return made[kind](where, sweep)
