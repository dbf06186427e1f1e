"""`fit` learns, repeats, resumes to the bit, keeps checkpoints whole, and says what is wrong."""

import copy
import dataclasses
import itertools
import runpy
import signal
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from distill_lib import training
from distill_lib.checkpoints import save_checkpoint
from distill_lib.data import Images, jitter
from distill_lib.distiller import Distiller
from distill_lib.models import CNN, MLP
from distill_lib.objectives import Loss, SoftTargets
from distill_lib.training import (
    Learner,
    Supervised,
    adamw,
    constant,
    evaluate,
    fit,
    one_cycle,
    predict,
)


def images(n=96, seed=0):
    """Three classes that a small network can tell apart: a bright row each."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (n,), generator=g)
    x = torch.randint(0, 60, (n, 1, 6, 6), generator=g, dtype=torch.uint8)
    x[torch.arange(n), 0, 2 * y] = 255
    return Images(x, y, ("a", "b", "c"), 0.5, 0.3)


def network(seed=0, dropout=0.5):
    torch.manual_seed(seed)
    return MLP(36, 16, 3, dropout=dropout)


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_fit_learns_and_reports():
    model = network(dropout=0.0)
    history = fit(Supervised(model), images(), epochs=20, batch_size=32, validation=images(seed=1))
    assert len(history) == 20
    assert set(history[0]) == {
        "loss", "labels", "seconds", "validation_accuracy", "validation_nll",
    }  # fmt: skip
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert history[-1]["validation_accuracy"] == evaluate(model, images(seed=1))["accuracy"] > 0.9
    assert all(p.grad is None for p in model.parameters()), "their memory is given back"


def test_one_step_is_plain_gradient_descent():
    data, model = images(), network(dropout=0.0)
    expected = copy.deepcopy(model)
    loss = F.cross_entropy(expected(data.floats(data.x)), data.y)
    loss.backward()
    sgd = partial(torch.optim.SGD, lr=0.1)
    history = fit(
        Supervised(model), data, epochs=1, batch_size=96, optimizer=sgd, schedule=constant,
        progress=False,
    )  # fmt: skip
    assert history[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs - 0.1 * theirs.grad, rtol=1e-4, atol=1e-6)


def test_every_image_is_seen_once_an_epoch_in_a_new_order():
    class Spy(Supervised):
        def forward(self, batch):
            seen.append(batch)
            return super().forward(batch)

    seen, data = [], images(n=50)
    fit(Spy(network()), data, epochs=2, batch_size=16, progress=False)
    assert [len(b.y) for b in seen[:4]] == [16, 16, 16, 2]
    first, second = (torch.cat([b.index for b in part]) for part in (seen[:4], seen[4:]))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(50))
    assert not torch.equal(first, second)
    assert [b.epoch for b in seen] == [0] * 4 + [1] * 4
    for b in seen:  # image, label and index belong together
        assert torch.equal(b.y, data.y[b.index])
        assert torch.equal(b.x, data.floats(data.x[b.index]))


def test_the_reported_loss_is_the_mean_over_samples_also_with_a_small_last_batch():
    class Index(Learner):
        def __init__(self):
            super().__init__()
            self.student = nn.Linear(1, 1)

        def forward(self, batch):
            return {"index": batch.index.float().mean() + 0 * self.student.weight.sum()}

    history = fit(Index(), images(n=50), epochs=1, batch_size=16, progress=False)
    assert history[0]["index"] == pytest.approx(24.5, rel=1e-6)


def test_the_same_seed_repeats_and_another_does_not():
    results = []
    for seed in (0, 0, 1):
        model = network()
        torch.manual_seed(1234 + len(results))  # the caller's state must not matter
        fit(Supervised(model), images(), epochs=2, augment=jitter, seed=seed, progress=False)
        results.append(model.state_dict())
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


def test_the_callers_random_state_is_left_alone():
    model = network()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    fit(Supervised(model), images(), epochs=1, progress=False)
    assert torch.equal(torch.rand(3), expected)


class _Interrupted(Exception):
    pass


class _Fragile(Supervised):
    """Stops like a lost runtime, in the middle of an epoch."""

    stop_at_epoch = 2

    def forward(self, batch):
        if batch.epoch == self.stop_at_epoch and batch.index.numel() == 32 and self.steps == 1:
            raise _Interrupted
        self.steps = (self.steps + 1) % 3
        return super().forward(batch)

    steps = 0


_Fragile.__name__ = "Supervised"  # a checkpoint knows its learner by its description


def test_a_run_that_was_cut_off_continues_to_the_bit(tmp_path):
    run = partial(
        fit, train=images(), epochs=5, batch_size=32, augment=jitter, validation=images(seed=1),
        progress=False,
    )  # fmt: skip
    whole = network()
    history = run(Supervised(whole))

    path = tmp_path / "run.pt"
    with pytest.raises(_Interrupted):
        run(_Fragile(network()), checkpoint=path)
    resumed = network(seed=99)  # whatever it starts from, the checkpoint decides
    torch.manual_seed(5)
    resumed_history = run(Supervised(resumed), checkpoint=path)
    assert same(whole.state_dict(), resumed.state_dict())
    drop = [{k: v for k, v in e.items() if k != "seconds"} for e in history]
    assert drop == [{k: v for k, v in e.items() if k != "seconds"} for e in resumed_history]

    again = network(seed=98)
    assert run(Supervised(again), checkpoint=path) == resumed_history  # complete: returns at once
    assert same(again.state_dict(), whole.state_dict())


@pytest.mark.parametrize("stop_at", range(9))
def test_ctrl_c_at_any_step_keeps_the_checkpoint_and_loses_nothing(tmp_path, stop_at, request):
    class UntilCtrlC(Supervised):
        def forward(self, batch):
            if next(steps) == stop_at:
                signal.raise_signal(signal.SIGINT)
            return super().forward(batch)

    UntilCtrlC.__name__ = "Supervised"
    steps, path = itertools.count(), tmp_path / "run.pt"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # test workers ignore Ctrl-C
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    run = partial(
        fit, train=images(), epochs=3, batch_size=32, augment=jitter, progress=False
    )  # 3 steps an epoch
    whole, resumed = network(), network(seed=99)
    run(Supervised(whole))
    with pytest.raises(KeyboardInterrupt):
        run(UntilCtrlC(network()), checkpoint=path)
    assert path.exists() == (stop_at >= 3)
    if path.exists():
        assert len(torch.load(path, weights_only=True)["history"]) == stop_at // 3
    else:
        resumed = network()  # nothing to go on from: the same start once more
    run(Supervised(resumed), checkpoint=path)
    assert same(whole.state_dict(), resumed.state_dict())


def test_ctrl_c_while_a_checkpoint_is_written_keeps_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    fit(Supervised(network()), images(), epochs=1, checkpoint=path, progress=False)
    good = path.read_bytes()

    def interrupted(content, file):
        file.write(b"half a check")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, {}, network(), adamw(network().parameters()), [])
    assert path.read_bytes() == good
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"], "no half a file is left behind"


def test_a_distiller_with_another_warm_up_is_another_run(tmp_path):
    def run(warmup):
        losses = {"soft": SoftTargets(tau=2.0)}
        learner = Distiller(network(seed=1), network(seed=2), losses, warmup_epochs=warmup)
        fit(learner, images(), epochs=2, checkpoint=tmp_path / "d.pt", progress=False)

    run(1)
    run(1)
    with pytest.raises(ValueError, match=r"of another run: it has learner"):
        run(0)


def test_a_distiller_resumes_too(tmp_path):
    def distiller():
        return Distiller(network(seed=1), network(seed=2), {"soft": SoftTargets(tau=2.0)})

    class Stop(Exception):
        pass

    run = partial(fit, train=images(), epochs=3, batch_size=32, progress=False)
    whole, cut, resumed = distiller(), distiller(), distiller()
    run(whole)
    saves = []

    def save_then_stop(*args):
        original(*args)
        saves.append(args)
        if len(saves) == 2:
            raise Stop

    original, training.save_checkpoint = training.save_checkpoint, save_then_stop
    try:
        with pytest.raises(Stop):
            run(cut, checkpoint=tmp_path / "d.pt")
    finally:
        training.save_checkpoint = original
    run(resumed, checkpoint=tmp_path / "d.pt")
    assert same(whole.student.state_dict(), resumed.student.state_dict())


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "run.pt"
    fit(Supervised(network()), images(), epochs=1, checkpoint=path, progress=False)
    good = path.read_bytes()
    assert [p.name for p in path.parent.iterdir()] == ["run.pt"]

    def power_cut(content, file):
        file.write(b"half a check")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", power_cut)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, {}, network(), adamw(network().parameters()), [])
    assert path.read_bytes() == good


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"x" * 99])
def test_a_damaged_checkpoint_is_named_with_the_cure(tmp_path, damage):
    path = tmp_path / "run.pt"
    fit(Supervised(network()), images(), epochs=1, checkpoint=path, progress=False)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"checkpoint: .*run\.pt is no checkpoint.*delete it"):
        fit(Supervised(network()), images(), epochs=1, checkpoint=path, progress=False)


def test_a_checkpoint_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (exec, ("raise SystemExit('the checkpoint ran code')",))

    path = tmp_path / "run.pt"
    torch.save({"run": Evil()}, path)
    with pytest.raises(ValueError, match=r"is no checkpoint of fit"):
        fit(Supervised(network()), images(), epochs=1, checkpoint=path, progress=False)


def test_a_checkpoint_of_another_run_or_learner_is_refused(tmp_path):
    path = tmp_path / "run.pt"
    fit(Supervised(network()), images(), epochs=1, checkpoint=path, progress=False)
    with pytest.raises(ValueError, match=r"of another run: it has epochs 1, expected 2"):
        fit(Supervised(network()), images(), epochs=2, checkpoint=path, progress=False)
    for other in (Supervised(MLP(36, 3)), Distiller(network(), network(), {"s": SoftTargets(2.0)})):
        with pytest.raises(ValueError, match=r"of another run: it has learner 'Supervised"):
            fit(other, images(), epochs=1, checkpoint=path, progress=False)
    faster = partial(torch.optim.AdamW, lr=0.5)
    with pytest.raises(ValueError, match=r"it has optimizer 'AdamW, lr \[0\.001\]', expected"):
        fit(Supervised(network()), images(), epochs=1, optimizer=faster, checkpoint=path)


def test_numbers_of_numpy_in_a_run_leave_its_checkpoint_readable(tmp_path):
    """As `np.logspace` and `np.arange` have them; weights_only=True reads none."""
    run = partial(
        fit, train=images(), progress=False, checkpoint=tmp_path / "run.pt",
        schedule=lambda t: 0.5 * (1 + np.cos(np.pi * t)),
    )  # fmt: skip
    rates = {"lr": np.float64(1e-3), "weight_decay": np.float64(0.1)}
    model = network()
    history = run(
        Supervised(model), optimizer=partial(torch.optim.AdamW, **rates), epochs=np.int64(2),
        batch_size=np.int64(32), seed=np.int64(3),
    )  # fmt: skip
    plain = {name: float(rate) for name, rate in rates.items()}
    again = network(seed=9)
    complete = run(
        Supervised(again), optimizer=partial(torch.optim.AdamW, **plain), epochs=2, batch_size=32,
        seed=3,
    )  # fmt: skip
    assert complete == history and same(model.state_dict(), again.state_dict())


def test_a_folder_is_no_checkpoint_and_nobody_is_told_to_delete_it(tmp_path):
    with pytest.raises(IsADirectoryError):
        fit(Supervised(network()), images(), epochs=1, checkpoint=tmp_path, progress=False)


def test_a_checkpoint_that_cannot_be_written_is_an_error_before_the_first_step(tmp_path):
    class Early(Supervised):
        def forward(self, batch):
            pytest.fail("it trained first")

    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"file"):
        fit(Early(network()), images(), epochs=1, checkpoint=tmp_path / "file" / "run.pt")


def test_validation_images_of_another_size_are_an_error_before_the_first_step():
    class Early(Supervised):
        def forward(self, batch):
            pytest.fail("it trained first")

    wide = dataclasses.replace(images(), x=images().x.repeat(1, 1, 1, 2))
    with pytest.raises(ValueError, match=r"validation: one student can't be evaluated on it: "):
        fit(Early(network()), images(), epochs=1, validation=wide, progress=False)


def test_after_a_complete_checkpoint_the_learner_is_in_training_mode_too(tmp_path):
    for _ in range(2):  # the second finds the first one's
        learner = Supervised(network()).eval()
        fit(learner, images(), epochs=1, checkpoint=tmp_path / "run.pt", progress=False)
        assert all(module.training for module in learner.modules())


ANSWERS = 5 * torch.eye(3).repeat(32, 1)


def taught(logits=None, shift=0.0):
    """A distiller whose teacher has a batch norm, and maybe a table of its answers."""
    torch.manual_seed(1)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    teacher[2].running_mean += shift
    return Distiller(teacher, network(), {"soft": SoftTargets(2.0)}, teacher_logits=logits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": dataclasses.replace(images(), x=images().x.flip(-1))}, "it has images "),
        ({"train": dataclasses.replace(images(), mean=0.4)}, "it has images .* expected .*0.4, "),
        ({"validation": images(seed=2)}, "it has validation images "),
        ({"learner": lambda: taught(torch.ones(96, 3))}, "it has buffer cached "),
        ({"learner": lambda: taught(ANSWERS, shift=5.0)}, "running_mean.*other"),
    ],
)
def test_a_checkpoint_of_other_images_or_another_teachers_answers_is_refused(
    tmp_path, change, message
):
    change = dict(change)
    usual = {"train": images(), "validation": images(seed=1), "epochs": 1, "progress": False}
    usual["checkpoint"] = tmp_path / "run.pt"
    for _ in range(2):  # the second time it is complete, and accepted
        fit(taught(ANSWERS), **usual)
    learner = change.pop("learner", lambda: taught(ANSWERS))()
    before = copy.deepcopy(learner.state_dict())
    with pytest.raises(ValueError, match=f"of another run: .*{message}"):
        fit(learner, **(usual | change))
    assert same(before, learner.state_dict()), "the teacher is as the caller had it"


def test_a_checkpoint_knows_a_loss_that_keeps_a_function_in_the_next_process_too(tmp_path):
    class Keeps(Loss):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def forward(self, step):
            return self.function(step.student_logits, step.teacher_logits)

    def elsewhere():  # the same function at another place in memory
        return lambda z, v: (z - v).square().mean()

    functions = elsewhere(), elsewhere()
    assert repr(functions[0]) != repr(functions[1])
    for function in functions:
        learner = Distiller(network(seed=1), network(seed=2), {"mine": Keeps(function)})
        fit(learner, images(), epochs=1, checkpoint=tmp_path / "run.pt", progress=False)


@pytest.mark.parametrize(
    "parts",
    [
        lambda z, step: {"a": z.mean()} if step else {"b": z.mean()},
        lambda z, step: {"a": z.mean()[None]},
        lambda z, step: {"a": z.mean(dim=0)},
    ],
)
def test_parts_that_change_from_step_to_step_or_are_no_scalars_are_refused(parts):
    class Restless(Supervised):
        def forward(self, batch):
            return parts(self.student(batch.x), next(steps))

    steps = itertools.count()
    with pytest.raises(ValueError, match=r"learner: expected the same scalars at each step"):
        fit(Restless(network()), images(), epochs=1, batch_size=32, progress=False)


def test_an_optimizer_that_is_made_already_is_refused_with_the_cure():
    model = network()
    made = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match=r"optimizer: .*partial\(torch.optim.SGD, lr=0.1\)"):
        fit(Supervised(model), images(), epochs=1, optimizer=made)


def turned_round(data):
    return data[torch.arange(len(data) - 1, -1, -1)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": partial(torch.optim.AdamW, weight_decay=5.0)}, "it has weight_decay 0 0.01"),
        ({"schedule": constant}, r"it has schedule \[0.5, 0.625.*expected \[1.0, 1.0, 1.0\]"),
        ({"validation": images(seed=1)}, "it has validated False, expected True"),
        ({"train": images(seed=1)}, r"it has data \[.*\], expected \["),
        ({"train": turned_round(images())}, r"it has data \[.*\], expected \["),
        ({"learner": lambda: soft_learner(tau=4.0)}, "it has learner"),
        (
            {"learner": lambda: soft_learner(teacher=7)},
            "teacher.*other values.*another teacher",
        ),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused_and_changes_nothing(tmp_path, change, message):
    usual = {"train": images(), "epochs": 2, "progress": False, "checkpoint": tmp_path / "run.pt"}
    fit(soft_learner(), **usual)
    fit(soft_learner(), **usual)  # complete: nothing is left to do
    learner = change.pop("learner", soft_learner)()
    before = copy.deepcopy(learner.state_dict())
    with pytest.raises(ValueError, match=message):
        fit(learner, **(usual | change))
    assert same(before, learner.state_dict())


def soft_learner(tau=2.0, teacher=1):
    return Distiller(network(seed=teacher), network(seed=2), {"soft": SoftTargets(tau)})


def test_a_checkpoint_that_knows_less_of_its_run_still_serves(tmp_path):
    """One of an earlier version, say: the teacher in readers' caches is."""
    path, model = tmp_path / "run.pt", network()
    fit(Supervised(model), images(), epochs=2, checkpoint=path, progress=False)
    saved = torch.load(path, weights_only=True)
    first = ("learner", "optimizer", "epochs", "batch_size", "augmented", "precision", "n_train")
    assert saved["run"].keys() > {*first, "seed"}
    saved["run"] = {name: saved["run"][name] for name in (*first, "seed")}
    assert saved["run"]["optimizer"] == "AdamW, lr [0.001]"
    assert saved["run"]["learner"] == repr(Supervised(network()))
    torch.save(saved, path)
    again = network(seed=5)
    fit(Supervised(again), images(), epochs=2, checkpoint=path, progress=False)
    assert same(model.state_dict(), again.state_dict())


