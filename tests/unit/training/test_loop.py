import csv
import os
import signal

import pytest
import torch

from neuropictor.training import loop
from neuropictor.training.checkpoints import CheckpointFolder
from neuropictor.training.loop import Recipe, Trainer, learning_rate, make_accelerator, write_history


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


def make(folder, runtime, steps=20, ema=0.0, task=None, validation=True, fresh=None):
    recipe = Recipe(steps, lambda step: 0.05, 0.0, ema=ema, validation_interval=8, fresh_optimizer_at=fresh)
    checkpoints = CheckpointFolder(folder, {"config": {}})
    batches = Batches()
    return Trainer(
        task or Task(),
        batches,
        batches if validation else None,
        recipe,
        runtime,
        checkpoints,
        make_accelerator(runtime),
    )


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


def test_validation_is_a_mean_over_pictures(tmp_path, tiny_runtime):
    trainer = make(tmp_path, tiny_runtime)
    history = trainer.run("Fitting")
    x = torch.tensor([[1.0], [2.0], [4.0]])
    expected = (trainer.task.module(x) - 2 * x).square().mean().item()
    assert history[-2][1:3] == ("validation", "loss")
    assert history[-2][3] == pytest.approx(expected, rel=1e-5)


def test_the_moving_average_is_what_remains(tmp_path, tiny_runtime):
    last = make(tmp_path / "a", tiny_runtime)
    last.run("Fitting")
    averaged = make(tmp_path / "b", tiny_runtime, ema=0.9)
    averaged.run("Fitting")
    weight = last.task.module[0].weight
    torch.testing.assert_close(averaged.average.values["0.weight"], weight)  # the last weights went the other way
    assert not torch.equal(averaged.task.module[0].weight, weight)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_sigterm_saves_and_a_second_run_ends_in_the_same_weights(tmp_path, tiny_runtime, ema):
    whole = make(tmp_path / "whole", tiny_runtime, ema=ema)
    history = whole.run("Fitting")

    def terminate():
        os.kill(os.getpid(), signal.SIGTERM)
        return 1.0

    stopped = make(tmp_path / "cut", tiny_runtime, ema=ema, task=Task({9: terminate}))
    with pytest.raises(SystemExit) as exit_:
        stopped.run("Fitting")
    assert exit_.value.code == 143
    assert stopped.checkpoints.files()[-1].name == "step-00000010.safetensors"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    resumed = make(tmp_path / "cut", tiny_runtime, ema=ema)
    assert resumed.run("Fitting") == history
    for one, two in zip(whole.task.module.parameters(), resumed.task.module.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_loss_that_is_not_finite_stops_before_the_checkpoint(tmp_path, tiny_runtime):
    trainer = make(tmp_path, tiny_runtime, task=Task({7: lambda: float("nan")}))
    with pytest.raises(FloatingPointError, match=r"train loss is nan at step 8: .* Lower learning_rate, for example"):
        trainer.run("Fitting")
    assert [path.name for path in trainer.checkpoints.files()] == ["step-00000004.safetensors"]


def test_learning_rate():
    rates = [learning_rate(step, 100, 1.0, 9, "constant") for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[99] == 1.0
    cosine = [learning_rate(step, 100, 1.0, 9, "cosine") for step in range(100)]
    assert cosine[:9] == rates[:9]
    assert cosine[9] == 1.0
    assert cosine[99] < 0.001
    assert sorted(cosine[9:], reverse=True) == cosine[9:]


def test_trains_where_no_picture_was_held_out_for_validation(tmp_path, tiny_runtime):
    trainer = make(tmp_path, tiny_runtime)
    trainer.validation.fixed = lambda: iter(())
    assert {row[1] for row in trainer.run("Fitting")} == {"train"}


@pytest.mark.parametrize("stopped_after", [9, 10, 11])
def test_an_adaptation_starts_with_a_fresh_optimizer_also_when_it_is_continued(tmp_path, tiny_runtime, stopped_after):
    whole = make(tmp_path / "whole", tiny_runtime, fresh=10)
    counts = []
    whole._adam.register_step_post_hook(lambda adam, *_: counts.append({int(s["step"]) for s in adam.state.values()}))
    whole.run("Fitting")
    assert counts == [{step} for step in (*range(1, 11), *range(1, 11))]

    def terminate():
        os.kill(os.getpid(), signal.SIGTERM)
        return 1.0

    stopped = make(tmp_path / "cut", tiny_runtime, task=Task({stopped_after - 1: terminate}), fresh=10)
    with pytest.raises(SystemExit):
        stopped.run("Fitting")
    assert stopped.checkpoints.newest().step == stopped_after
    resumed = make(tmp_path / "cut", tiny_runtime, fresh=10)
    resumed.run("Fitting")
    for one, two in zip(whole.task.module.parameters(), resumed.task.module.parameters(), strict=True):
        assert torch.equal(one, two)


def test_several_processes_ask_each_other_every_ten_steps_and_with_checkpoints(tmp_path, tiny_runtime, monkeypatch):
    trainer, asked = make(tmp_path, tiny_runtime.model_copy(update={"checkpoint_interval": 8}), steps=33), []
    monkeypatch.setattr(loop._Termination, "agreed", lambda self, due: asked.append(due))
    trainer.run("Fitting")
    assert [step for step, due in enumerate(asked, start=1) if due] == [8, 10, 16, 20, 24, 30, 32]


def test_each_step_of_each_process_draws_its_own_dropout(tmp_path, tiny_runtime, monkeypatch):
    draws = {}
    for run, process in enumerate((0, 1, 0)):
        monkeypatch.setattr(loop.Accelerator, "process_index", process)
        made = draws[run] = []
        task = Task({step: lambda made=made: made.append(torch.rand(()).item()) or 1.0 for step in range(3)})
        make(tmp_path / str(run), tiny_runtime, steps=3, task=task).run("Fitting")
    assert draws[0] == draws[2]
    assert len({*draws[0], *draws[1]}) == 6
