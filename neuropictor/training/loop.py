"""The training loop of all stages.

A stage supplies a `Task` (the trainable module and its losses) and `Batches`, functions of the step number; the loop
adds the optimizer, the learning rate's schedule, a moving average of the weights, validation, history, progress and
checkpoints. It runs on one device or, under ``accelerate launch``, on several.
"""

import csv
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import nn

from neuropictor.models.device import prepare_device
from neuropictor.records.files import atomic_path
from neuropictor.records.progress import progress
from neuropictor.training.checkpoints import CheckpointFolder
from neuropictor.training.monitor import Monitor

if TYPE_CHECKING:
    from neuropictor.config import CalibrateConfig, ReconstructConfig, RefineConfig, RuntimeConfig

log = logging.getLogger(__name__)

Batch = Mapping[str, torch.Tensor]
#: Step, split, name of a loss, value.
History = list[tuple[int, str, str, float]]
ADAM_BETAS = (0.9, 0.999)  # official training, neuropictor.md section 2
SIGTERM_STATUS = 128 + signal.SIGTERM
#: Steps between checks whether any of several processes was asked to end; each check waits for the device.
AGREEMENT_INTERVAL = 10
HISTORY_COLUMNS = ("step", "split", "name", "value")


class Task:
    """What a stage supplies.

    Attributes
    ----------
    module
        The module to train; parameters without ``requires_grad`` stay unchanged.
    """

    module: nn.Module

    def losses(self, module: nn.Module, batch: Batch, step: int | None) -> dict[str, torch.Tensor]:
        """Return scalar losses of a batch; ``loss`` is minimised, the others are only recorded.

        `module` is `Task.module` as prepared for the device; `step` is None in validation.
        """
        raise NotImplementedError

    def rates(self) -> dict[str, float]:
        """Return factors on the learning rate by prefix of parameter names (empty: one rate for all)."""
        return {}


class Batches(Protocol):
    """Batches as functions of the step number, see `neuropictor.data.datasets.TrainingBatches`.

    Attributes
    ----------
    seed
        Seed of the training.
    """

    seed: int

    def loader(self, start: int, stop: int, workers: int, pinned: bool) -> Iterable[Batch]:
        """Return the batches of steps ``start`` to ``stop - 1``."""
        ...

    def fixed(self) -> Iterable[Batch]:
        """Return the batches of a validation."""
        ...


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train."""

    steps: int  # without those of the adaptation
    learning_rate: float  # the highest one
    weight_decay: float  # of AdamW
    validation_interval: int  # in steps; there is always a validation at the end
    ema: float = 0.0  # decay of the moving average of the weights, which replaces them in the end; 0: none
    warmup: int = 0  # steps in which the learning rate rises linearly
    schedule: Literal["constant", "cosine"] = "constant"  # of the learning rate afterwards; half a cosine, to zero
    betas: tuple[float, float] = ADAM_BETAS  # of AdamW
    max_norm: float = math.inf  # length to which gradients are clipped
    #: Further steps at a constant learning rate, which the optimizer takes without memory of those before.
    adaptation_steps: int = 0
    adaptation_rate: float = 0.0

    @classmethod
    def of(cls, config: "CalibrateConfig | ReconstructConfig | RefineConfig") -> "Recipe":
        """Make a recipe from a stage's section."""
        names = ("steps", "learning_rate", "weight_decay", "validation_interval", "ema", "warmup", "schedule")
        recipe = cls(**{name: getattr(config, name) for name in names})
        adaptation = getattr(config, "guidance_adaptation", None)
        if adaptation is None:
            return recipe
        return replace(recipe, adaptation_steps=adaptation.steps, adaptation_rate=adaptation.learning_rate)

    @property
    def all_steps(self) -> int:
        """Number of steps, those of the adaptation included."""
        return self.steps + self.adaptation_steps


