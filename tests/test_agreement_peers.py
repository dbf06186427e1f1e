"""What the chapter *Students teaching students* writes out, and the library has under its names."""

import copy

import nbformat
import numpy as np
import pytest
import torch
from set_address import ROOT
from torch import nn
from torch.nn import functional as F

from distill_lib import objectives, peers
from distill_lib.data import Batch, Images
from distill_lib.distiller import Distiller
from distill_lib.many import Many
from distill_lib.models import MLP
from distill_lib.objectives import HardLabels, SoftTargets, Step
from distill_lib.training import Learner, fit

CHAPTER = ROOT / "chapters" / "15-students-teaching-students.ipynb"
DEFINE = ("define-from-targets", "define-peers", "define-pairs", "define-pieces-functions")


@pytest.fixture(scope="module")
def chapter():
    """The names that the chapter's defining cells make."""
    cells = {cell.id: cell.source for cell in nbformat.read(CHAPTER, as_version=4).cells}
    names = {"torch": torch, "nn": nn, "F": F, "Learner": Learner, "Many": Many, "MLP": MLP}
    names |= {"Step": Step, "HardLabels": HardLabels, "SoftTargets": SoftTargets, "np": np}
    for name in (*DEFINE, "define-decoupled", "define-ridge"):
        exec(cells[name], names)
    return names


def images(n=80):
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, 1, 6, 6), dtype=torch.uint8, generator=g)
    return Images(x, torch.randint(0, 3, (n,), generator=g), ("a", "b", "c"), 0.5, 0.3)


def networks(n):
    torch.manual_seed(0)
    return [MLP(36, 8, 3) for _ in range(n)]


def assert_same_weights(ours, librarys):
    for one, two in zip(ours, librarys, strict=True):
        for p, q in zip(one.parameters(), two.parameters(), strict=True):
            torch.testing.assert_close(p, q, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("n", [2, 4])
def test_both_peers_train_the_same_students(chapter, n):
    data, mine, theirs = images(), networks(n), networks(n)
    losses = chapter["mutual"]
    ours = fit(chapter["Peers"](mine, losses), data, epochs=3, batch_size=32, progress=False)
    librarys = fit(peers.Peers(theirs, losses), data, epochs=3, batch_size=32, progress=False)
    assert [entry["loss"] for entry in ours] == [entry["loss"] for entry in librarys]
    for one, two in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one.state_dict(), two.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("size", [2, 4])
def test_a_bank_of_cohorts_trains_the_students_of_peers(chapter, size):
    data, students = images(), networks(2 * size)
    bank = chapter["BankOfCohorts"](copy.deepcopy(students), size)
    fit(bank, data, epochs=2, batch_size=32, progress=False)
    for i in (0, 1):
        cohort = peers.Peers(students[i::2], chapter["mutual"])
        fit(cohort, data, epochs=2, batch_size=32, progress=False)
    assert_same_weights(bank.student.networks(), students)


def test_a_table_of_targets_trains_what_the_distiller_trains(chapter):
    data = images()
    teacher, *students = networks(3)
    logits = 3 * teacher(data.floats(data.x)).detach()
    one_hot = F.one_hot(data.y, 3).float()
    for tau, targets, losses in (
        (4.0, (logits / 4).softmax(1), {"soft": SoftTargets(4.0)}),
        (1.0, one_hot, {"labels": HardLabels()}),
    ):
        mine, theirs = copy.deepcopy(students), copy.deepcopy(students)
        bank = chapter["FromTargets"](mine, targets.expand(2, -1, -1), torch.tensor([tau, tau]))
        fit(bank, data, epochs=2, batch_size=32, progress=False)
        for student in theirs:
            learner = Distiller(teacher, student, losses, teacher_logits=logits)
            fit(learner, data, epochs=2, batch_size=32, progress=False)
        assert_same_weights(bank.student.networks(), theirs)


def test_each_student_of_a_bank_follows_its_own_table_at_its_own_temperature(chapter):
    data, students = images(), networks(2)
    tables, taus = torch.rand(2, len(data), 3).softmax(dim=2), torch.tensor([1.0, 3.0])
    bank = chapter["FromTargets"](copy.deepcopy(students), tables, taus)
    batch = Batch(data.floats(data.x[7:9]), data.y[7:9], torch.arange(7, 9), 0, len(data), False)
    by_hand = sum(
        tau**2 * F.cross_entropy(student(batch.x) / tau, table[7:9])
        for student, table, tau in zip(students, tables, taus, strict=True)
    )
    torch.testing.assert_close(bank(batch)["targets"], by_hand)


@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0])
def test_decoupled_losses(chapter, tau):
    g = torch.Generator().manual_seed(1)
    z, v = 4 * torch.randn(2, 7, 10, generator=g)
    y = torch.randint(10, (7,), generator=g)
    ours = chapter["decoupled_losses"](z, v, y, tau)
    for mine, theirs in zip(ours, objectives.decoupled_losses(z, v, y, tau), strict=True):
        assert torch.equal(mine, theirs)


def test_the_pieces_of_a_teacher(chapter):
    g = torch.Generator().manual_seed(2)
    p, y = torch.randn(50, 10, generator=g).softmax(1), torch.randint(10, (50,), generator=g)
    even = chapter["even_others"](p, y)
    shuffled = chapter["shuffled_others"](p, y, g)
    rows = torch.arange(50)
    for found in (even, shuffled):
        assert torch.equal(found[rows, y], p[rows, y])
        torch.testing.assert_close(found.sum(1), torch.ones(50))
    assert all(len(set(row.tolist())) <= 2 for row in even)
    torch.testing.assert_close(shuffled.sort(1).values, p.sort(1).values)
    assert (shuffled != p).any(dim=1).float().mean() > 0.9


def test_ridge_is_scikit_learns(chapter):
    from sklearn.kernel_ridge import KernelRidge

    random = np.random.default_rng(0)
    points, y = random.normal(size=(20, 2)), random.normal(size=20)
    kernel = np.exp(-np.abs(points[:, None] - points).sum(axis=2))
    oracle = KernelRidge(alpha=0.3, kernel="precomputed").fit(kernel, y).predict(kernel)
    np.testing.assert_allclose(chapter["ridge"](kernel, y, 0.3), oracle, atol=1e-10)
