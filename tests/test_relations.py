"""Relational losses against double and triple sums by hand, and what each cannot see."""

import itertools
import math

import pytest
import torch
from scipy.stats import special_ortho_group
from torch.nn import functional as F

from distill_lib.data import Batch, Images
from distill_lib.distiller import Distiller
from distill_lib.models import CNN, MLP
from distill_lib.objectives import SoftTargets
from distill_lib.relations import (
    Flow,
    ProbabilisticTransfer,
    RelationalAngle,
    RelationalDistance,
    SimilarityPreserving,
    flow_loss,
    flow_matrix,
    probabilistic_transfer_loss,
    relational_angle_loss,
    relational_distance_loss,
    similarity_preserving_loss,
)
from distill_lib.training import fit

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
LOSSES = {
    "sp": similarity_preserving_loss,
    "distance": relational_distance_loss,
    "angle": relational_angle_loss,
    "pkt": probabilistic_transfer_loss,
}


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def rotation(n, seed=0):
    return torch.from_numpy(special_ortho_group.rvs(n, random_state=seed))


def sp_by_hand(s, t):
    def gram(a):
        g = torch.stack([torch.stack([(x * y).sum() for y in a]) for x in a])
        return torch.stack([row / row.norm() for row in g])

    return ((gram(s) - gram(t)) ** 2).sum() / len(s) ** 2


def huber(a, b):
    d = abs(a - b)
    return d**2 / 2 if d < 1 else d - 0.5


def distance_by_hand(s, t):
    pairs = list(itertools.permutations(range(len(s)), 2))
    mean_s, mean_t = (sum((a[i] - a[j]).norm() for i, j in pairs) / len(pairs) for a in (s, t))
    losses = [huber((s[i] - s[j]).norm() / mean_s, (t[i] - t[j]).norm() / mean_t) for i, j in pairs]
    return sum(losses) / len(pairs)


def angle_by_hand(s, t):
    triples = list(itertools.permutations(range(len(s)), 3))

    def cosine(a, i, j, k):
        return F.cosine_similarity(a[i] - a[j], a[k] - a[j], dim=0)

    return sum(huber(cosine(s, *ijk), cosine(t, *ijk)) for ijk in triples) / len(triples)


def pkt_by_hand(s, t):
    total = 0
    for i in range(len(s)):
        others = [j for j in range(len(s)) if j != i]
        q, p = (
            torch.stack([(1 + F.cosine_similarity(a[i], a[j], dim=0)) / 2 for j in others])
            for a in (s, t)
        )
        q, p = q / q.sum(), p / p.sum()
        total += (p * (p / q).log()).sum()
    return total / len(s)


BY_HAND = {
    "sp": sp_by_hand,
    "distance": distance_by_hand,
    "angle": angle_by_hand,
    "pkt": pkt_by_hand,
}


@pytest.mark.parametrize("name", LOSSES)
def test_by_hand_with_different_widths(name):
    s, t = randn(6, 3), randn(6, 5, seed=1)
    torch.testing.assert_close(LOSSES[name](s, t), BY_HAND[name](s, t))
    s, t = randn(5, 2, 3, 3), randn(5, 4, 2, 2, seed=1)  # maps, of other sizes even
    expected = BY_HAND[name](s.flatten(1), t.flatten(1))
    torch.testing.assert_close(LOSSES[name](s, t), expected)


@pytest.mark.parametrize("name", LOSSES)
def test_zero_for_a_copy_and_blind_to_rotation_and_scale(name):
    s, t = randn(8, 5), randn(8, 5, seed=1)
    loss, value = LOSSES[name], LOSSES[name](s, t)
    assert loss(t, t).abs() < 1e-12
    assert value > 1e-4
    torch.testing.assert_close(loss(s @ rotation(5), t), value)
    torch.testing.assert_close(loss(3 * s, t), value)