def test_two_processes_may_write_one_checkpoint(tmp_path, monkeypatch):
    """The second begins and ends while the first is writing."""
    path, numbers = tmp_path / "run.pt", iter((1, 2))
    monkeypatch.setattr("os.getpid", lambda: next(numbers))
    parts = {}, network(), torch.optim.SGD(network().parameters(), lr=0.1), []
    write = torch.save

    def interrupted(value, file):
        monkeypatch.setattr(torch, "save", write)
        save_checkpoint(path, *parts)
        write(value, file)

    monkeypatch.setattr(torch, "save", interrupted)
    save_checkpoint(path, *parts)
    assert [found.name for found in tmp_path.iterdir()] == ["run.pt"]


def test_weights_that_are_not_finite_are_no_checkpoint(tmp_path):
    """The last step's loss is still finite, and what it did to the weights is not."""

    class Overflowing(torch.optim.SGD):
        def step(self):
            super().step()
            next(iter(self.param_groups[0]["params"])).data[0, 0] = torch.inf

    path = tmp_path / "run.pt"
    arguments = {"optimizer": Overflowing, "batch_size": 96, "progress": False, "checkpoint": path}
    with pytest.raises(FloatingPointError, match="weights are not finite after epoch 0: lower"):
        fit(Supervised(network()), images(), epochs=1, **arguments)
    assert not path.exists()


