"""Estimates against the truth where it is known, other implementations, and the theory."""

import math

import dit
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.special import digamma
from sklearn.feature_selection import mutual_info_regression
from sklearn.metrics import mutual_info_score
from torch import nn

from distill_lib import estimators
from distill_lib.bounds import (
    SeparableCritic,
    barber_agakov_bound,
    dv_bound,
    estimate_mutual_information,
    infonce_bound,
    nwj_bound,
)
from distill_lib.estimators import (
    equal_mass_bins,
    gaussian_ranks,
    ksg_mutual_information,
    plug_in_mutual_information,
)
from distill_lib.information import gaussian_mutual_information

BOUNDS = (infonce_bound, dv_bound, nwj_bound)
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=25, deadline=None)


def correlated(n, rho, seed=0, d=1):
    x, noise = np.random.default_rng(seed).normal(size=(2, n, d))
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def dice(n, seed=0, faces=6):
    x, y = np.random.default_rng(seed).integers(faces, size=(2, n))
    return x, np.where(y < 2, x, y)


# ---- plug-in


@quick
@given(seeds, st.integers(1, 300), st.integers(1, 12))
def test_plug_in_is_that_of_scikit_learn(seed, n, faces):
    x, y = np.random.default_rng(seed).integers(faces, size=(2, n))
    assert plug_in_mutual_information(x, y) == pytest.approx(mutual_info_score(x, y), abs=1e-12)


def test_plug_in_is_that_of_dit():
    x, y = dice(500)
    outcomes, counts = np.unique(np.stack([x, y], axis=1), axis=0, return_counts=True)
    joint = dit.Distribution([f"{a}{b}" for a, b in outcomes], list(counts / 500))
    bits = dit.shannon.mutual_information(joint, [0], [1])
    assert plug_in_mutual_information(x, y) == pytest.approx(bits * math.log(2), abs=1e-12)


@quick
@given(seeds)
def test_plug_in_sees_neither_names_nor_order(seed):
    x, y = dice(200, seed)
    rng = np.random.default_rng(seed)
    expected = plug_in_mutual_information(x, y)
    order, names = rng.permutation(200), rng.permutation(6)
    assert plug_in_mutual_information(y, x) == pytest.approx(expected, abs=1e-13)
    assert plug_in_mutual_information(x[order], y[order]) == pytest.approx(expected, abs=1e-13)
    assert plug_in_mutual_information(names[x], y) == pytest.approx(expected, abs=1e-13)
    assert plug_in_mutual_information(x.astype(str), y / 7) == pytest.approx(expected, abs=1e-13)
    rows = np.stack([x // 2, x % 2], axis=1)
    assert plug_in_mutual_information(rows, y) == pytest.approx(expected, abs=1e-13)
    assert expected >= 0


def test_plug_in_of_copies_and_constants():
    x = np.repeat(np.arange(8), 5)
    assert plug_in_mutual_information(x, -x) == pytest.approx(math.log(8))
    assert plug_in_mutual_information(x, np.zeros(40)) == 0.0
    assert plug_in_mutual_information(np.arange(50_000), np.arange(50_000)) == pytest.approx(
        math.log(50_000)
    )


def test_plug_in_bias():
    rng = np.random.default_rng(0)
    values = [plug_in_mutual_information(*rng.integers(10, size=(2, 1000))) for _ in range(300)]
    assert np.mean(values) == pytest.approx(81 / 2000, rel=0.05)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([], [], "x: expected shape"),
        ([0, 1], [0], "x has 2 samples but y has 1"),
        ([0.0, math.nan], [0, 1], "x: .*NaN"),
        (np.zeros((2, 2, 2)), [0, 1], "x: expected shape"),
        ([0, 1], 3, "y: expected shape"),
    ],
)
def test_plug_in_names_what_it_cannot_use(x, y, message):
    with pytest.raises(ValueError, match=message):
        plug_in_mutual_information(x, y)


# ---- bins and ranks


@quick
@given(seeds, st.integers(1, 40))
def test_bins_have_equal_mass_and_see_ranks_only(seed, n_bins):
    x = np.random.default_rng(seed).standard_t(1, size=120)
    bins = equal_mass_bins(x, n_bins)
    mass = np.bincount(bins, minlength=n_bins)
    assert mass.max() - mass.min() <= 1 and len(mass) == n_bins
    assert (np.diff(bins[np.argsort(x)]) >= 0).all()
    for change in (np.arcsinh, np.cbrt, lambda v: 3 * v + 2):
        np.testing.assert_array_equal(equal_mass_bins(change(x), n_bins), bins)


