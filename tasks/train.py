"""Training: the task that every probe stands on."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from .beforehand import check_beforehand
from .compiling import RECORDED, check_compile, compiled
from .data.augment import Augment
from .data.dataset import Data, Dataset, Split, load_data
from .data.label_noise import class_map, noisy_labels
from .early_stopping import EarlyStopping
from .errors import InvalidValue
from .evaluation import arithmetic, evaluate
from .minibatch import Minibatch
from .models.model import Model
from .optimizers.optimizer import Optimizer, Progress
from .optimizers.sgd import SGD
from .recording import fitting
from .recording import record as recording
from .recording.record import Record
from .regularisers.regulariser import Regulariser, check_regularisers
from .schedules import Constant, Schedule
from .spec import AtLeast, AtMost, MoreThan
from .task import Artifact, Context, Curve, Results, Task

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["EarlyStopping", "Train"]

EVALUATED = 1000  # examples in one pass when BatchNorm's statistics are estimated anew
CHECK_EVERY = 50  # steps between two looks at whether the loss is still finite: each waits for the device


@dataclass(frozen=True)
class Train(Task):
    """Train a network by minibatch descent on the mean cross-entropy.

    Each epoch goes through the training examples in a new random order, in batches of exactly
    `batch_size`; the examples that are left over wait for another epoch. A training set smaller than
    one batch is one batch. With `batch_size=None` every step is one on all examples.

    The artifact holds `weights.safetensors` (parameters and buffers; left out if they are not finite),
    `history.parquet` and `history.npz` (one row an epoch), and with label noise `label_noise.npz`
    (`labels`: those trained on, shape (n,); `changed`: indices of those that are not the true ones), and with
    `record` what that describes.

    Streams of randomness: "init" draws the initial parameters, "order" the batches, "augmentation" the
    crops, flips and cutout, "label_noise" the labels, "noise" dropout's masks and what regularisers draw.
    Each epoch has its own part of "order", "augmentation" and "noise".
    The same seeds give the same bytes on the same hardware and number of threads, and so does a training
    that was interrupted: it continues after the last epoch of which there is a snapshot.

    Attributes:
        dataset: what to train on.
        model: the network.
        optimizer: how to update it.
        schedule: factor on the optimizer's step size over the training.
        epochs: passes over the training examples.
        batch_size: examples a step; None for all of them (full-batch gradient descent).
        micro_batch_size: largest number of examples in one forward and backward pass; the gradients of a larger
            batch are added up part by part, which takes less memory. None for no limit.
        augment: random changes to the training images; None for none.
        label_noise: share of the training labels that are replaced by wrong ones; with asymmetric noise, of
            the labels of those classes that are mistaken for another (see `tasks.data.label_noise`).
        label_noise_kind: "symmetric" takes any of the other classes, uniformly; "asymmetric" the one that the
            class is mistaken for.
        label_noise_map: for asymmetric noise, pairs (class, class it is mistaken for); None for the map
            usual on the dataset, which CIFAR10 and CIFAR100 have.
        regularisers: further changes to examples, loss, gradient or weights of each step, in this order; at most
            one of a class.
        early_stopping: when to end before the last epoch, and which epoch's weights to keep; None: neither.
        record: what else to record through the training, every so many steps; None for nothing.
        clip_norm: largest norm of the gradient that a step uses; None for no limit.
        precision: of the training's forward and backward passes. "float32" is just that; "tf32" lets
            NVIDIA GPUs round the factors of products to 10 bits; "bf16" computes them in bfloat16
            (autocast). Evaluation is always in float32.
        channels_last: store images with the channels innermost. None does so on the CPU, where it was faster
            for every convolutional net measured; on GPUs it pays with tf32 or bf16.
        compile: compile the network with `torch.compile`. "reduce-overhead" also lets a GPU replay its passes as CUDA
            graphs, without waiting for Python between two kernels: for small networks. It takes a GPU; on the
            CPU it is the same as True.
        deterministic: use only deterministic GPU kernels; False is faster, but not reproducible.
    """

    dataset: Dataset
    model: Model
    optimizer: Optimizer = SGD(lr=0.05, momentum=0.9)
    schedule: Schedule = Constant()
    epochs: Annotated[int, AtLeast(1)] = 10
    batch_size: Annotated[int, AtLeast(1)] | None = 128
    micro_batch_size: Annotated[int, AtLeast(1)] | None = None
    augment: Augment | None = None
    label_noise: Annotated[float, AtLeast(0), AtMost(1)] = 0.0
    label_noise_kind: Literal["symmetric", "asymmetric"] = "symmetric"
    label_noise_map: tuple[tuple[int, int], ...] | None = None
    regularisers: tuple[Regulariser, ...] = ()
    early_stopping: EarlyStopping | None = None
    record: Record | None = None
    clip_norm: Annotated[float, MoreThan(0)] | None = None
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    channels_last: bool | None = None
    compile: bool | Literal["reduce-overhead"] = False
    deterministic: bool = True

    streams: ClassVar[tuple[str, ...]] = ("init", "order", "augmentation", "label_noise", "noise")
    proportional_to: ClassVar[tuple[str, ...]] = ("epochs",)

    metrics: ClassVar[Mapping[str, str]] = {
        "train_loss": "training loss at the end (cross-entropy, eval mode, labels as trained on)",
        "train_accuracy": "training accuracy at the end (eval mode, labels as trained on)",
        "val_loss": "validation loss (cross-entropy)",
        "val_accuracy": "validation accuracy",
        "test_loss": "test loss (cross-entropy)",
        "test_accuracy": "test accuracy",
        "generalisation_gap": "generalisation gap (test loss − training loss)",
        "grad_norm": "gradient norm (mean over the steps of the last epoch, before clipping)",
        "epochs": "epochs trained",
        "best_epoch": "best epoch by the metric of early stopping, which keeps its weights if it is to restore them",
        "parameters": "number of parameters",
        "diverged": "ended in a non-finite loss",
        **fitting.METRICS,
        **recording.METRICS,
    }
    headline: ClassVar[tuple[str, ...]] = (
        "val_accuracy",
        "test_accuracy",
        "train_loss",
        "test_loss",
        "generalisation_gap",
    )
    curves: ClassVar[tuple[Curve, ...]] = (
        Curve(
            file="history",
            x="epoch",
            y=("running_train_loss", "val_loss"),
            title="Loss during training",
            xlabel="epoch",
            ylabel="cross-entropy",
            log_y=True,
            dashed=("running_train_loss",),
        ),
        Curve(
            file="history",
            x="epoch",
            y=("running_train_accuracy", "val_accuracy"),
            title="Accuracy during training",
            xlabel="epoch",
            ylabel="accuracy",
            dashed=("running_train_accuracy",),
        ),
        *fitting.CURVES,
        *recording.CURVES,
    )

    def validate(self) -> None:
        class_map(self.label_noise_kind, self.label_noise_map, self.dataset)
        check_beforehand(self)
        check_regularisers(self)
        check_compile(self)

    def run(self, ctx: Context, dataset: Artifact) -> Generator[Results, None, Results]:
        """Train, reporting after each epoch.

        Yields:
            `epoch` (from 1), `lr_factor`, `train_loss` and `train_accuracy` (running means over the epoch's
            steps, in training mode: what `history` calls running_train_loss), `val_loss`, `val_accuracy`,
            `generalisation_gap` (validation loss − running training loss), `grad_norm` (mean over the steps),
            with early stopping `best_epoch` (the best so far), with label noise `clean_accuracy` and
            `noisy_accuracy` (running; on examples with the true label and with another), `last` (whether it
            was the last epoch).

        Returns:
            the scalars in `metrics`. Of a diverged training the losses, accuracies and norms are None, and
            `best_epoch`, as it is without early stopping; so is what needs label noise or `record` without them.

        Raises:
            InvalidValue: model, augmentation, label noise and dataset do not go together.
        """
        import torch

        from .landscape import has_batchnorm
        from .models.dropout import has_dropout, seed_dropout

        device = ctx.device
        data = load_data(ctx, dataset)
        train, noisy = data.train, None
        confusions = class_map(self.label_noise_kind, self.label_noise_map, self.dataset, data.classes)
        if self.label_noise > 0:
            labels, changed = noisy_labels(
                train.y.cpu(), data.classes, self.label_noise, ctx.generator("label_noise"), confusions
            )
            ctx.log(f"label noise: {len(changed)} of {len(labels)} labels are wrong")
            ctx.save_arrays("label_noise", labels=labels, changed=changed)
            train = Split(train.x, labels.to(device))
            if 0 < len(changed) < len(labels):
                noisy = torch.zeros(len(labels), dtype=torch.bool).index_fill(0, changed, True).to(device)

        network = self.model.build(data.shape, data.classes, ctx.generator("init")).to(device)
        _refuse_global_dropout(network)
        channels_last = device.type == "cpu" if self.channels_last is None else self.channels_last
        channels_last = channels_last and len(data.shape) == 3
        if channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        forward, step_begins = compiled(network, self.compile)
        stepper = self.optimizer.build(network)

        examples = len(train.y)
        batch = min(self.batch_size or examples, examples)
        steps = examples // batch
        micro = self.micro_batch_size
        if micro is not None and micro < batch and has_batchnorm(network):
            raise InvalidValue(
                f"Train: micro_batch_size={micro} would give BatchNorm less than the batch of {batch}: "
                f"take a model without BatchNorm, or leave it out."
            )
        dropout = has_dropout(network)
        stopping = self.early_stopping
        best: dict[str, torch.Tensor] | None = None  # what early stopping restores
        fitted = None if noisy is None else fitting.Fitting(noisy)
        recorder = None if self.record is None else recording.Recorder(self.record, network, noisy, ctx.log)
        history: dict[str, list[Any]] = {}
        diverged = False

        def state() -> dict[str, Any]:
            """All that the epochs to come, the reports and the results depend on."""
            own = {"network": _tensors(network), "stepper": stepper.state_dict(), "history": history, "best": best}
            return own if recorder is None else {**own, "record": recorder.state_dict()}

        def inputs() -> Iterator[torch.Tensor]:
            for x in train.x.tensor_split(-(-examples // EVALUATED)):  # equal parts: they weigh alike
                x = data.normalise(x)
                yield x.contiguous(memory_format=torch.channels_last) if channels_last else x

        def report(epoch: int) -> Results:
            row = {name.removeprefix("running_"): values[epoch] for name, values in history.items()}
            return {**row, "last": epoch + 1 == self.epochs or (stopping is not None and stopping.over(row))}

        if (before := ctx.resume()) is not None:
            _put(network, before["network"])
            stepper.load_state_dict(before["stepper"])
            history, best = before["history"], before["best"]
            if recorder is not None:
                recorder.load_state_dict(before["record"])
        trained = len(history.get("epoch", ()))  # epochs behind us
        if trained:
            ctx.log(f"continued after epoch {trained}")
        for epoch in range(trained):
            yield report(epoch)

        with arithmetic(self.precision, self.deterministic):
            for epoch in range(trained, self.epochs):
                if epoch > 0 and report(epoch - 1)["last"]:
                    ctx.log(f"stopped early: the best epoch was number {history['best_epoch'][-1]}")
                    break
                network.train()
                order = torch.randperm(examples, generator=ctx.generator(f"order/{epoch}")).to(device)
                if self.augment is not None:
                    drawn = self.augment.draw(examples, ctx.generator(f"augmentation/{epoch}")).to(device)
                noise = [ctx.generator(f"noise/{type(r).__name__}/{epoch}") for r in self.regularisers]
                masks = torch.randint(1 << 62, (steps,), generator=ctx.generator(f"noise/dropout/{epoch}")).tolist()
                losses, hits, norms = (torch.zeros((), device=device) for _ in range(3))
                if fitted is not None:
                    fitted.begin()

                for step in range(steps):
                    step_begins()
                    rows = order[step * batch : (step + 1) * batch]
                    x, y = train.x.index_select(0, rows), train.y.index_select(0, rows)
                    if self.augment is None:
                        x = data.normalise(x)
                    else:
                        own = drawn[step * batch : (step + 1) * batch]
                        x = self.augment.cut_out(data.normalise(self.augment.apply(x, own)), own)
                    if channels_last:
                        x = x.contiguous(memory_format=torch.channels_last)
                    minibatch = Minibatch(
                        network,
                        x,
                        y,
                        forward=forward,
                        rows=rows,
                        classes=data.classes,
                        precision=self.precision,
                        micro=micro,
                        recorded=self.compile == RECORDED,
                    )
                    if dropout:
                        minibatch.before_forward.append(partial(seed_dropout, network, masks[step]))
                    for regulariser, generator in zip(self.regularisers, noise, strict=True):
                        regulariser.on_batch(minibatch, generator)

                    progress = Progress(epoch * steps + step, self.epochs * steps, steps)
                    observe = None if recorder is None else recorder.at(progress)
                    loss, outputs = stepper.gradient(minibatch, progress, observe)
                    for regulariser in self.regularisers:
                        regulariser.on_gradient(network)
                    norm = torch.nn.utils.get_total_norm([p.grad for p in stepper.used() if p.grad is not None])
                    if self.clip_norm is not None:
                        torch.nn.utils.clip_grads_with_norm_(stepper.parameters, self.clip_norm, norm)
                    factor = self.schedule.factor(progress.step, progress.steps)
                    stepper.step(factor)
                    if recorder is not None:
                        recorder.stepped(stepper.lr)
                    for regulariser in self.regularisers:
                        regulariser.on_step(network, stepper.lr)

                    losses += loss  # on the device: nothing here waits for it
                    right = outputs.argmax(1) == y
                    hits += right.sum()
                    norms += norm
                    if fitted is not None:
                        fitted.add(rows, right)
                    if step % CHECK_EVERY == CHECK_EVERY - 1 and not math.isfinite(losses.item()):
                        break

                done = step + 1
                running_loss = losses.item() / done
                with stepper.evaluating(inputs):
                    val_loss, val_accuracy = evaluate(network, data, data.validation)
                    if stopping is not None:
                        improved = stopping.improves(
                            history, val_loss if stopping.metric == "val_loss" else val_accuracy
                        )
                        if improved and stopping.restore:
                            best = {name: tensor.clone() for name, tensor in _tensors(network).items()}
                diverged = not (math.isfinite(running_loss) and math.isfinite(val_loss))
                row = {
                    "epoch": epoch + 1,
                    "lr_factor": factor,
                    "running_train_loss": running_loss,
                    "running_train_accuracy": hits.item() / (done * batch),
                    "val_loss": val_loss,
                    "val_accuracy": val_accuracy,
                    "generalisation_gap": val_loss - running_loss,
                    "grad_norm": norms.item() / done,
                }
                if fitted is not None:
                    row |= fitted.row()
                if stopping is not None:
                    row["best_epoch"] = epoch + 1 if improved else history["best_epoch"][-1]
                for name, value in row.items():
                    history.setdefault(name, []).append(value)
                if diverged:
                    ctx.log(f"epoch {epoch + 1}: the loss is not finite, so the training ends here")
                    break
                ctx.log(f"epoch {epoch + 1}: " + ", ".join(f"{k} {v:.4g}" for k, v in row.items() if k != "epoch"))
                ctx.snapshot(state)
                yield report(epoch)

        ctx.save_table("history", history)
        ctx.save_arrays("history", **history)
        extra = fitting.results(history)
        if recorder is not None:
            recorded = recorder.arrays()
            ctx.save_arrays("record", **recorded)
            extra |= recording.results(recorded)
        if best is not None and not diverged:
            _put(network, best)
            results = self._conclude(ctx, network, data, train, history, history["best_epoch"][-1] - 1, diverged)
        else:
            with stepper.evaluating(inputs):
                results = self._conclude(ctx, network, data, train, history, -1, diverged)
        return results if diverged else {**results, **extra}

    def _conclude(
        self,
        ctx: Context,
        network: nn.Module,
        data: Data,
        train: Split,
        history: Mapping[str, list[Any]],
        kept: int,
        diverged: bool,
    ) -> Results:
        """Write the weights that the network holds, and evaluate it with them.

        Args:
            kept: the row of the history that is about them.
        """
        save_weights(network, ctx)
        results: dict[str, Any] = dict.fromkeys(self.metrics)
        results |= {
            "epochs": len(history["epoch"]),
            "parameters": sum(p.numel() for p in network.parameters()),
            "diverged": diverged,
        }
        if not diverged:
            results["train_loss"], results["train_accuracy"] = evaluate(network, data, train)
            results["val_loss"], results["val_accuracy"] = history["val_loss"][kept], history["val_accuracy"][kept]
            results["test_loss"], results["test_accuracy"] = evaluate(network, data, data.test)
            results["generalisation_gap"] = results["test_loss"] - results["train_loss"]
            results["grad_norm"] = history["grad_norm"][-1]
            results["best_epoch"] = history["best_epoch"][-1] if "best_epoch" in history else None
        return results


def save_weights(network: nn.Module, ctx: Context) -> None:
    """Write parameters and buffers to weights.safetensors, unless one of them is not finite."""
    import torch
    from safetensors.torch import save_file

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    if all(bool(torch.isfinite(tensor).all()) for tensor in state.values()):
        save_file(state, ctx.dir / "weights.safetensors")


def _tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    """All tensors that training may change: parameters and buffers, also those that are not stored with the weights."""
    return {name: tensor.detach() for name, tensor in (*network.named_parameters(), *network.named_buffers())}


def _put(network: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give the network the values of these, which `_tensors` returned."""
    for name, tensor in _tensors(network).items():
        tensor.copy_(tensors[name])


def _refuse_global_dropout(network: nn.Module) -> None:
    from torch.nn.modules.dropout import _DropoutNd

    for name, module in network.named_modules():
        if isinstance(module, _DropoutNd) and module.p > 0:
            raise InvalidValue(
                f"The model's layer {name!r} is a dropout that draws from torch's global random state, "
                f"which no seed of the study drives: take Dropout of tasks.models.dropout."
            )