def test_a_part_may_not_have_the_name_of_what_fit_reports():
    losses = {"loss": SoftTargets(2.0), "soft": SoftTargets(4.0)}
    learner = Distiller(network(seed=1), network(seed=2), losses)
    with pytest.raises(ValueError, match=r"losses: {'loss'} is what fit reports.*rename"):
        fit(learner, images(), epochs=1, progress=False)


def test_the_only_part_may_be_called_the_loss():
    learner = Distiller(network(seed=1), network(seed=2), {"loss": SoftTargets(2.0)})
    (entry,) = fit(learner, images(), epochs=1, progress=False)
    assert set(entry) == {"loss", "seconds"} and entry["loss"] > 0


def test_an_augmentation_has_to_give_uint8():
    def to_floats(x, generator):
        return x / 255

    with pytest.raises(TypeError, match=r"augment: expected .*uint8 images.*float32"):
        fit(Supervised(network()), images(), epochs=1, augment=to_floats, progress=False)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    class Diverging(Supervised):
        def forward(self, batch):
            parts = super().forward(batch)
            good = batch.epoch == 0 or len(steps) < 5
            steps.append(batch.epoch)
            return parts | {"bad": parts["labels"] * (0.0 if good else float("nan"))}

    steps = []

    path = tmp_path / "run.pt"
    with pytest.raises(
        FloatingPointError,
        match=r"in epoch 1, step 2 of 3, at learning rate "
        r"0\.000486 .*'bad': nan.*run\.pt holds the epo",
    ):
        fit(
            Diverging(network()), images(), epochs=3, checkpoint=path, batch_size=32, progress=False
        )
    assert len(torch.load(path, weights_only=True)["history"]) == 1


