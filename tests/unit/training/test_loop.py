import csv
import os
import signal
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from neuropictor.training import loop
from neuropictor.training.checkpoints import CheckpointFolder
from neuropictor.training.loop import Recipe, Trainer, make_accelerator, make_schedule, write_history


class Batches:
    """Stands in for TrainingBatches: a point of a line a step."""

    seed = 0

    def loader(self, start, stop, workers, pinned):
        for step in range(start, stop):
            yield {"responses": torch.tensor([[float(step % 5)]])}

    def fixed(self):
        yield {"responses": torch.tensor([[1.0], [2.0]])}
        yield {"responses": torch.tensor([[4.0]])}


class Task:
    """Fit y = 2x; optionally disturb a step."""

    def __init__(self, disturb=None):
        torch.manual_seed(0)
        self.module = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout(0.1))
        self.disturb = disturb or {}

    def losses(self, module, batch, step):
        value = self.disturb[step]() if step in self.disturb else 1.0
        loss = (module(batch["responses"]) - 2 * batch["responses"]).square().mean() * value
        return {"loss": loss, "half": loss / 2}

    def rates(self):
        return {"0.bias": 0.5}


def make(folder, runtime, steps=20, task=None, **recipe):
    recipe = Recipe(steps, 0.05, weight_decay=0.0, validation_interval=8, **recipe)
    checkpoints, batches = CheckpointFolder(folder, {"config": {}}), Batches()
    return Trainer(task or Task(), batches, batches, recipe, runtime, checkpoints, make_accelerator(runtime))


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)
    return 1.0


