"""What the chapter *Three objectives* writes out, and the library has, too."""

import nbformat
import numpy as np
import pytest
import torch
from scipy.special import entr
from set_address import ROOT
from torch import nn
from torch.nn import functional as F

from distill_lib import objectives, peers
from distill_lib.analysis import agreement
from distill_lib.data import Batch
from distill_lib.information import entropy, js_divergence
from distill_lib.models import MLP

CHAPTER = ROOT / "chapters" / "12-three-objectives.ipynb"
DEFINE = (
    "define-soft-penalty",
    "define-uncertainties",
    "define-ensemble",
    "define-logit-matching",
    "define-disagreement",
)


@pytest.fixture(scope="module")
def chapter():
    """The names that the chapter's defining cells make."""
    cells = {cell.id: cell.source for cell in nbformat.read(CHAPTER, as_version=4).cells}
    names = {"torch": torch, "nn": nn, "F": F, "np": np, "entr": entr}
    for name in DEFINE:
        exec(cells[name], names)
    return names


def logits(*shape, seed=0):
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_logit_matching(chapter):
    z, v = logits(2, 7, 10)
    ours = chapter["logit_matching_loss"](z, v)
    assert torch.equal(ours, objectives.logit_matching_loss(z, v))


@pytest.mark.parametrize("lam", [0.0, 0.5, 144.0])
@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_the_soft_penalty_is_labels_with_soft_targets(chapter, lam, tau):
    """As the summary says: `HardLabels()` with `SoftTargets(tau, lam / tau**2)`."""
    z, v = logits(2, 7, 10)
    y = torch.arange(7)
    step = objectives.Step(Batch(logits(7, 1, 2, 2), y, y, 0, 7, False), z, v)
    losses = (objectives.HardLabels(), objectives.SoftTargets(tau, lam / tau**2))
    theirs = sum(loss(step) for loss in losses)
    torch.testing.assert_close(chapter["soft_penalty"](z, v, y, lam, tau), theirs)


def test_ensemble(chapter):
    torch.manual_seed(0)
    members, x = [MLP(36, 8, 5) for _ in range(4)], logits(6, 1, 6, 6)
    ours, theirs = (Ensemble(members)(x) for Ensemble in (chapter["Ensemble"], peers.Ensemble))
    torch.testing.assert_close(ours, theirs)
    mean = torch.stack([member(x).softmax(dim=-1) for member in members]).mean(dim=0)
    torch.testing.assert_close(ours.softmax(dim=-1), mean)


def test_uncertainties(chapter):
    p = logits(2, 6, 5).double().softmax(dim=-1).numpy()
    total, mean, js = chapter["uncertainties"](p)
    np.testing.assert_allclose(total, entropy(p.mean(axis=0)))
    np.testing.assert_allclose(mean, entropy(p).mean(axis=0))
    np.testing.assert_allclose(js, js_divergence(*p), atol=1e-12)


def test_disagreement(chapter):
    p = logits(3, 50, 5).softmax(dim=-1)
    pairs = [(p[0], p[1]), (p[0], p[2]), (p[1], p[2])]
    expected = 1 - np.mean([agreement(a, b) for a, b in pairs])
    assert chapter["disagreement"](p.numpy()) == pytest.approx(expected)