def test_a_loss_that_is_not_finite_at_once_names_no_checkpoint(tmp_path):
    class Infinite(Supervised):
        def forward(self, batch):
            return {"labels": super().forward(batch)["labels"] * float("inf")}

    path = tmp_path / "run.pt"
    with pytest.raises(FloatingPointError, match=r"in epoch 0, step 0 of 3.*not finite$"):
        fit(Infinite(network()), images(), epochs=1, batch_size=32, checkpoint=path, progress=False)
    assert not path.exists()


def test_a_killed_process_resumes_to_the_bit(tmp_path, monkeypatch):
    """No farewell, no `except`: the operating system takes the process away in mid-epoch."""
    program = tmp_path / "program.py"
    program.write_text(
        """
import os, signal, sys
import torch
from distill_lib.data import Images, jitter
from distill_lib.models import MLP
from distill_lib.training import Supervised, fit

class Deadly(Supervised):
    def forward(self, batch):
        if batch.epoch == 2 and (batch.index == 5).any() and sys.argv[1] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(batch)

Deadly.__name__ = "Supervised"
g = torch.Generator().manual_seed(0)
x = torch.randint(0, 256, (96, 1, 6, 6), dtype=torch.uint8, generator=g)
train = Images(x, torch.randint(0, 3, (96,), generator=g), ("a", "b", "c"), 0.5, 0.3)
torch.manual_seed(1)
model = MLP(36, 16, 3, dropout=0.5)
fit(Deadly(model), train, epochs=4, batch_size=16, augment=jitter, checkpoint=sys.argv[2],
    progress=False)
torch.save(model.state_dict(), sys.argv[3])
"""
    )

    def arguments(what, checkpoint):
        return [str(program), what, str(tmp_path / checkpoint), str(tmp_path / f"{what}.pt")]

    killed = subprocess.run([sys.executable, *arguments("die", "cut.pt")])
    assert killed.returncode == -signal.SIGKILL
    assert len(torch.load(tmp_path / "cut.pt", weights_only=True)["history"]) == 2
    for what, checkpoint in (("resume", "cut.pt"), ("whole", "other.pt")):
        monkeypatch.setattr(sys, "argv", arguments(what, checkpoint))
        runpy.run_path(str(program))
    assert same(*(torch.load(tmp_path / f"{w}.pt", weights_only=True) for w in ("resume", "whole")))


