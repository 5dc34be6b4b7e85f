"""The training loop of all stages.

A stage supplies a `Task` (the trainable module and its losses) and batches that are functions of the step number; the
loop adds the optimizer, the learning rate's course, a moving average of the weights, validation, history, progress and
checkpoints. It runs on one device or, under ``accelerate launch``, on several.
"""

import csv
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import nn

from neuropictor.data.datasets import TrainingBatches
from neuropictor.models.device import prepare_device
from neuropictor.records.files import atomic_path
from neuropictor.records.progress import progress
from neuropictor.training.board import Board
from neuropictor.training.checkpoints import CheckpointFolder, restore_state, training_state

if TYPE_CHECKING:
    from neuropictor.config import RuntimeConfig

log = logging.getLogger(__name__)

Batch = Mapping[str, torch.Tensor]
ADAM_BETAS = (0.9, 0.999)  # official training, neuropictor.md section 2
SIGTERM_STATUS = 128 + signal.SIGTERM
#: Steps between two questions of several processes whether one of them was asked to end; each waits for the device.
AGREEMENT_INTERVAL = 10
HISTORY_COLUMNS = ("step", "split", "name", "value")


class Task(Protocol):
    """What a stage supplies.

    Attributes
    ----------
    module
        The module to train; parameters without ``requires_grad`` stay as they are.
    """

    module: nn.Module

    def losses(self, module: nn.Module, batch: Batch, step: int | None) -> dict[str, torch.Tensor]:
        """Return scalar losses of a batch; ``loss`` is minimised, the others are only recorded.

        `module` is `Task.module` as prepared for the device; `step` is None in validation.
        """
        ...

    def rates(self) -> dict[str, float]:
        """Return factors on the learning rate by prefix of parameter names (empty: one rate for all)."""
        ...


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train.

    Attributes
    ----------
    steps
        Number of steps, adaptation included.
    rate
        Learning rate of each step, counted from 0.
    weight_decay
        Of AdamW.
    ema
        Decay of the moving average of the weights; 0 for none.
    validation_interval
        Steps between validations; there is always one at the end.
    fresh_optimizer_at
        Step, counted from 0, that the optimizer takes without memory of those before; None for none.
    """

    steps: int
    rate: Callable[[int], float]
    weight_decay: float
    ema: float
    validation_interval: int
    fresh_optimizer_at: int | None = None


def learning_rate(step: int, steps: int, highest: float, warmup: int, schedule: str) -> float:
    """Return the learning rate of a step: a linear rise over `warmup` steps, then constant or half a cosine to zero."""
    if step < warmup:
        return highest * (step + 1) / (warmup + 1)
    if schedule == "constant":
        return highest
    return highest * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def split_batch(batch: Batch, parts: int) -> Iterator[tuple[float, Batch]]:
    """Yield a batch in at most `parts` parts of about equal size, each with its share of the rows.

    Losses are means over rows, so the sum of the parts' losses, each times its share, is the loss of the batch.
    """
    rows = len(next(iter(batch.values())))
    size = -(-rows // parts)
    for start in range(0, rows, size):
        part = {name: values[start : start + size] for name, values in batch.items()}
        yield min(size, rows - start) / rows, part


def make_accelerator(runtime: "RuntimeConfig", parts_unused: bool = False) -> Accelerator:
    """Return accelerate's helper for the device of a runtime section; refuse fp16, it loses gradients.

    Parameters
    ----------
    runtime
        Section of the configuration. Its precision is the business of `Trainer`: accelerate would make all outputs of
        the module float32.
    parts_unused
        Whether some steps leave trained weights without a gradient, for which several processes must then search in
        every step.
    """
    if runtime.precision == "fp16":
        raise ValueError(
            "runtime.precision: 'fp16' is for sampling, small gradients are lost in it; allowed for training: fp32 or "
            "bf16, for example runtime: {precision: bf16}"
        )
    device = prepare_device(runtime)
    # All processes have the same buffers, which no step changes. A static graph would save little more and fails with
    # no_sync (torch 2.13: "expect_autograd_hooks_").
    parallel = DistributedDataParallelKwargs(
        broadcast_buffers=False, gradient_as_bucket_view=True, find_unused_parameters=parts_unused
    )
    # The others wait while one writes a checkpoint, 8 GB at the paper's size, perhaps to a slow disk.
    waiting = InitProcessGroupKwargs(timeout=timedelta(hours=1))
    return Accelerator(mixed_precision="no", cpu=device.type == "cpu", kwargs_handlers=[parallel, waiting])


class _Average:
    """Moving average of the trained parameters; its decay rises from 0.1 so that a short training is not held back."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad} if decay else {}
        self.values = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` steps."""
        if self.values:
            weight = 1 - min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self.values.values()), list(self.parameters.values()), weight)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the module's weights and the average."""
        for name, parameter in self.parameters.items():
            current = parameter.detach().clone()
            parameter.copy_(self.values[name])
            self.values[name].copy_(current)


class _Termination:
    """Notices SIGTERM so that the loop can end between two steps."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.requested = False
        self.accelerator, self.parent = accelerator, os.getppid()

    def agreed(self, due: bool) -> bool:
        """Tell whether to end after this step: all processes do if one was asked to or has lost its launcher.

        Several processes ask each other where it is `due`, a function of the step alone.
        """
        if self.accelerator.num_processes == 1:
            return self.requested
        if not due:
            return False
        asked = self.requested or os.getppid() != self.parent
        return bool(self.accelerator.reduce(torch.tensor(float(asked), device=self.accelerator.device)).item())

    @contextmanager
    def watched(self) -> Iterator["_Termination"]:
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = signal.signal(signal.SIGTERM, self._request)
        try:
            yield self
        finally:
            signal.signal(signal.SIGTERM, before)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True


class Trainer:
    """Train a task's module.

    Parameters
    ----------
    task
        Module and losses.
    batches
        Training batches by step number.
    validation
        Batches whose losses are recorded every `Recipe.validation_interval` steps; None or empty for none.
    recipe
        How long and how fast.
    runtime
        Precision, parts of a batch, workers, and intervals of log and checkpoints.
    checkpoints
        Where to save and from where to continue.
    accelerator
        See `make_accelerator`.
    board
        Where losses and sample pictures are shown, if ``runtime.tensorboard`` says so; None for nowhere.
    """

    def __init__(
        self,
        task: Task,
        batches: TrainingBatches,
        validation: TrainingBatches | None,
        recipe: Recipe,
        runtime: "RuntimeConfig",
        checkpoints: CheckpointFolder,
        accelerator: Accelerator,
        board: Board | None = None,
    ):
        self.task, self.batches, self.validation, self.recipe = task, batches, validation, recipe
        self.runtime, self.checkpoints, self.accelerator = runtime, checkpoints, accelerator
        self.board = board if runtime.tensorboard else None
        self.history: list[tuple[int, str, str, float]] = []
        fused = accelerator.device.type in ("cpu", "cuda")
        optimizer = torch.optim.AdamW(self._groups(), betas=ADAM_BETAS, weight_decay=recipe.weight_decay, fused=fused)
        self.factors = [group["factor"] for group in optimizer.param_groups]
        self.module, self.optimizer = accelerator.prepare(task.module, optimizer)
        self.average = _Average(task.module, recipe.ema)
        self.steps_per_second = 0.0

    def _groups(self) -> list[dict[str, Any]]:
        rates = self.task.rates()
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.task.module.named_parameters():
            if parameter.requires_grad:
                factor = next((rate for prefix, rate in rates.items() if name.startswith(prefix)), 1.0)
                groups.setdefault(factor, []).append(parameter)
        return [{"params": parameters, "factor": factor} for factor, parameters in groups.items()]

    def run(self, description: str) -> list[tuple[int, str, str, float]]:
        """Train to the end, leave the final (averaged) weights in the task's module, and return the history.

        Raises
        ------
        SystemExit
            After SIGTERM, once a checkpoint is saved (status 143).
        FloatingPointError
            If a loss is not finite; the checkpoints before it stay.
        """
        start = self._resume()
        if self.board:
            self.board.open(start)
        try:
            with _Termination(self.accelerator).watched() as termination:
                self._train(start, description, termination)
        finally:
            self._release()
        if self.board:
            self.board.close()
        self.average.swap()
        self.task.module.eval()
        return self.history

    def _release(self) -> None:
        """Let go of the wrapper that exchanges gradients, before the process group ends.

        Were it the last to hold the group, the group's end would wait for a thread of the group's, with Python's lock
        in hand, and that thread for the lock (torch 2.13, gloo).
        """
        self.module = self.task.module
        self.accelerator.free_memory()

    def _resume(self) -> int:
        if self.accelerator.is_main_process:
            self.checkpoints.prepare()
        self.accelerator.wait_for_everyone()
        checkpoint = self.checkpoints.newest()
        if checkpoint is None:
            return 0
        restore_state(checkpoint.tensors, self.task.module, self._adam, self.average.values)
        self.history = [tuple(row) for row in checkpoint.extra["history"]]
        return checkpoint.step

    @property
    def _adam(self) -> torch.optim.Optimizer:
        return getattr(self.optimizer, "optimizer", self.optimizer)

    def _train(self, start: int, description: str, termination: _Termination) -> None:
        steps, interval = self.recipe.steps, self.runtime.log_interval
        running: dict[str, list[torch.Tensor]] = {}
        self.module.train()
        counted, since = start, time.monotonic()
        pinned = self.accelerator.device.type == "cuda"
        loader = self.batches.loader(start, steps, self.runtime.workers, pinned)
        with progress(steps, description, start=start, unit="step") as bar:
            for step, batch in enumerate(loader, start=start):
                losses = self._step(step, batch)
                done = step + 1
                for name, value in losses.items():
                    running.setdefault(name, []).append(value)
                if done % interval == 0 or done == steps:
                    means = {name: self._over_processes(torch.stack(values).mean()) for name, values in running.items()}
                    running.clear()
                    self._record(done, "train", means)
                    now = time.monotonic()
                    self.steps_per_second = (done - counted) / max(now - since, 1e-9)
                    counted, since = done, now
                    bar.advance(1, **means, **{"steps/s": self.steps_per_second})
                else:
                    bar.advance(1)
                if done % self.recipe.validation_interval == 0 or done == steps:
                    self._validate(done)
                due = done % self.runtime.checkpoint_interval == 0
                ending = termination.agreed(due or done % AGREEMENT_INTERVAL == 0) and done < steps
                if due or ending or done == steps:
                    self._check(done, "train", {name: value.item() for name, value in losses.items()})
                    self._save(done)
                if ending:
                    self.accelerator.wait_for_everyone()  # one that ends early would have the others killed
                    log.warning("SIGTERM: saved after step %d, ending; run again to continue", done)
                    raise SystemExit(SIGTERM_STATUS)

    def _step(self, step: int, batch: Batch) -> dict[str, torch.Tensor]:
        # What dropout draws depends on the step and the process alone, also after a kill.
        entropy = np.random.SeedSequence([self.batches.seed, step, self.accelerator.process_index])
        torch.manual_seed(int(entropy.generate_state(1)[0]))
        for group, factor in zip(self._adam.param_groups, self.factors, strict=True):
            group["lr"] = self.recipe.rate(step) * factor
        if step == self.recipe.fresh_optimizer_at:
            self._adam.state.clear()
        means: dict[str, torch.Tensor] = {}
        parts = list(split_batch(batch, self.runtime.accumulation))
        for number, (share, part) in enumerate(parts, start=1):
            # Gradients of several devices are exchanged once a step, with the last part.
            waiting = self.accelerator.no_sync(self.module) if number < len(parts) else nullcontext()
            with waiting:
                with self._autocast():
                    losses = self.task.losses(self.module, self._to_device(part), step)
                self.accelerator.backward(losses["loss"] * share)
            for name, value in losses.items():
                means[name] = means.get(name, 0.0) + value.detach() * share
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(step + 1)
        return means

    def _autocast(self) -> torch.autocast:
        low = self.runtime.precision == "bf16"
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=low)

    def _over_processes(self, value: torch.Tensor) -> float:
        """Return the mean of a value over all processes, whose shares of a batch are equal."""
        return self.accelerator.reduce(value, "mean").item()

    def _to_device(self, batch: Batch) -> Batch:
        return {name: tensor.to(self.accelerator.device, non_blocking=True) for name, tensor in batch.items()}

    def _record(self, step: int, split: str, values: Mapping[str, float]) -> None:
        self._check(step, split, values)
        if self.board:
            self.board.scalars(step, split, values)
        self.history += [(step, split, name, value) for name, value in values.items()]

    def _check(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Refuse losses that are not finite, before they reach a checkpoint."""
        for name, value in values.items():
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"{split} {name} is {value} at step {step}: training has diverged. Allowed: finite losses. Lower "
                    f"learning_rate, for example to {self.recipe.rate(self.recipe.steps // 2) / 3:.1e}; the "
                    f"checkpoints in {self.checkpoints.folder} are kept"
                )

    @torch.no_grad()
    def _validate(self, step: int) -> None:
        if self.validation is None:
            return
        self.average.swap()
        self.task.module.eval()
        sums: dict[str, float] = {}
        count = 0
        for batch in self.validation.fixed():
            size = len(batch["responses"])
            with self._autocast():
                losses = self.task.losses(self.task.module, self._to_device(batch), None)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.item() * size
            count += size
        if count and self.board:
            self.board.pictures(step)
        self.task.module.train()
        self.average.swap()
        if not count:
            return
        means = {name: total / count for name, total in sums.items()}
        self._record(step, "validation", means)
        log.info("Step %d, validation: %s", step, ", ".join(f"{name} {value:.4f}" for name, value in means.items()))

    def _save(self, step: int) -> None:
        if self.accelerator.is_main_process:
            state = training_state(self.task.module, self._adam, self.average.values)
            self.checkpoints.save(step, state, {"history": self.history})


def write_history(path: str | Path, history: list[tuple[int, str, str, float]]) -> None:
    """Write the history as CSV with columns step, split, name, value, atomically."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(HISTORY_COLUMNS)
        writer.writerows((step, split, name, f"{value:.6g}") for step, split, name, value in history)