def make_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Set the learning rate of a step, counted from 0, and return the scheduler for the next ones.

    Every group of the optimizer has a ``factor`` on the rate. diffusers' warm-up begins with a step at rate 0, which is
    left out.
    """
    adapting = step >= recipe.steps
    for group in optimizer.param_groups:
        group["initial_lr"] = (recipe.adaptation_rate if adapting else recipe.learning_rate) * group["factor"]
    name = {"constant": "constant_with_warmup"}.get(recipe.schedule, recipe.schedule)
    counts: dict[str, Any] = {"num_warmup_steps": recipe.warmup + 1, "num_training_steps": recipe.steps + 1}
    return get_scheduler("constant" if adapting else name, optimizer, **counts, last_epoch=step)


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
        Section of the configuration. `Trainer` handles its precision: accelerate would make all outputs of
        the module float32.
    parts_unused
        Whether some steps leave trained weights without a gradient; several processes then search for these in every
        step.
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
    # The others wait while one process writes a checkpoint, 8 GB at the paper's size, perhaps to a slow disk.
    waiting = InitProcessGroupKwargs(timeout=timedelta(hours=1))
    return Accelerator(mixed_precision="no", cpu=device.type == "cpu", kwargs_handlers=[parallel, waiting])


class _Termination:
    """Notices SIGTERM so that the loop can end between two steps."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.requested = False
        self.accelerator, self.parent = accelerator, os.getppid()

    def agreed(self, due: bool) -> bool:
        """Tell whether to end after this step: all processes end if one was asked to or has lost its launcher.

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
        Those of training.
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
    monitor
        Shows losses and sample images, if ``runtime.tensorboard`` says so; None for nowhere.

    Attributes
    ----------
    history
        Losses so far.
    steps_per_second
        Over the last interval of the log.
    """

    def __init__(
        self,
        task: Task,
        batches: Batches,
        validation: Batches | None,
        recipe: Recipe,
        runtime: "RuntimeConfig",
        checkpoints: CheckpointFolder,
        accelerator: Accelerator,
        monitor: Monitor | None = None,
    ):
        self.task, self.batches, self.validation, self.recipe = task, batches, validation, recipe
        self.runtime, self.checkpoints, self.accelerator = runtime, checkpoints, accelerator
        self.monitor = monitor if runtime.tensorboard else None
        self.history: History = []
        fused = accelerator.device.type in ("cpu", "cuda")
        optimizer = torch.optim.AdamW(self._groups(), betas=recipe.betas, weight_decay=recipe.weight_decay, fused=fused)
        self.module, self.optimizer = accelerator.prepare(task.module, optimizer)
        self.trained = [parameter for parameter in task.module.parameters() if parameter.requires_grad]
        # Its decay rises from 2/11 on, so that a short training is not held back.
        self.average = EMAModel(self.trained, recipe.ema, update_after_step=-1, foreach=True) if recipe.ema else None
        self.steps_per_second = 0.0

    def _groups(self) -> list[dict[str, Any]]:
        rates = self.task.rates()
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.task.module.named_parameters():
            if parameter.requires_grad:
                factor = next((rate for prefix, rate in rates.items() if name.startswith(prefix)), 1.0)
                groups.setdefault(factor, []).append(parameter)
        return [{"params": parameters, "factor": factor} for factor, parameters in groups.items()]

    def run(self, description: str) -> History:
        """Train to the end, leave the final (averaged) weights in the task's module, and return the history.

        Raises
        ------
        SystemExit
            After SIGTERM, once a checkpoint is saved (status 143).
        FloatingPointError
            If a loss is not finite; the checkpoints before it stay.
        """
        start = self._resume()
        self.schedule = make_schedule(self._adam, self.recipe, start)
        if self.monitor:
            self.monitor.open(start)
        try:
            with _Termination(self.accelerator).watched() as termination:
                self._train(start, description, termination)
        finally:
            self._release()
        if self.monitor:
            self.monitor.close()
        if self.average:
            self.average.copy_to(self.trained)
        self.task.module.eval()
        return self.history

    def _release(self) -> None:
        """Drop the wrapper that exchanges gradients, before the process group ends.

        Were it the last reference to the group, destroying the group would wait for one of its threads while holding
        the GIL, and that thread for the GIL (torch 2.13, gloo).
        """
        self.module = self.task.module
        self.accelerator.free_memory()

    def _resume(self) -> int:
        if self.accelerator.is_main_process:
            self.checkpoints.prepare()
        self.accelerator.wait_for_everyone()
        state = self.checkpoints.newest()
        if state is None:
            return 0
        self.task.module.load_state_dict(state["module"])
        self._adam.load_state_dict(state["optimizer"])
        if self.average:
            self.average.load_state_dict(state["average"])
            self.average.to(self.accelerator.device)
        self.history = state["history"]
        return state["step"]

    @property
    def _adam(self) -> torch.optim.Optimizer:
        return getattr(self.optimizer, "optimizer", self.optimizer)

    def _train(self, start: int, description: str, termination: _Termination) -> None:
        steps, interval = self.recipe.all_steps, self.runtime.log_interval
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
                    self.accelerator.wait_for_everyone()  # a process that ends early would get the others killed
                    log.warning("SIGTERM: saved after step %d, ending; run again to continue", done)
                    raise SystemExit(SIGTERM_STATUS)

    def _step(self, step: int, batch: Batch) -> dict[str, torch.Tensor]:
        # Dropout depends only on the step and the process, also after a kill.
        entropy = np.random.SeedSequence([self.batches.seed, step, self.accelerator.process_index])
        torch.manual_seed(int(entropy.generate_state(1)[0]))
        if step == self.recipe.steps:  # the adaptation begins
            self._adam.state.clear()
            self.schedule = make_schedule(self._adam, self.recipe, step)
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
        if math.isfinite(self.recipe.max_norm):
            self.accelerator.clip_grad_norm_(self.trained, self.recipe.max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        if self.average:
            self.average.step(self.trained)
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
        if self.monitor:
            self.monitor.scalars(step, split, values)
        self.history += [(step, split, name, value) for name, value in values.items()]

    def _check(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Refuse losses that are not finite, before they reach a checkpoint."""
        for name, value in values.items():
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"{split} {name} is {value} at step {step}: training has diverged. Allowed: finite losses. Lower "
                    f"learning_rate, for example to {self.recipe.learning_rate / 3:.1e}; the "
                    f"checkpoints in {self.checkpoints.folder} are kept"
                )

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Give the module the averaged weights for a while, in evaluation mode."""
        if self.average:
            self.average.store(self.trained)
            self.average.copy_to(self.trained)
        self.task.module.eval()
        yield
        self.task.module.train()
        if self.average:
            self.average.restore(self.trained)

    @torch.no_grad()
    def _validate(self, step: int) -> None:
        if self.validation is None:
            return
        sums: dict[str, float] = {}
        count = 0
        with self._averaged():
            for batch in self.validation.fixed():
                size = len(next(iter(batch.values())))
                with self._autocast():
                    losses = self.task.losses(self.task.module, self._to_device(batch), None)
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0.0) + value.item() * size
                count += size
            if count and self.monitor:
                self.monitor.images(step)
        if not count:
            return
        means = {name: total / count for name, total in sums.items()}
        self._record(step, "validation", means)
        log.info("Step %d, validation: %s", step, ", ".join(f"{name} {value:.4f}" for name, value in means.items()))

    def _save(self, step: int) -> None:
        if self.accelerator.is_main_process:
            state = {"step": step, "history": self.history, "module": self.task.module.state_dict()}
            state["optimizer"] = self._adam.state_dict()
            if self.average:
                state["average"] = self.average.state_dict()
            self.checkpoints.save(state)


def write_history(path: str | Path, history: History) -> None:
    """Write the history as CSV with columns step, split, name, value, atomically."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(HISTORY_COLUMNS)
        writer.writerows((step, split, name, f"{value:.6g}") for step, split, name, value in history)