def test_out_of_memory_names_a_batch_size_to_try():
    class Greedy(Supervised):
        def forward(self, batch):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    with pytest.raises(torch.OutOfMemoryError, match=r"batch_size: 64 images .*: try 32"):
        fit(Greedy(network()), images(), epochs=1, batch_size=64, progress=False)


def test_out_of_memory_on_a_cpu_too():
    class Greedy(Supervised):
        def forward(self, batch):
            torch.empty(2**55, dtype=torch.uint8)  # the system's own refusal
            return super().forward(batch)

    with pytest.raises(torch.OutOfMemoryError, match=r"batch_size: 64 images .*: try 32"):
        fit(Greedy(network()), images(), epochs=1, batch_size=64, progress=False)


def test_another_error_of_the_network_is_left_as_it_is():
    with pytest.raises(RuntimeError, match=r"shapes cannot be multiplied"):
        fit(Supervised(MLP(35, 3)), images(), epochs=1, progress=False)


def test_half_precision_reaches_the_network_and_spares_weights_and_losses():
    seen = {}

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(36, 3)

        def forward(self, x):
            out = self.linear(x.flatten(1))
            seen["logits"] = out.dtype
            return out

    model = Spy()
    history = fit(Supervised(model), images(), epochs=1, precision=torch.bfloat16, progress=False)
    assert seen["logits"] == torch.bfloat16
    assert model.linear.weight.dtype == torch.float32
    torch.manual_seed(0)
    full = fit(Supervised(network(seed=4)), images(), epochs=3, progress=False)
    half = fit(
        Supervised(network(seed=4)), images(), epochs=3, precision=torch.bfloat16, progress=False
    )
    assert full[-1]["loss"] != half[-1]["loss"]
    assert full[-1]["loss"] == pytest.approx(half[-1]["loss"], rel=0.05)
    assert len(history) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, r"epochs: expected 1 or more, got 0"),
        ({"batch_size": 0}, r"batch_size: expected 1 or more, got 0"),
        ({"epochs": 1.5}, r"epochs: expected a whole number, got 1.5"),
        ({"batch_size": 16.0}, r"batch_size: expected a whole number, got 16.0"),
        ({"train": images()[:0]}, r"train: expected at least one image"),
        ({"validation": images()[:0]}, r"validation: expected at least one image"),
        ({"learner": Supervised(network().requires_grad_(False))}, r"learner: expected parameters"),
        ({"precision": torch.float16}, r"precision: expected torch.float32 or torch.bfloat16"),
        (
            {"learner": Supervised(MLP(36, 2))},
            r"student: expected a logit for each class, got 2 logits and a label 2",
        ),
        (
            {"learner": Supervised(nn.Conv2d(1, 3, 3))},
            r"student: expected logits of shape \(96, K\), got shape \(96, 3, 4, 4\)",
        ),
        (
            {"learner": Supervised(nn.Sequential(network(), nn.Softmax(dim=1)))},
            r"student: expected logits, got probabilities",
        ),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"learner": Supervised(network()), "train": images(), "epochs": 1} | change
    with pytest.raises(ValueError, match=message):
        fit(**arguments, progress=False)