def assert_same_weights(one, other):
    for mine, theirs in zip(one.task.module.parameters(), other.task.module.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_learns_and_records(tmp_path, tiny_runtime):
    trainer = make(tmp_path, tiny_runtime)
    history = trainer.run("Fitting")
    train = [row for row in history if row[1:3] == ("train", "loss")]
    assert [row[0] for row in train] == list(range(2, 21, 2))
    validation = [row for row in history if row[1:3] == ("validation", "loss")]
    assert [row[0] for row in validation] == [8, 16, 20]
    assert validation[-1][3] < validation[0][3]
    assert not trainer.task.module.training
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [0.05, 0.025]
    write_history(tmp_path / "history.csv", history)
    with open(tmp_path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(history)
    assert rows[0]["name"] == "loss"


def test_validation_is_a_mean_over_images(tmp_path, tiny_runtime):
    trainer = make(tmp_path, tiny_runtime)
    history = trainer.run("Fitting")
    x = torch.tensor([[1.0], [2.0], [4.0]])
    expected = (trainer.task.module(x) - 2 * x).square().mean().item()
    assert history[-2][1:3] == ("validation", "loss")
    assert history[-2][3] == pytest.approx(expected, rel=1e-5)


def test_the_moving_average_is_what_remains(tmp_path, tiny_runtime):
    """Its decay after step n is the smaller of the given one and (1 + n) / (10 + n)."""
    last, averaged = make(tmp_path / "a", tiny_runtime), make(tmp_path / "b", tiny_runtime, ema=0.5)
    weight, weights = averaged.task.module[0].weight, []
    average = weight.detach().clone()
    last._adam.register_step_post_hook(lambda *_: weights.append(last.task.module[0].weight.detach().clone()))
    last.run("Fitting")
    averaged.run("Fitting")
    for step, value in enumerate(weights, start=1):
        average.lerp_(value, 1 - min(0.5, (1 + step) / (10 + step)))
    torch.testing.assert_close(weight, average)
    assert not torch.equal(weight, weights[-1])


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_sigterm_saves_and_a_second_run_ends_in_the_same_weights(tmp_path, tiny_runtime, ema):
    whole = make(tmp_path / "whole", tiny_runtime, ema=ema)
    history = whole.run("Fitting")

    stopped = make(tmp_path / "cut", tiny_runtime, ema=ema, task=Task({9: terminate}))
    with pytest.raises(SystemExit) as exit_:
        stopped.run("Fitting")
    assert exit_.value.code == 143
    assert stopped.checkpoints.files()[-1].name == "step-00000010.pt"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    resumed = make(tmp_path / "cut", tiny_runtime, ema=ema)
    assert resumed.run("Fitting") == history
    assert_same_weights(whole, resumed)


def test_a_loss_that_is_not_finite_stops_before_the_checkpoint(tmp_path, tiny_runtime):
    trainer = make(tmp_path, tiny_runtime, task=Task({7: lambda: float("nan")}))
    with pytest.raises(FloatingPointError, match=r"train loss is nan at step 8: .* Lower learning_rate, for example"):
        trainer.run("Fitting")
    assert [path.name for path in trainer.checkpoints.files()] == ["step-00000004.pt"]


@pytest.mark.parametrize("start", [0, 5, 40, 103])
def test_schedule(start):
    """A linear rise, then constant or half a cosine to zero, then the adaptation's rate; also from a later step on."""

    def rates(schedule):
        parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
        groups = [{"params": [p], "factor": factor} for p, factor in zip(parameters, (1.0, 0.5), strict=True)]
        optimizer = torch.optim.AdamW(groups, fused=True)
        recipe = Recipe(100, 1.0, 0.0, 1, warmup=9, schedule=schedule, adaptation_steps=10, adaptation_rate=0.3)
        course, values = make_schedule(optimizer, recipe, start), {}
        for step in range(start, recipe.all_steps):
            course = make_schedule(optimizer, recipe, step) if step == 100 else course
            values[step] = optimizer.param_groups[0]["lr"]
            assert optimizer.param_groups[1]["lr"] == values[step] / 2
            optimizer.step()
            course.step()
        return values

    for schedule, after in (("constant", lambda part: 1.0), ("cosine", lambda part: (1 + np.cos(np.pi * part)) / 2)):
        for step, rate in rates(schedule).items():
            expected = (step + 1) / 10 if step < 9 else after((step - 9) / 91) if step < 100 else 0.3
            assert rate == pytest.approx(expected, abs=1e-12)


def test_long_gradients_are_clipped(tmp_path, tiny_runtime):
    trainer, lengths = make(tmp_path, tiny_runtime, max_norm=0.1), []
    trainer._adam.register_step_pre_hook(
        lambda *_: lengths.append(torch.cat([p.grad.flatten() for p in trainer.trained]).norm().item())
    )
    trainer.run("Fitting")
    assert max(lengths) == pytest.approx(0.1, rel=1e-4)


def test_trains_where_no_image_was_held_out_for_validation(tmp_path, tiny_runtime):
    trainer = make(tmp_path, tiny_runtime)
    trainer.validation.fixed = lambda: iter(())
    assert {row[1] for row in trainer.run("Fitting")} == {"train"}


@pytest.mark.parametrize("stopped_after", [9, 10, 11])
def test_an_adaptation_starts_with_a_fresh_optimizer_also_when_it_is_continued(tmp_path, tiny_runtime, stopped_after):
    adapted = {"steps": 10, "adaptation_steps": 10, "adaptation_rate": 0.01}
    whole = make(tmp_path / "whole", tiny_runtime, **adapted)
    counts = []
    whole._adam.register_step_post_hook(lambda adam, *_: counts.append({int(s["step"]) for s in adam.state.values()}))
    whole.run("Fitting")
    assert counts == [{step} for step in (*range(1, 11), *range(1, 11))]

    stopped = make(tmp_path / "cut", tiny_runtime, task=Task({stopped_after - 1: terminate}), **adapted)
    with pytest.raises(SystemExit):
        stopped.run("Fitting")
    assert stopped.checkpoints.newest()["step"] == stopped_after
    resumed = make(tmp_path / "cut", tiny_runtime, **adapted)
    resumed.run("Fitting")
    assert_same_weights(whole, resumed)


def test_several_processes_ask_each_other_every_ten_steps_and_with_checkpoints(tmp_path, tiny_runtime, monkeypatch):
    done, asked, reduce = [], [], loop.Accelerator.reduce

    def noted(self, value, *mean):
        if not mean:
            asked.append(len(done))
        return reduce(self, value, *mean)

    monkeypatch.setattr(loop.Accelerator, "num_processes", 2)
    monkeypatch.setattr(loop.Accelerator, "reduce", noted)
    runtime = tiny_runtime.model_copy(update={"checkpoint_interval": 8})
    task = Task({step: lambda: done.append(1) or 1.0 for step in range(33)})
    make(tmp_path, runtime, steps=33, task=task).run("Fitting")
    assert asked == [8, 10, 16, 20, 24, 30, 32]


def test_processes_wait_for_a_checkpoint_on_a_slow_disk(tiny_runtime):
    """8 GB at the paper's size; by default they give up after ten minutes."""
    handler = make_accelerator(tiny_runtime).init_handler
    assert handler is not None and handler.timeout >= timedelta(hours=1)


@pytest.mark.parametrize(("device", "pinned"), [("cuda", True), ("cpu", False)])
def test_batches_are_asked_for_in_pinned_memory_on_a_gpu_alone(tmp_path, tiny_runtime, monkeypatch, device, pinned):
    asked = []
    monkeypatch.setattr(Batches, "loader", lambda self, *given: asked.append(given[-1]) or iter(()))
    trainer = make(tmp_path, tiny_runtime)
    trainer.accelerator = SimpleNamespace(device=torch.device(device))
    trainer._train(0, "Fitting", None)
    assert asked == [pinned]


def test_outputs_of_networks_stay_in_low_precision(tiny_runtime):
    """What accelerate prepares for bf16 itself hands them on in float32."""
    module = make_accelerator(tiny_runtime.model_copy(update={"precision": "bf16"})).prepare(torch.nn.Linear(3, 3))
    with torch.autocast("cpu", torch.bfloat16):
        assert module(torch.zeros(1, 3)).dtype == torch.bfloat16


def test_each_step_of_each_process_draws_its_own_dropout(tmp_path, tiny_runtime, monkeypatch):
    draws = {}
    for run, process in enumerate((0, 1, 0)):
        monkeypatch.setattr(loop.Accelerator, "process_index", process)
        values = draws[run] = []
        task = Task({step: lambda values=values: values.append(torch.rand(()).item()) or 1.0 for step in range(3)})
        make(tmp_path / str(run), tiny_runtime, steps=3, task=task).run("Fitting")
    assert draws[0] == draws[2]
    assert len({*draws[0], *draws[1]}) == 6


def test_moments_come_back_in_the_memory_layout_of_their_weights(tmp_path, tiny_runtime):
    """The fused optimizer goes through weights and moments side by side, whatever their strides."""

    class Convolution(Task):
        def __init__(self, disturb=None):
            super().__init__(disturb)
            self.module = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)

        def losses(self, module, batch, step):
            images = torch.full((1, 3, 5, 5), batch["responses"].sum().item()).cumsum(2)
            return {"loss": module(images).square().mean() * self.disturb[step]()}

        def rates(self):
            return {}

    steady = {step: lambda: 1.0 for step in (*range(20), None)}
    whole = make(tmp_path / "whole", tiny_runtime, task=Convolution(steady), ema=0.5)
    whole.run("Fitting")
    with pytest.raises(SystemExit):
        make(tmp_path / "cut", tiny_runtime, task=Convolution(steady | {9: terminate}), ema=0.5).run("Fitting")
    resumed = make(tmp_path / "cut", tiny_runtime, task=Convolution(steady), ema=0.5)
    resumed.run("Fitting")
    weight = resumed.task.module.weight
    assert resumed._adam.state[weight]["exp_avg"].stride() == weight.stride() != torch.empty(4, 3, 3, 3).stride()
    assert_same_weights(whole, resumed)
