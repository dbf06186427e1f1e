"""What the chapter *The distiller* writes out, and the library has under the same names."""

import nbformat
import pytest
import torch
from set_address import ROOT
from torch import nn
from torch.nn import functional as F

from distill_lib import distiller, objectives
from distill_lib.data import Images, jitter
from distill_lib.models import MLP
from distill_lib.training import Learner, fit, predict

CHAPTER = ROOT / "chapters" / "08-distiller.ipynb"
DEFINE = ("define-soft-target-loss", "define-losses", "define-distiller")


@pytest.fixture(scope="module")
def chapter():
    """The names that the chapter's defining cells make."""
    cells = {cell.id: cell.source for cell in nbformat.read(CHAPTER, as_version=4).cells}
    names = {"torch": torch, "nn": nn, "F": F, "Learner": Learner, "Step": objectives.Step}
    for name in DEFINE:
        exec(cells[name], names)
    return names


def images(n=60):
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, 1, 6, 6), generator=g, dtype=torch.uint8)
    return Images(x, torch.randint(0, 3, (n,), generator=g), ("a", "b", "c"), 0.5, 0.3)


@pytest.mark.parametrize("tau", [0.5, 1, 4.0, 20])
def test_soft_target_loss(chapter, tau):
    g = torch.Generator().manual_seed(1)
    v, z = 4 * torch.randn(2, 7, 10, generator=g)
    ours = chapter["soft_target_loss"](z, v, tau)
    assert torch.equal(ours, objectives.soft_target_loss(z, v, tau))


def trained(names, *, augment=None, cached=False, **options):
    """The history and the student's weights after three epochs, and the teacher after it all."""
    torch.manual_seed(0)
    teacher, student = MLP(36, 20, 3, dropout=0.5), MLP(36, 8, 3, dropout=0.2)
    train = images()
    learner = names["Distiller"](
        teacher,
        student,
        {"labels": names["HardLabels"](0.3), "soft": names["SoftTargets"](tau=3.0, weight=0.7)},
        teacher_logits=predict(teacher, train) if cached else None,
        **options,
    )
    history = fit(learner, train, epochs=3, batch_size=16, augment=augment, progress=False)
    for entry in history:
        del entry["seconds"]
    return history, student.state_dict(), learner.state_dict(), learner


@pytest.mark.parametrize(
    "options",
    [{}, {"cached": True}, {"warmup_epochs": 2}, {"augment": jitter}],
    ids=["online", "cached", "warm-up", "jitter"],
)
def test_both_distillers_train_the_same_student(chapter, options):
    library = {**vars(objectives), "Distiller": distiller.Distiller}
    history, student, state, learner = trained(chapter, **options)
    expected_history, expected_student, expected_state, _ = trained(library, **options)
    assert history == expected_history
    assert list(state) == list(expected_state)
    for name, weights in expected_student.items():
        assert torch.equal(student[name], weights), name
    assert not any(module.training for module in learner.teacher.modules())
    assert not any(parameter.requires_grad for parameter in learner.teacher.parameters())