def test_a_bare_network_is_no_learner():
    with pytest.raises(TypeError, match=r"learner: expected Supervised\(network\), .*got MLP"):
        fit(network(), images(), epochs=1)


def test_one_cycle_rises_and_falls_in_straight_lines():
    assert [one_cycle(p) for p in (0.0, 0.1, 0.2, 0.6, 1.0)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert constant(0.3) == 1.0


def test_the_schedule_reaches_the_optimizer():
    class Spy(Supervised):
        def forward(self, batch):
            lrs.append(optimizers[0].param_groups[0]["lr"])
            return super().forward(batch)

    def make(parameters):
        optimizers.append(torch.optim.SGD(parameters, lr=0.5))
        return optimizers[0]

    lrs, optimizers = [], []
    fit(Spy(network()), images(), epochs=2, batch_size=32, optimizer=make, progress=False)
    assert lrs == pytest.approx([0.5 * one_cycle((step + 0.5) / 6) for step in range(6)])


def test_predict_is_in_order_in_eval_mode_and_restores_every_mode():
    model = nn.Sequential(network(), nn.Dropout(0.9).eval())
    model.train()
    model[1].eval()
    data = images()
    logits = predict(model, data, batch_size=7)
    model_eval = copy.deepcopy(model).eval()
    torch.testing.assert_close(logits, model_eval(data.floats(data.x)))
    assert not logits.requires_grad
    assert model.training
    assert model[0].training
    assert not model[1].training
    with pytest.raises(ValueError, match=r"batch_size"):
        predict(model, data, batch_size=0)


def test_evaluate_with_and_without_a_teacher():
    model, teacher, data = network(), network(seed=1), images()
    assert set(evaluate(model, data)) == {"errors", "accuracy", "nll"}
    scores = evaluate(model, data, teacher=teacher)
    assert set(scores) == {"errors", "accuracy", "nll", "agreement", "kl_to_teacher"}
    assert scores["accuracy"] == pytest.approx(1 - scores["errors"] / 96)
    assert scores["kl_to_teacher"] > 0
    itself = evaluate(model, data, teacher=model)
    assert itself["agreement"] == 1.0
    assert itself["kl_to_teacher"] == pytest.approx(0, abs=1e-9)


def test_a_network_that_ends_in_a_softmax_can_be_evaluated_alone():
    """*Common mistakes* counts the errors of one; as a teacher or beside one it is refused."""
    model, data = network(), images()
    ends_in_softmax = nn.Sequential(model, nn.Softmax(dim=1))
    assert evaluate(ends_in_softmax, data)["errors"] == evaluate(model, data)["errors"]
    with pytest.raises(ValueError, match=r"student_logits: .* got probabilities"):
        evaluate(ends_in_softmax, data, teacher=model)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_same_on_a_gpu(tmp_path):
    data = images().to("cuda")
    model = CNN(image_size=28)
    x, y = torch.zeros(32, 1, 28, 28, dtype=torch.uint8), torch.zeros(32, dtype=torch.int64)
    big = Images(x, y, ("0",), 0.0, 1.0)
    fit(Supervised(model), big.to("cuda"), epochs=1, augment=jitter, progress=False)
    results = []
    for checkpoint in (None, tmp_path / "gpu.pt"):
        model = network()
        fit(Supervised(model), data, epochs=2, checkpoint=checkpoint, progress=False)
        results.append(model.state_dict())
    assert results[0]["layers.fc1.weight"].is_cuda
    assert same(*results)
