"""What the chapter *Structural distillers* writes out, and the library has under the same names."""

import nbformat
import pytest
import torch
from set_address import ROOT
from torch.nn import functional as F

from distill_lib import relations
from distill_lib.data import Images
from distill_lib.distiller import Distiller
from distill_lib.features import FeatureLoss
from distill_lib.models import CNN, MLP
from distill_lib.training import fit

CHAPTER = ROOT / "chapters" / "14-structural-distillers.ipynb"
DEFINE = (
    "define-similarity",
    "define-similarity-class",
    "define-distance",
    "define-angle",
    "define-neighbours",
    "define-flow",
)
LOSSES = (
    "similarity_preserving_loss",
    "relational_distance_loss",
    "relational_angle_loss",
    "probabilistic_transfer_loss",
)


@pytest.fixture(scope="module")
def chapter():
    """The names that the chapter's defining cells make."""
    cells = {cell.id: cell.source for cell in nbformat.read(CHAPTER, as_version=4).cells}
    names = {"torch": torch, "F": F, "FeatureLoss": FeatureLoss}
    for name in DEFINE:
        exec(cells[name], names)
    return names


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shapes", [((9, 3), (9, 5)), ((6, 2, 3, 3), (6, 7))])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_their_gradients(chapter, name, shapes):
    s, t = randn(*shapes[0]).requires_grad_(), randn(*shapes[1], seed=1)
    ours, library = chapter[name](s, t), getattr(relations, name)(s, t)
    torch.testing.assert_close(ours, library)
    slopes = [torch.autograd.grad(loss, s)[0] for loss in (ours, library)]
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("side", [4, 8])
def test_flow(chapter, side):
    first, second = randn(3, 2, 8, 8), randn(3, 5, side, side, seed=1)
    ours = chapter["flow_matrix"](first, second)
    torch.testing.assert_close(ours, relations.flow_matrix(first, second))
    other = randn(3, 2, 5, seed=2)
    torch.testing.assert_close(chapter["flow_loss"](ours, other), relations.flow_loss(ours, other))


def test_both_classes_train_the_same_student(chapter):
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (48, 1, 16, 16), generator=g, dtype=torch.uint8)
    train = Images(x, torch.randint(0, 3, (48,), generator=g), ("a", "b", "c"), 0.5, 0.3)
    found = []
    for method in (chapter["SimilarityPreserving"], relations.SimilarityPreserving):
        torch.manual_seed(0)
        teacher, student = CNN((2, 3), 6, image_size=16, n_classes=3), MLP(256, 4, 3)
        losses = {"sp": method("layers.fc1", "conv2", weight=50.0)}
        history = fit(
            Distiller(teacher, student, losses), train, epochs=3, batch_size=16, progress=False
        )
        found.append(([entry["sp"] for entry in history], student.layers.fc1.weight))
    assert found[0][0] == pytest.approx(found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1])