def test_equal_values_share_a_bin():
    bins = equal_mass_bins([2, 2, 2, 1, 1, 5], 3)
    assert len(set(bins[:3])) == len(set(bins[3:5])) == 1


@pytest.mark.parametrize(
    ("x", "n_bins", "message"),
    [
        (np.arange(5), 6, "n_bins: expected a whole number from 1 to n = 5, got 6"),
        (np.arange(5), 0, "n_bins"),
        (np.arange(5), 2.5, "n_bins"),
        (np.arange(5), math.nan, "n_bins"),
        (np.zeros((5, 2)), 2, "one column"),
        ([1, math.inf], 1, "finite"),
    ],
)
def test_bins_name_what_they_cannot_use(x, n_bins, message):
    with pytest.raises(ValueError, match=message):
        equal_mass_bins(x, n_bins)


def test_gaussian_ranks():
    x = np.random.default_rng(0).standard_t(1, size=(2000, 2))
    ranks = gaussian_ranks(x)
    assert ranks.shape == x.shape and gaussian_ranks(x[:, 0]).shape == (2000,)
    assert abs(ranks.mean()) < 1e-12 and ranks.std() == pytest.approx(1, abs=0.01)
    np.testing.assert_array_equal(gaussian_ranks(np.arcsinh(x)), ranks)
    np.testing.assert_array_equal(np.argsort(ranks[:, 1]), np.argsort(x[:, 1]))


@pytest.mark.parametrize("x", [[1, math.nan], [math.inf, 0], [], np.zeros((2, 2, 2))])
def test_ranks_name_what_they_cannot_use(x):
    with pytest.raises(ValueError, match="x: expected "):
        gaussian_ranks(x)


# ---- KSG


def ksg_by_hand(x, y, k):
    """The formula of the paper, sample by sample."""
    x, y = (np.reshape(v, (len(v), -1)) for v in (x, y))
    x, y = (v / np.sqrt(np.mean((v - v.mean(axis=0)) ** 2)) for v in (x, y))
    n, terms = len(x), []
    for i in range(n):
        others = np.arange(n) != i
        apart_x = abs(x - x[i]).max(axis=1)[others]
        apart_y = abs(y - y[i]).max(axis=1)[others]
        epsilon = np.sort(np.maximum(apart_x, apart_y))[k - 1] * (1 - 1e-11)
        n_x, n_y = (apart_x < epsilon).sum(), (apart_y < epsilon).sum()
        terms.append(digamma(n_x + 1) + digamma(n_y + 1))
    return digamma(k) + digamma(n) - np.mean(terms)


@pytest.mark.parametrize(("d_x", "d_y"), [(1, 1), (1, 2), (3, 2), (5, 5), (6, 5), (20, 30)])
@pytest.mark.parametrize("k", [1, 3, 10])
def test_ksg_is_the_formula(d_x, d_y, k):
    rng = np.random.default_rng(d_x + k)
    x = 5 + 40 * rng.normal(size=(150, d_x))
    y = np.tanh(x[:, :1] / 40) + 0.5 * rng.normal(size=(150, d_y))
    assert ksg_mutual_information(x, y, k=k) == pytest.approx(ksg_by_hand(x, y, k), abs=1e-10)


@quick
@given(
    seeds,
    st.integers(20, 400),
    st.sampled_from([1, 3, 5]),
    st.floats(-0.99, 0.99),
    st.sampled_from([1.0, 1e-3, 1e6]),
    st.sampled_from([0.0, 50.0, 1e4]),
)
def test_ksg_is_that_of_scikit_learn(seed, n, k, rho, scale, offset):
    x, y = (v[:, 0] for v in correlated(n, rho, seed))
    ours = ksg_mutual_information(scale * x + offset * scale, y, k=k)
    usual = mutual_info_regression(
        (scale * x + offset * scale)[:, None], y, n_neighbors=k, random_state=0
    )[0]
    assert max(0, ours) == pytest.approx(usual, abs=1e-3)


@quick
@given(seeds)
def test_ksg_symmetries(seed):
    x, y = correlated(200, 0.6, seed, d=2)
    expected = ksg_mutual_information(x, y)
    order = np.random.default_rng(seed).permutation(200)
    assert ksg_mutual_information(y, x) == pytest.approx(expected, abs=1e-12)
    assert ksg_mutual_information(x[order], y[order]) == pytest.approx(expected, abs=1e-12)
    assert ksg_mutual_information(8 * x, -0.25 * y) == pytest.approx(expected, abs=1e-12)
    assert ksg_mutual_information(x + 3, y - 7) == pytest.approx(expected, abs=1e-3)
    assert ksg_mutual_information(x[:, ::-1], y) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.75, 0.9])
