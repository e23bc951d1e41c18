"""Trackers that people have already: MLflow, TensorBoard, Weights & Biases, Comet (`sweep FILE --log mlflow:URI`).

One run in a tracker is one trial: a setting with a seed. It is told through Ray Tune's own logger callbacks, which know
each tracker's ways; a Tune trial is something else here (a bundle of tasks), so Tune does not call them itself.

- `target`: what `--log` says, checked before anything runs.
- `feed`: in the driver; turns events of the run into messages, and never waits for anybody.
- `process`: a process of its own for each tracker, to which these go. What a tracker's client does (import for
  seconds, start threads, wait for a server, die) happens there, where it can neither fail nor delay the run.
- `clients`: in that process; Tune's callback for each tracker.
"""

from .feed import Trackers
from .target import Target, parse_target

__all__ = ["Target", "Trackers", "parse_target"]
