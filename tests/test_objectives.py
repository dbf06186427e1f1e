"""The losses against hand-written sums, their gradients and limits, and the bugs that shipped."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import special, stats
from torch.nn import functional as F

from distill_lib.data import Batch
from distill_lib.objectives import (
    DecoupledTargets,
    HardLabels,
    SoftTargets,
    Step,
    check_logits,
    decoupled_losses,
    logit_matching_loss,
    soft_target_loss,
)

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
logit_pairs = st.integers(2, 12).flatmap(
    lambda k: st.tuples(
        *[arrays(np.float64, (3, k), elements=st.floats(-30, 30, width=32)) for _ in range(2)]
    )
)
temperatures = st.floats(0.5, 50)


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def by_hand(student_logits, teacher_logits, tau):
    p = special.softmax(teacher_logits / tau, axis=1)
    q = special.softmax(student_logits / tau, axis=1)
    return tau**2 * stats.entropy(p, q, axis=1).mean()


@given(pair=logit_pairs, tau=temperatures)
@settings(deadline=None)
def test_soft_targets_are_tau_squared_times_scipys_kl(pair, tau):
    # the bugs this catches: kl_div's arguments swapped, reduction='mean' (K times too small),
    # probabilities where log-probabilities belong, tau² missing
    z, v = pair
    got = float(soft_target_loss(torch.tensor(z), torch.tensor(v), tau))
    assert got == pytest.approx(by_hand(z, v, tau), rel=1e-7, abs=1e-9)
    assert got >= -1e-12


@given(pair=logit_pairs, tau=temperatures)
@settings(deadline=None)
def test_zero_for_a_perfect_copy_and_for_shifted_logits(pair, tau):
    z = torch.tensor(pair[0])
    assert float(soft_target_loss(z, z, tau)) == pytest.approx(0, abs=1e-9)
    assert float(soft_target_loss(z + 5, z, tau)) == pytest.approx(0, abs=1e-9)


@given(pair=logit_pairs, tau=temperatures, seed=st.integers(0, 1000))
@settings(deadline=None)
def test_invariant_under_a_common_permutation_of_the_classes(pair, tau, seed):
    z, v = map(torch.tensor, pair)
    p = torch.randperm(z.shape[1], generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        soft_target_loss(z[:, p], v[:, p], tau), soft_target_loss(z, v, tau), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0, 20.0])
def test_gradient_is_tau_times_the_difference_of_the_probabilities(tau):
    z, v = randn(4, 10).requires_grad_(), 2 * randn(4, 10, seed=1)
    soft_target_loss(z, v, tau).backward()
    expected = tau * ((z / tau).softmax(1) - (v / tau).softmax(1)) / 4
    torch.testing.assert_close(z.grad, expected.detach(), rtol=1e-9, atol=1e-12)


def test_tau_squared_keeps_the_gradients_size():
    v = 2 * randn(1, 10, seed=1)

    def gradient_norm(tau):
        z = (2 * randn(1, 10)).requires_grad_()
        soft_target_loss(z, v, tau).backward()
        return float(z.grad.norm())

    norms = [gradient_norm(tau) for tau in (2.0, 4.0, 10.0, 100.0, 1000.0)]
    assert max(norms) / min(norms) < 2  # without the factor: a hundred thousand
    assert norms[-1] == pytest.approx(norms[-2], rel=0.02)


@pytest.mark.parametrize(("tau", "tolerance"), [(10, 0.1), (100, 0.01), (1000, 0.001)])
def test_high_temperature_is_mean_free_logit_matching(tau, tolerance):
    z, v = randn(6, 10), randn(6, 10, seed=1)
    difference = z - v
    difference -= difference.mean(dim=1, keepdim=True)
    limit = float((difference**2).sum(dim=1).mean() / (2 * 10))
    assert float(soft_target_loss(z, v, tau)) == pytest.approx(limit, rel=tolerance)


def test_the_gradient_equals_that_of_soft_cross_entropy():
    z, v = randn(4, 10).requires_grad_(), randn(4, 10, seed=1)
    (ours,) = torch.autograd.grad(soft_target_loss(z, v, 1.0), z)
    (torchs,) = torch.autograd.grad(F.cross_entropy(z, v.softmax(dim=1)), z)
    torch.testing.assert_close(ours, torchs)


def test_no_nan_where_the_teachers_probabilities_underflow():
    z = torch.zeros(2, 3, requires_grad=True)
    loss = soft_target_loss(z, torch.tensor([[300.0, 0.0, -300.0]] * 2), 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(np.log(3), rel=1e-6)
    assert bool(z.grad.isfinite().all())


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan")])
def test_temperature_must_be_positive(tau):
    with pytest.raises(ValueError, match=r"tau: expected a temperature above 0, got"):
        soft_target_loss(randn(2, 3), randn(2, 3), tau)
    with pytest.raises(ValueError, match=r"tau: expected a temperature above 0, got"):
        SoftTargets(tau)


def test_an_infinite_temperature_is_refused_and_its_limit_named():
    with pytest.raises(ValueError, match=r"tau: .* got inf: for the limit take logit_matching"):
        soft_target_loss(randn(2, 3), randn(2, 3), float("inf"))


@pytest.mark.parametrize(
    ("a", "b"), [((2, 3), (2, 4)), ((2, 3), (3,)), ((3,), (3,)), ((2, 1), (2, 3))]
)
def test_shapes_must_match(a, b):
    with pytest.raises(ValueError, match=r"expected one shape \(B, K\), got"):
        soft_target_loss(randn(*a), randn(*b), 2.0)


def test_integer_logits_are_refused():
    with pytest.raises(TypeError, match=r"student_logits: expected floating-point logits, got"):
        soft_target_loss(torch.zeros(2, 3).long(), randn(2, 3), 2.0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hard_labels_are_weighted_cross_entropy(dtype, autocast, device):
    """They have no teacher; what holds for all other losses is in `test_all_losses.py`."""
    z, y = randn(6, 4).to(dtype), torch.arange(6) % 4
    expected = 0.3 * sum(z[b].float().logsumexp(0) - z[b, y[b]].float() for b in range(6)) / 6
    batch = Batch(torch.zeros(6, 1, 2, 2), y.to(device), torch.arange(6), 0, 6, False)
    with torch.autocast(device, torch.bfloat16, enabled=autocast):
        loss = HardLabels(weight=0.3)(Step(batch, z.to(device), z.to(device)))
    torch.testing.assert_close(loss.cpu(), expected)


def test_check_logits_finds_a_softmax():
    logits, y = randn(5, 10), torch.arange(5)
    check_logits("student", logits, y)
    check_logits("student", logits.abs(), y)  # none negative, but no distributions either
    for tau in (1.0, 0.01):
        with pytest.raises(ValueError, match=r"student: expected logits, got probabilities"):
            check_logits("student", (logits / tau).softmax(dim=1).float(), y)


def test_check_logits_finds_a_softmax_in_bfloat16_too():
    p = (3 * randn(64, 10)).softmax(dim=1).bfloat16().float()
    assert (p.sum(dim=1) - 1).abs().max() > 1e-3
    with pytest.raises(ValueError, match=r"student: expected logits, got probabilities"):
        check_logits("student", p, torch.arange(64) % 10)


# ---- squared error of logits


def test_logit_matching_is_the_hot_limit_of_soft_targets():
    z, v = randn(3, 10), randn(3, 10, seed=1)
    z = z - z.mean(dim=1, keepdim=True) + v.mean(dim=1, keepdim=True)
    torch.testing.assert_close(
        logit_matching_loss(z, v), soft_target_loss(z, v, 1e4), rtol=1e-3, atol=0
    )
    by_hand = sum((z[b, k] - v[b, k]) ** 2 for b in range(3) for k in range(10)) / (2 * 10 * 3)
    torch.testing.assert_close(logit_matching_loss(z, v), by_hand)
    assert logit_matching_loss(v + 5, v) == 12.5, "it sees a shift, which a softmax does not"


# ---- decoupled distillation


@given(pair=logit_pairs, tau=temperatures, target=st.integers(0, 1))
def test_decoupled_halves_add_up_to_the_whole(pair, tau, target):
    z, v = map(torch.from_numpy, pair)
    y = torch.full((3,), target)
    tckd, nckd = decoupled_losses(z, v, y, tau)
    p_target = (v / tau).softmax(dim=1)[:, target]
    whole = (tckd + (1 - p_target) * nckd).mean()
    expected = soft_target_loss(z, v, tau)
    torch.testing.assert_close(whole, expected, rtol=1e-9, atol=1e-9 * tau**2)
    assert (tckd > -1e-9).all() and (nckd > -1e-9).all()


def test_decoupled_by_hand():
    z, v, y = randn(3, 5), randn(3, 5, seed=1), torch.tensor([0, 2, 4])
    tckd, nckd = decoupled_losses(z, v, y, 2.0)
    for b in range(3):
        q, p = special.softmax(z[b].numpy() / 2), special.softmax(v[b].numpy() / 2)
        t, others = int(y[b]), [k for k in range(5) if k != y[b]]
        assert tckd[b].item() == pytest.approx(
            4 * stats.entropy([p[t], 1 - p[t]], [q[t], 1 - q[t]])
        )
        assert nckd[b].item() == pytest.approx(4 * stats.entropy(p[others], q[others]))
    loss = DecoupledTargets(2.0, target=0.5, others=3.0)
    batch = Batch(torch.zeros(3, 1, 1, 1), y, torch.arange(3), 0, 3, False)
    torch.testing.assert_close(loss(Step(batch, z, v)), (0.5 * tckd + 3 * nckd).mean())


def test_decoupled_gradient_is_finite_where_the_teacher_is_sure():
    z = randn(2, 5).requires_grad_()
    v = torch.zeros(2, 5).double()
    v[:, 1] = 800.0
    for part in decoupled_losses(z, v, torch.tensor([1, 2]), 1.0):
        (slope,) = torch.autograd.grad(part.sum(), z, retain_graph=True)
        assert slope.isfinite().all()


# ---- label smoothing


def test_smoothing_is_a_teacher_that_knows_nothing():
    z, y = randn(6, 10), torch.arange(6)
    batch = Batch(torch.zeros(6, 1, 1, 1), y, torch.arange(6), 0, 6, False)
    step = Step(batch, z, torch.zeros_like(z))
    ours = HardLabels(0.9)(step) + SoftTargets(1.0, 0.1)(step) + 0.1 * np.log(10)
    torch.testing.assert_close(ours, F.cross_entropy(z, y, label_smoothing=0.1))