def test_ksg_finds_the_truth_for_gaussians(rho):
    truth = gaussian_mutual_information([[1, rho], [rho, 1]], n_x=1)
    values = [ksg_mutual_information(*correlated(2000, rho, seed)) for seed in range(10)]
    assert np.mean(values) == pytest.approx(truth, abs=0.02)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_ksg_ignores_the_unit_however_large(scale):
    x, y = correlated(200, 0.6)
    expected = ksg_mutual_information(x, y)
    assert ksg_mutual_information(scale * x, y) == pytest.approx(expected, abs=1e-12)


def test_ksg_is_not_clipped():
    values = [ksg_mutual_information(*correlated(300, 0.0, seed)) for seed in range(20)]
    assert min(values) < 0 < max(values)


def test_ksg_does_not_see_through_a_change_of_variables_but_ranks_do():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 3000)) / np.sqrt(rng.chisquare(1, size=3000))
    assert ksg_mutual_information(x, y) < 0.2
    assert ksg_mutual_information(np.arcsinh(x), np.arcsinh(y)) == pytest.approx(0.224, abs=0.04)
    ranks = gaussian_ranks(x), gaussian_ranks(y)
    assert ksg_mutual_information(*ranks) == pytest.approx(0.224, abs=0.04)
    assert ksg_mutual_information(gaussian_ranks(np.cbrt(x)), ranks[1]) == (
        ksg_mutual_information(*ranks)
    )


def test_ksg_refuses_ties_of_more_than_k():
    x, y = dice(100)
    with pytest.raises(ValueError, match=r"samples share their point with 3 others or more"):
        ksg_mutual_information(x, y)


def test_ksg_takes_a_few_ties_as_the_formula_does():
    x, y = (v[:, 0] for v in correlated(200, 0.7))
    x[:20], y[:20] = x[20:40], y[20:40]  # twenty samples twice
    assert ksg_mutual_information(x, y) == pytest.approx(ksg_by_hand(x, y, 3), abs=1e-10)
    grid = np.round(x, 1), np.round(y, 2)  # many distances are equal, up to rounding
    assert ksg_mutual_information(*grid) == pytest.approx(ksg_by_hand(*grid, 3), abs=1e-10)


@pytest.mark.parametrize(
    ("x", "y", "k", "message"),
    [
        (np.arange(5.0), np.arange(4.0), 3, "x has 5 samples but y has 4"),
        (np.arange(3.0), np.arange(3.0), 3, "more than k = 3 samples, got 3"),
        (np.arange(9.0), np.arange(9.0), 0, "k: expected a whole number of neighbours, .* got 0"),
        (np.arange(9.0), np.arange(9.0), 2.5, "k: expected a whole number"),
        (np.arange(9.0), np.arange(9.0), math.nan, "k: expected a whole number"),
        ([1, 2, math.nan, 4, 5], np.arange(5.0), 3, "x: expected finite numbers, got 1"),
        (np.arange(5.0), [1, 2, math.inf, -math.inf, 5], 3, "y: expected finite numbers, got 2"),
        (np.ones(9), np.arange(9.0), 3, "x: all 9 samples are equal"),
        (np.zeros((3, 3, 3)), np.arange(3.0), 1, "x: expected samples of shape"),
        ([], [], 1, "x: expected samples of shape"),
    ],
)
def test_ksg_names_what_it_cannot_use(x, y, k, message):
    with pytest.raises(ValueError, match=message):
        ksg_mutual_information(x, y, k=k)


def test_ksg_is_fast_in_many_columns_because_it_counts_directly(monkeypatch):
    x, y = correlated(300, 0.5, d=20)
    expected = ksg_mutual_information(x, y)
    monkeypatch.setattr(estimators, "_MANY_COLUMNS", 100)  # the trees
    assert ksg_mutual_information(x, y) == pytest.approx(expected, abs=1e-10)


# ---- bounds


