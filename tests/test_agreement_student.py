"""What the chapter *The student* writes out, and the library has under the same names."""

from copy import deepcopy

import nbformat
import numpy as np
import pytest
import torch
from scipy import stats
from set_address import ROOT
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from distill_lib import many
from distill_lib.analysis import paired_interval
from distill_lib.data import Images
from distill_lib.models import CNN, MLP
from distill_lib.objectives import HardLabels
from distill_lib.training import Learner, fit

CHAPTER = ROOT / "chapters" / "09-student.ipynb"
USES = {
    **{"nn": nn, "F": F, "deepcopy": deepcopy, "Learner": Learner, "np": np, "stats": stats},
    **{"functional_call": functional_call, "stack_module_state": stack_module_state, "vmap": vmap},
}


@pytest.fixture(scope="module")
def chapter():
    """The names that the chapter's defining cells make."""
    cells = {cell.id: cell.source for cell in nbformat.read(CHAPTER, as_version=4).cells}
    names = dict(USES)
    for name in ("define-many", "define-interval"):
        exec(cells[name], names)
    return names


def images(n=80):
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, 1, 6, 6), dtype=torch.uint8, generator=g)
    return Images(x, torch.randint(0, 3, (n,), generator=g), ("a", "b", "c"), 0.5, 0.3)


def mlp(seed):
    torch.manual_seed(seed)
    return MLP(36, 8, 3)


def cnn(seed):
    torch.manual_seed(seed)
    return CNN((2, 3), 4, dropout=0.0, image_size=16, n_classes=3)


@pytest.mark.parametrize(("new", "side"), [(mlp, 6), (cnn, 16)])
def test_many_gives_the_same_logits(chapter, new, side):
    networks, x = [new(seed) for seed in range(3)], torch.randn(5, 1, side, side)
    ours, library = chapter["Many"](networks), many.Many(networks)
    assert torch.equal(ours(x), library(x))
    for mine, theirs in zip(ours.networks(), library.networks(), strict=True):
        torch.testing.assert_close(mine.state_dict(), theirs.state_dict())


def test_both_train_the_same_students(chapter):
    networks, train = [mlp(seed) for seed in range(3)], images()
    ours = chapter["FromLabels"](networks)
    library = many.ManyDistillers(mlp(9), networks, [{"labels": HardLabels()}] * 3)
    records = [
        fit(each, train, epochs=3, batch_size=32, progress=False) for each in (ours, library)
    ]
    for mine, theirs in zip(*records, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    for mine, theirs in zip(ours.student.networks(), library.student.networks(), strict=True):
        torch.testing.assert_close(mine.state_dict(), theirs.state_dict())


def test_the_networks_keep_their_weights(chapter):
    networks = [mlp(0), mlp(1)]
    before = deepcopy(networks[0].state_dict())
    fit(chapter["FromLabels"](networks), images(), epochs=1, progress=False)
    torch.testing.assert_close(networks[0].state_dict(), before)


def test_the_paired_interval(chapter):
    a, b = np.random.default_rng(0).normal(size=(2, 7))
    assert chapter["paired_interval"](a, b) == pytest.approx(tuple(paired_interval(a, b)))