@pytest.mark.parametrize("n", [20, 40])  # torch multiplies matrices for more than 25
def test_distances_keep_their_digits_far_from_the_origin(n):
    s, t = randn(n, 16).float(), randn(n, 16, seed=1).float()
    for far in (s + 1e3, 1 + 1e-3 * s):  # a common offset; a student that has nearly collapsed
        expected = relational_distance_loss(far.double(), t.double()).float()
        torch.testing.assert_close(relational_distance_loss(far, t), expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("layers", ["conv1", ("conv1",), ("conv1", "conv2", "fc1")])
def test_a_flow_goes_from_one_layer_to_another(layers):
    with pytest.raises(ValueError, match=r"teacher_layers: expected a pair of layers, .* got"):
        Flow(("conv1", "conv2"), layers)


@pytest.mark.parametrize("name", ["distance", "angle"])
def test_distances_and_angles_are_blind_to_a_shift(name):
    s, t = randn(8, 5), randn(8, 5, seed=1)
    torch.testing.assert_close(LOSSES[name](s + 7, t), LOSSES[name](s, t))


@pytest.mark.parametrize("name", ["sp", "pkt"])
def test_similarities_are_not(name):
    s, t = randn(8, 5), randn(8, 5, seed=1)
    assert (LOSSES[name](s + 7, t) - LOSSES[name](s, t)).abs() > 1e-3


@pytest.mark.parametrize("name", LOSSES)
def test_gradients(name):
    s, t = randn(5, 3).requires_grad_(), randn(5, 4, seed=1)
    assert torch.autograd.gradcheck(lambda a: LOSSES[name](a, t), s)


@pytest.mark.parametrize("name", LOSSES)
def test_equal_samples_and_dead_layers_give_no_nan(name):
    for features in (torch.zeros(4, 3), torch.ones(4, 3), torch.eye(4)[[0, 0, 1, 1]]):
        s = features.clone().requires_grad_()
        loss = LOSSES[name](s, randn(4, 6).float())
        loss.backward()
        assert loss.isfinite() and s.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_too_few_or_other_samples_are_refused(name):
    with pytest.raises(ValueError, match="got 4 of the student and 5 of the teacher"):
        LOSSES[name](randn(4, 3), randn(5, 3))
    with pytest.raises(ValueError, match="or more samples, got 1 of"):
        LOSSES[name](randn(1, 3), randn(1, 3))


@pytest.mark.parametrize("name", ["sp", "distance", "angle", "pkt"])
def test_a_last_batch_of_one_image_says_what_to_do(name):
    teacher, student = CNN((4, 6), 20), CNN((2, 4), 8)
    learner = Distiller(teacher, student, {"mine": METHODS[name]()})
    with pytest.raises(ValueError) as error:
        fit(learner, digits(33), epochs=1, batch_size=16, progress=False)
    message = str(error.value)
    assert message.startswith(f"losses['mine'], {type(METHODS[name]()).__name__}: cannot compare")
    assert "got 1 of the student and 1 of the teacher: if it is the smaller last batch" in message
    assert message.endswith("choose another batch_size or leave the odd images out")


# ---- flow between layers


def test_flow_by_hand():
    first, second = randn(2, 3, 4, 4), randn(2, 5, 4, 4, seed=1)
    g = flow_matrix(first, second)
    assert g.shape == (2, 3, 5)
    for b, i, j in itertools.product(range(2), range(3), range(5)):
        torch.testing.assert_close(g[b, i, j], (first[b, i] * second[b, j]).sum() / 16)
    other = flow_matrix(-first, second)
    torch.testing.assert_close(flow_loss(other, g), 4 * (g**2).sum(dim=(1, 2)).mean())
    assert flow_loss(g, g) == 0


def test_flow_brings_the_larger_map_down():
    first, second = randn(2, 3, 8, 8), randn(2, 5, 4, 4, seed=1)
    torch.testing.assert_close(
        flow_matrix(first, second), flow_matrix(F.max_pool2d(first, 2), second)
    )
    torch.testing.assert_close(
        flow_matrix(second, first), flow_matrix(first, second).transpose(1, 2)
    )


def test_flow_ignores_a_shuffle_of_places():
    first, second = randn(2, 3, 4, 4), randn(2, 5, 4, 4, seed=1)
    torch.testing.assert_close(
        flow_matrix(first.flip(2), second.flip(2)), flow_matrix(first, second)
    )


def test_flow_refuses():
    with pytest.raises(ValueError, match=r"second: expected maps.*got \(2, 5\)"):
        flow_matrix(randn(2, 3, 4, 4), randn(2, 5))
    with pytest.raises(ValueError, match=r"got \(2, 3, 5\) .* and \(2, 3, 6\).*as many channels"):
        flow_loss(randn(2, 3, 5), randn(2, 3, 6))


def test_a_wrong_shape_names_the_loss_the_layers_and_the_cure():
    torch.manual_seed(0)
    teacher, student, data = CNN((4, 6), 20), CNN((4, 5), 8), digits(8)
    batch = Batch(data.floats(data.x), data.y, torch.arange(8), 0, 8, False)
    for loss, message in (
        (
            Flow(("conv1", "conv2"), ("conv1", "conv2")),
            r"Flow: .*student's 'conv1' of shape \(8, 4, 24, 24\) and 'conv2' of shape "
            r"\(8, 5, 8, 8\) with the teacher's .*as many channels, or add a 1×1 convolution",
        ),
        (Flow(("conv1", "fc1"), ("conv1", "fc1")), r"Flow: .*'fc1' of shape .*name a convolution"),
    ):
        with pytest.raises(ValueError, match=message):
            Distiller(teacher, student, {"a": loss})(batch)


# ---- as parts of a distiller

METHODS = {
    "sp": lambda: SimilarityPreserving("fc1", "fc1", weight=100.0),
    "distance": lambda: RelationalDistance("conv2", "conv2"),
    "angle": lambda: RelationalAngle("fc1", "fc1", n_samples=8),
    "pkt": lambda: ProbabilisticTransfer("fc1", "fc1", weight=100.0),
    "flow": lambda: Flow(("conv1", "conv2"), ("conv1", "conv2")),
}


def digits(n=32):
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, 1, 28, 28), generator=g, dtype=torch.uint8)
    return Images(x, torch.randint(0, 10, (n,), generator=g), tuple("0123456789"), 0.13, 0.31)


