"""What the chapter *Feature distillers* writes out, and the library has under the same names."""

import math
from contextlib import contextmanager

import nbformat
import pytest
import torch
from set_address import ROOT
from torch import nn
from torch.nn import functional as F

from distill_lib import features, layers
from distill_lib.data import Images
from distill_lib.distiller import Distiller
from distill_lib.models import CNN
from distill_lib.objectives import HardLabels
from distill_lib.training import fit

CHAPTER = ROOT / "chapters" / "13-feature-distillers.ipynb"
DEFINE = (
    "define-read-layers",
    "define-hint-loss",
    "define-hint",
    "define-attention",
    "define-vid",
    "define-contrastive",
)


@pytest.fixture(scope="module")
def chapter():
    """The names that the chapter's defining cells make."""
    cells = {cell.id: cell.source for cell in nbformat.read(CHAPTER, as_version=4).cells}
    names = {"torch": torch, "nn": nn, "F": F, "math": math, "contextmanager": contextmanager}
    for name in DEFINE:
        exec(cells[name], names)
    return names


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def cnn(channels, hidden, seed):
    torch.manual_seed(seed)
    return CNN(channels, hidden, dropout=0.0, image_size=16, n_classes=3)


@pytest.mark.parametrize("shape", [(5, 7), (5, 3, 4, 6)])
def test_hint_loss(chapter, shape):
    s, t = randn(*shape), randn(*shape, seed=1)
    torch.testing.assert_close(chapter["hint_loss"](s, t), features.hint_loss(s, t))


def test_attention(chapter):
    s, t = randn(4, 2, 3, 5), randn(4, 6, 3, 5, seed=1)
    torch.testing.assert_close(chapter["attention_map"](s), features.attention_map(s))
    torch.testing.assert_close(
        chapter["attention_transfer_loss"](s, t), features.attention_transfer_loss(s, t)
    )


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 4, 6)])
def test_variational_information_loss(chapter, shape):
    mean, variance, t = randn(*shape), randn(7, seed=2).exp(), randn(*shape, seed=1)
    torch.testing.assert_close(
        chapter["variational_information_loss"](mean, variance, t),
        features.variational_information_loss(mean, variance, t),
    )


@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_contrastive_loss(chapter, tau):
    s, t = randn(6, 4), randn(6, 4, seed=1)
    torch.testing.assert_close(
        chapter["contrastive_loss"](s, t, tau), features.contrastive_loss(s, t, tau)
    )


def test_both_read_the_same_layers_and_leave_no_hook(chapter):
    network, x = cnn((2, 4), 8, 0), torch.randn(5, 1, 16, 16)
    found = []
    for read in (chapter["read_layers"], layers.read_layers):
        with read(network, ["conv2", "fc1"]) as outputs:
            network(x)
        found.append(outputs)
        with pytest.raises(RuntimeError), read(network, ["conv1"]):
            network(torch.randn(5, 2, 16, 16))
    assert list(found[0]) == list(found[1]) == ["conv2", "fc1"]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert not any(module._forward_hooks for module in network.modules())


def test_both_hints_train_the_same_student(chapter):
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (60, 1, 16, 16), generator=g, dtype=torch.uint8)
    train = Images(x, torch.randint(0, 3, (60,), generator=g), ("a", "b", "c"), 0.5, 0.3)
    students, histories = [], []
    for hint in (chapter["Hint"], features.Hint):
        torch.manual_seed(3)
        regressor = nn.Conv2d(4, 12, 1)
        losses = {"labels": HardLabels(), "hint": hint("conv2", "conv2", regressor, weight=0.01)}
        learner = Distiller(cnn((6, 12), 20, 1), cnn((2, 4), 8, 2), losses)
        histories.append(fit(learner, train, epochs=3, batch_size=16, progress=False))
        students.append(learner.student.state_dict())
    for mine, theirs in zip(*histories, strict=True):
        assert mine["hint"] == pytest.approx(theirs["hint"], rel=1e-6)
    torch.testing.assert_close(*students)