def random_scores(seed, size=7, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(size, size, generator=generator, dtype=torch.float64)


def test_bounds_by_hand():
    s = random_scores(0, 4)
    rows = [math.exp(s[i, i]) / sum(math.exp(s[i, j]) for j in range(4)) for i in range(4)]
    together = float(s.diagonal().mean())
    apart = sum(math.exp(s[i, j]) for i in range(4) for j in range(4) if i != j) / 12
    assert float(infonce_bound(s)) == pytest.approx(math.log(4) + np.mean(np.log(rows)))
    assert float(dv_bound(s)) == pytest.approx(together - math.log(apart))
    assert float(nwj_bound(s)) == pytest.approx(1 + together - apart)
    log_q = torch.log(torch.tensor([0.5, 0.25]))
    assert float(barber_agakov_bound(log_q, 1.0)) == pytest.approx(1 - 1.5 * math.log(2))


@quick
@given(seeds, st.integers(2, 30), st.floats(0.01, 100))
def test_infonce_never_exceeds_ln_b_and_nwj_never_dv(seed, size, scale):
    s = random_scores(seed, size, scale)
    assert float(infonce_bound(s)) <= math.log(size) + 1e-12
    assert float(nwj_bound(s)) <= float(dv_bound(s)) + 1e-9
    assert float(infonce_bound(s.float())) <= math.log(size) + 1e-6


@quick
@given(seeds)
def test_invariances_of_the_bounds(seed):
    s, constants = random_scores(seed), random_scores(seed + 1)[0]
    assert float(infonce_bound(s + constants[:, None])) == pytest.approx(float(infonce_bound(s)))
    assert float(dv_bound(s + 5)) == pytest.approx(float(dv_bound(s)))
    for bound in BOUNDS:
        order = torch.randperm(7)
        assert float(bound(s[order][:, order])) == pytest.approx(float(bound(s)))
    normalised = s - (s.diagonal().mean() - dv_bound(s))  # now E' exp f = 1
    assert float(nwj_bound(normalised)) == pytest.approx(float(dv_bound(s)))


@pytest.mark.parametrize("bound", BOUNDS)
def test_bounds_know_nothing_without_a_critic(bound):
    assert float(bound(torch.zeros(5, 5))) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("bound", [infonce_bound, dv_bound])
@pytest.mark.parametrize("shift", [-1000.0, 1000.0])
def test_large_scores_do_not_overflow(bound, shift):
    s = random_scores(0).float()
    assert float(bound(s + shift)) == pytest.approx(float(bound(s)), abs=1e-3)
    assert math.isfinite(float(bound(s.half() * 100)))


@pytest.mark.parametrize("nats", [2, 6, 10])
def test_the_best_critic(nats):
    """Correlated Gaussians, d = 20, 64 pairs: what the bounds reach, and where they stop."""
    rng, d, size = np.random.default_rng(nats), 20, 64
    rho2 = 1 - math.exp(-2 * nats / d)
    found = {bound: [] for bound in BOUNDS}
    for _ in range(300):
        x, noise = rng.normal(size=(2, size, d))
        y = math.sqrt(rho2) * x + math.sqrt(1 - rho2) * noise
        squares = cdist(math.sqrt(rho2) * x, y, "sqeuclidean") / (1 - rho2)
        scores = torch.from_numpy(nats + ((y**2).sum(axis=1) - squares) / 2)
        for bound in BOUNDS:
            found[bound].append(float(bound(scores)))
    infonce, dv, nwj = (np.array(found[bound]) for bound in (infonce_bound, dv_bound, nwj_bound))
    assert infonce.max() <= math.log(64) and infonce.mean() < nats
    expected = {2: (1.83, 2.03, 2.03), 6: (3.77, 6.32, 6.17), 10: (4.12, 11.48, 10.67)}[nats]
    spread = {2: 0.05, 6: 0.3, 10: 0.5}[nats]
    assert infonce.mean() == pytest.approx(expected[0], abs=0.06)
    assert np.median(dv) == pytest.approx(expected[1], abs=spread)
    assert np.median(nwj) == pytest.approx(expected[2], abs=spread)
    assert infonce.std() < dv.std()


def test_barber_agakov_on_a_gaussian_pair():
    x, y = (torch.from_numpy(v[:, 0]) for v in correlated(100_000, 0.9))
    entropy_y = math.log(2 * math.pi * math.e) / 2
    best = torch.distributions.Normal(0.9 * x, math.sqrt(0.19)).log_prob(y)
    loose = torch.distributions.Normal(0.9 * x, 1.0).log_prob(y)
    blind = torch.distributions.Normal(0.0, 1.0).log_prob(y)
    found = [float(barber_agakov_bound(log_q, entropy_y)) for log_q in (best, loose, blind)]
    assert found == pytest.approx([0.8304, 0.405, 0.0], abs=0.01)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("shape", [(3, 4), (3,), (1, 1), (2, 2, 2)])
def test_bounds_name_scores_of_the_wrong_shape(bound, shape):
    with pytest.raises(ValueError, match="scores: expected a square matrix"):
        bound(torch.zeros(shape))


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_nan_among_the_scores_is_not_hidden(bound):
    scores = torch.zeros(3, 3)
    scores[1, 2] = math.nan
    assert bound(scores).isnan()
    assert barber_agakov_bound(torch.tensor([0.0, math.nan]), 1.0).isnan()


def test_barber_agakov_names_the_wrong_shape():
    with pytest.raises(ValueError, match="log_q: expected one number a pair"):
        barber_agakov_bound(torch.zeros(3, 2), 1.0)


@pytest.mark.parametrize("bound", BOUNDS)
def test_gradients_reach_both_networks(bound):
    critic = SeparableCritic(3, 2)
    x, y = torch.randn(8, 3), torch.randn(8, 2)
    scores = critic(x, y)
    assert scores.shape == (8, 8)
    one_pair = float((critic.g(x)[2] @ critic.h(y)[5]).detach())
    assert float(scores[2, 5].detach()) == pytest.approx(one_pair, abs=1e-5)
    bound(scores).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in critic.parameters())