def networks(name):
    """A teacher, and a narrower student; flow wants as many channels, the others don't care."""
    torch.manual_seed(0)
    return CNN((4, 6), 20), CNN((4, 6) if name == "flow" else (2, 4), 8)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", METHODS)
def test_each_method_composes_and_moves_the_student(name, precision, device):
    students = []
    for more in ({}, {name: METHODS[name]()}):
        teacher, student = networks(name)
        learner = Distiller(teacher, student, {"soft": SoftTargets(tau=4.0)} | more)
        options = {"epochs": 2, "batch_size": 16, "precision": precision, "progress": False}
        history = fit(learner, digits().to(device), **options)
        assert set(history[0]) >= {"loss", "soft", *more}
        assert all(p.grad is None for p in teacher.parameters())
        students.append(student.conv1.weight)
    assert not torch.allclose(*students)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", METHODS)
def test_a_short_step_down_the_slope_lowers_each_loss(name, device):
    teacher, student = networks(name)
    data = digits().to(device)
    index = torch.arange(len(data), device=device)
    batch = Batch(data.floats(data.x), data.y, index, 0, len(data), False)
    learner = Distiller(teacher, student, {name: METHODS[name]()}).to(device).eval()
    before = learner(batch)[name]
    before.backward()
    slopes = {p: p.grad for p in student.parameters() if p.grad is not None}
    length = torch.stack([slope.norm() for slope in slopes.values()]).norm()
    with torch.no_grad():
        for p, slope in slopes.items():
            p -= 0.01 * slope / length
        assert learner(batch)[name] < 0.99 * before


def test_a_network_without_maps_can_follow_one_with_maps():
    torch.manual_seed(0)
    teacher, student = CNN((4, 6), 20), MLP(784, 8, 10)
    losses = {"sp": SimilarityPreserving("layers.fc1", "conv2")}
    history = fit(Distiller(teacher, student, losses), digits(), epochs=8, progress=False)
    assert history[-1]["sp"] < history[0]["sp"]


def test_what_is_printed_names_the_layers():
    assert "conv1 to conv2 → conv1 to conv2" in repr(METHODS["flow"]())
    assert repr(METHODS["sp"]()) == "SimilarityPreserving(fc1 → fc1, weight=100.0)"
    assert math.isfinite(METHODS["sp"]().weight)