# ---- training


def test_training_finds_most_of_what_there_is():
    truth = gaussian_mutual_information([[1, 0.9], [0.9, 1]], n_x=1)
    x, y = correlated(4000, 0.9)
    for bound in BOUNDS:
        found = estimate_mutual_information(x, y, bound, steps=250, lr=2e-3, device="cpu")
        assert truth - 0.15 < found.nats < truth + 0.12


def test_held_out_pairs_keep_it_honest():
    options = {"steps": 100, "batch": 128, "lr": 3e-3, "device": "cpu"}
    x, y = np.random.default_rng(0).normal(size=(2, 640, 30))
    nothing = estimate_mutual_information(x, y, **options)
    assert abs(nothing.nats) < 0.15 and nothing.training_nats > nothing.nats + 0.03
    x, y = np.random.default_rng(1).normal(size=(2, 640, 5))
    y[:, 0] = x[:, 0] + y[:, 0] / 2
    truth = math.log(5) / 2
    something = estimate_mutual_information(x, y, **options)
    assert 0.2 < something.nats < truth
    assert something.training_nats > something.nats + 0.1


def test_a_seed_repeats_it_and_leaves_the_callers_alone():
    x, y = correlated(700, 0.8)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (
        estimate_mutual_information(x, y, steps=20, batch=64, seed=seed, device="cpu")
        for seed in (1, 1, 2)
    )
    assert first == again and first != other
    assert torch.equal(torch.random.get_rng_state(), before)


def test_columns_are_standardised():
    x, y = correlated(700, 0.8)
    options = {"steps": 20, "batch": 64, "device": "cpu"}
    plain = estimate_mutual_information(x, y, **options)
    scaled = estimate_mutual_information(1024 * x, y / 4, **options)
    assert scaled.nats == pytest.approx(plain.nats, abs=1e-4)
    as_tensors = estimate_mutual_information(torch.from_numpy(x), torch.from_numpy(y), **options)
    assert as_tensors == plain


def test_another_critic_is_trained_in_place():
    class Joint(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1))

        def forward(self, x, y):
            n = len(x)
            pairs = torch.cat([x.repeat_interleave(n, dim=0), y.repeat(n, 1)], dim=1)
            return self.net(pairs).reshape(n, n)

    critic = Joint()
    before = [p.detach().clone() for p in critic.parameters()]
    x, y = correlated(700, 0.95)
    found = estimate_mutual_information(
        x, y, nwj_bound, critic=critic, steps=150, batch=64, lr=1e-2, device="cpu"
    )
    assert 0.3 < found.nats < 1.5
    assert any(not torch.equal(a, b) for a, b in zip(before, critic.parameters(), strict=True))


def test_a_bound_that_is_not_finite_is_an_error():
    x, y = correlated(400, 0.5)
    with pytest.raises(FloatingPointError, match="Lower lr"):
        estimate_mutual_information(x, y, nwj_bound, steps=50, batch=64, lr=1e6, device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 1}, "steps, batch, lr"),
        ({"steps": 0}, "steps, batch, lr"),
        ({"lr": 0.0}, "steps, batch, lr"),
        ({"batch": 256}, "expected 1280 pairs or more"),
    ],
)
def test_training_names_what_it_cannot_use(options, message):
    x, y = correlated(100, 0.5)
    with pytest.raises(ValueError, match=message):
        estimate_mutual_information(x, y, **{"batch": 16, "steps": 1, **options})


def test_training_names_bad_samples():
    x, y = correlated(100, 0.5)
    with pytest.raises(ValueError, match="x has 100 samples but y has 99"):
        estimate_mutual_information(x, y[1:], batch=16)
    y[3] = math.nan
    with pytest.raises(ValueError, match="y: expected finite numbers"):
        estimate_mutual_information(x, y, batch=16)
