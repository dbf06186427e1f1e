"""Exact information measures: against other libraries, textbooks, their own laws, and bad input."""

import math
import warnings

import dit
import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score

from distill_lib.information import (
    conditional_entropy,
    conditional_mutual_information,
    cross_entropy,
    entropy,
    gaussian_entropy,
    gaussian_kl_divergence,
    gaussian_mutual_information,
    js_divergence,
    kl_divergence,
    mutual_information,
)

# Cover & Thomas (2006), example 2.2.1. Rows are y, columns x, as printed there.
COVER_THOMAS = np.array([[4, 2, 1, 1], [2, 4, 1, 1], [2, 2, 2, 2], [8, 0, 0, 0]]).T / 32
XOR = np.array([[[0.25, 0], [0, 0.25]], [[0, 0.25], [0.25, 0]]])  # p[x, y, z], z = x xor y

settings.register_profile("book", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("book")


def tables(*shape):
    """Joint distributions of a shape, some of whose entries are zero."""
    size = math.prod(shape)
    weights = st.lists(st.integers(0, 20), min_size=size, max_size=size).filter(any)
    return weights.map(lambda w: np.reshape(w, shape) / sum(w))


def random_table(*shape, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(math.prod(shape))).reshape(shape)


# ---- known values


def test_cover_and_thomas_2_2_1():
    p_x, p_y = COVER_THOMAS.sum(axis=1), COVER_THOMAS.sum(axis=0)
    measured = [
        entropy(p_x, base=2),
        entropy(p_y, base=2),
        entropy(COVER_THOMAS, axis=None, base=2),
        conditional_entropy(COVER_THOMAS, given=1, base=2),
        conditional_entropy(COVER_THOMAS, given=0, base=2),
        mutual_information(COVER_THOMAS, base=2),
    ]
    assert measured == pytest.approx([7 / 4, 2, 27 / 8, 11 / 8, 13 / 8, 3 / 8], abs=1e-14)


def test_cover_and_thomas_2_3_1():
    p, q = [1 / 2, 1 / 2], [3 / 4, 1 / 4]
    assert kl_divergence(p, q, base=2) == pytest.approx(1 - math.log2(3) / 2, abs=1e-15)  # 0.2075
    assert kl_divergence(q, p, base=2) == pytest.approx(math.log2(3) * 3 / 4 - 1, abs=1e-15)
    assert round(kl_divergence(p, q, base=2), 4) == 0.2075
    assert round(kl_divergence(q, p, base=2), 4) == 0.1887


def test_xor_has_information_only_once_the_result_is_known():
    assert mutual_information(XOR.sum(axis=2), base=2) == pytest.approx(0, abs=1e-14)
    assert conditional_mutual_information(XOR, base=2) == pytest.approx(1, abs=1e-14)


def test_bivariate_normal():
    covariance = [[1, 0.75], [0.75, 1]]
    information = gaussian_mutual_information(covariance, n_x=1)
    assert information == pytest.approx(-math.log(1 - 0.75**2) / 2, abs=1e-15)
    assert round(information, 5) == 0.41334


def test_entropy_is_zero_when_certain_and_never_minus_zero():
    assert str(entropy([1.0, 0.0])) == "0.0"


def test_uniform_entropy_is_plus_log_n():
    assert entropy(np.full(10, 0.1)) == pytest.approx(math.log(10), abs=1e-15)


def test_js_of_disjoint_distributions_is_one_bit():
    assert js_divergence([1, 0], [0, 1], base=2) == 1
    assert js_divergence([1, 0], [0, 1]) == pytest.approx(math.log(2))


def test_divergence_is_infinite_outside_the_support_and_says_so_quietly():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kl_divergence([0.5, 0.5], [1, 0]) == math.inf
        assert cross_entropy([0.5, 0.5], [1, 0]) == math.inf
        assert kl_divergence([1, 0], [0.5, 0.5]) == pytest.approx(math.log(2))
        assert cross_entropy([1, 0], [1, 0]) == 0


# ---- other libraries


@pytest.mark.parametrize("base", [None, 2, 10])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_agrees_with_scipy(axis, base):
    rng = np.random.default_rng(1)
    p, q = rng.random((2, 5, 7))
    p, q = p / p.sum(axis=axis, keepdims=True), q / q.sum(axis=axis, keepdims=True)
    close = dict(rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(
        entropy(p, axis=axis, base=base), scipy.stats.entropy(p, axis=axis, base=base), **close
    )
    np.testing.assert_allclose(
        kl_divergence(p, q, axis=axis, base=base),
        scipy.stats.entropy(p, q, axis=axis, base=base),
        **close,
    )


def test_js_agrees_with_scipy():
    p, q = random_table(2, 6) * 2
    p, q = p / p.sum(), q / q.sum()
    expected = scipy.spatial.distance.jensenshannon(p, q, base=2) ** 2
    assert js_divergence(p, q, base=2) == pytest.approx(expected, abs=1e-14)


def test_mutual_information_agrees_with_scikit_learn():
    counts = np.random.default_rng(2).integers(0, 9, size=(4, 6))
    expected = mutual_info_score(None, None, contingency=counts)
    assert mutual_information(counts / counts.sum()) == pytest.approx(expected, abs=1e-14)


def test_agrees_with_dit():
    p = random_table(3, 4, 2, seed=3)
    outcomes = [(str(i), str(j), str(k)) for i, j, k in np.ndindex(p.shape)]
    joint = dit.Distribution(outcomes, p.ravel().tolist())
    shannon = dit.shannon
    assert entropy(p, axis=None, base=2) == pytest.approx(shannon.entropy(joint), abs=1e-12)
    assert conditional_entropy(p, given=(0, 2), base=2) == pytest.approx(
        shannon.conditional_entropy(joint, [1], [0, 2]), abs=1e-12
    )
    assert conditional_entropy(p, given=1, base=2) == pytest.approx(
        shannon.conditional_entropy(joint, [0, 2], [1]), abs=1e-12
    )
    assert mutual_information(p.sum(axis=2), base=2) == pytest.approx(
        shannon.mutual_information(joint, [0], [1]), abs=1e-12
    )
    assert conditional_mutual_information(p, base=2) == pytest.approx(
        dit.multivariate.coinformation(joint, [[0], [1]], [2]), abs=1e-12
    )


def test_gaussian_forms_agree_with_scipy_and_with_an_integral():
    rng = np.random.default_rng(4)
    a = rng.normal(size=(3, 5))
    expected = scipy.stats.multivariate_normal(cov=a @ a.T).entropy()
    assert gaussian_entropy(a @ a.T) == pytest.approx(expected, abs=1e-12)
    (mu_p, s_p), (mu_q, s_q) = (0.3, 0.8), (-0.5, 1.7)
    p, q = scipy.stats.norm(mu_p, s_p), scipy.stats.norm(mu_q, s_q)
    integral, _ = scipy.integrate.quad(
        lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), -10, 10, epsabs=1e-12
    )
    divergence = gaussian_kl_divergence(mu_p, s_p**2, mu_q, s_q**2)
    assert divergence == pytest.approx(integral, abs=1e-10)


def test_gaussian_kl_agrees_with_torch():
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(2, 4, 6))
    mu_p, mu_q = rng.normal(size=(2, 4))
    normal = torch.distributions.MultivariateNormal
    expected = torch.distributions.kl_divergence(
        normal(torch.tensor(mu_p), torch.tensor(a @ a.T)),
        normal(torch.tensor(mu_q), torch.tensor(b @ b.T)),
    )
    assert gaussian_kl_divergence(mu_p, a @ a.T, mu_q, b @ b.T) == pytest.approx(
        expected.item(), rel=1e-12
    )


def test_gaussian_information_is_a_divergence_and_a_difference_of_entropies():
    a = np.random.default_rng(6).normal(size=(5, 9))
    sigma = a @ a.T
    apart = sigma.copy()
    apart[:2, 2:] = apart[2:, :2] = 0
    information = gaussian_mutual_information(sigma, n_x=2, base=2)
    zero = np.zeros(5)
    divergence = gaussian_kl_divergence(zero, sigma, zero, apart, base=2)
    entropies = [gaussian_entropy(s, base=2) for s in (sigma[:2, :2], sigma[2:, 2:], sigma)]
    assert information == pytest.approx(divergence, abs=1e-12)
    assert information == pytest.approx(entropies[0] + entropies[1] - entropies[2], abs=1e-12)
    scale = np.sqrt(np.diag(sigma))
    correlation = sigma / np.outer(scale, scale)
    assert information == pytest.approx(gaussian_mutual_information(correlation, n_x=2, base=2))


# ---- laws


@given(tables(6), tables(6))
def test_divergences_have_their_signs_and_bounds(p, q):
    assert 0 <= entropy(p, base=6) <= 1 + 1e-15
    assert kl_divergence(p, q) >= 0
    assert kl_divergence(p, p) == 0
    assert (kl_divergence(p, q) == 0) == np.array_equal(p, q)
    assert 0 <= js_divergence(p, q, base=2) <= 1 + 1e-15
    assert js_divergence(p, q) == pytest.approx(js_divergence(q, p), abs=1e-15)
    assert cross_entropy(p, q) >= entropy(p) - 1e-12


@given(tables(5), tables(5))
def test_cross_entropy_is_entropy_plus_divergence(p, q):
    assert cross_entropy(p, q) == pytest.approx(entropy(p) + kl_divergence(p, q), abs=1e-12)


@given(tables(3, 4))
def test_five_forms_of_mutual_information(p):
    p_t, p_s = p.sum(axis=1), p.sum(axis=0)
    possible = p_t > 0
    s_given_t = p[possible] / p_t[possible, None]
    forms = [
        mutual_information(p),
        entropy(p_s) - conditional_entropy(p, given=0),
        entropy(p_t) - conditional_entropy(p, given=1),
        entropy(p_t) + entropy(p_s) - entropy(p, axis=None),
        p_t[possible] @ kl_divergence(s_given_t, np.broadcast_to(p_s, s_given_t.shape)),
    ]
    assert max(forms) - min(forms) < 1e-12


@given(tables(3, 2, 4))
def test_chain_rules(p):
    joint = entropy(p, axis=None)
    assert joint == pytest.approx(
        entropy(p.sum(axis=(1, 2))) + conditional_entropy(p, given=0), abs=1e-12
    )
    p_xz = p.sum(axis=1)
    assert mutual_information(p.reshape(3, 8)) == pytest.approx(
        mutual_information(p_xz) + conditional_mutual_information(p), abs=1e-12
    )


@given(tables(3, 2, 4))
def test_conditional_information_is_a_difference_of_conditional_entropies(p):
    assert conditional_mutual_information(p) == pytest.approx(
        conditional_entropy(p.sum(axis=1), given=1) - conditional_entropy(p, given=(1, 2)),
        abs=1e-12,
    )


@given(tables(3, 4), st.permutations(range(4)))
def test_names_of_the_outcomes_do_not_matter(p, order):
    order = list(order)
    q = p[:, order]
    assert entropy(q, axis=None) == pytest.approx(entropy(p, axis=None), abs=1e-14)
    assert mutual_information(q) == pytest.approx(mutual_information(p), abs=1e-14)
    assert mutual_information(p.T) == pytest.approx(mutual_information(p), abs=1e-14)


@given(tables(3, 4), tables(4, 5))
def test_data_processing(p_xy, rows):
    weight = rows.sum(axis=1, keepdims=True)
    channel = np.where(weight > 0, rows / np.where(weight > 0, weight, 1), 0.2)  # p(z | y)
    assert mutual_information(p_xy @ channel) <= mutual_information(p_xy) + 1e-12
    p_xyz = p_xy[:, :, None] * channel  # a Markov chain X -> Y -> Z
    assert conditional_mutual_information(p_xyz.transpose(0, 2, 1)) == pytest.approx(0, abs=1e-12)


@given(tables(3, 4), tables(3, 4))
def test_chain_rule_of_divergence(p, q):
    p_x, q_x = p.sum(axis=1), q.sum(axis=1)
    given_x = sum(
        p_x[x] * kl_divergence(p[x] / p_x[x], q[x] / q_x[x])
        for x in range(3)
        if p_x[x] > 0 and q_x[x] > 0
    )
    whole = kl_divergence(p, q, axis=None)
    assert whole == pytest.approx(kl_divergence(p_x, q_x) + given_x, abs=1e-12)


@given(tables(5), tables(5))
def test_a_channel_never_adds_to_a_divergence(p, q):
    channel = random_table(5, 3) * 5
    channel /= channel.sum(axis=1, keepdims=True)
    assert kl_divergence(p @ channel, q @ channel) <= kl_divergence(p, q) + 1e-12


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 3))
def test_gaussian_information_keeps_its_laws(seed, n_x, n_y):
    """Not negative, blind to invertible maps of X and of Y, never more when coordinates go."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n_x + n_y, n_x + n_y + 2))
    sigma = a @ a.T
    information = gaussian_mutual_information(sigma, n_x=n_x)
    assert information >= 0
    change = np.zeros_like(sigma)
    for part in (slice(0, n_x), slice(n_x, None)):
        size = len(change[part])
        rotation = np.linalg.qr(rng.normal(size=(size, size)))[0]
        change[part, part] = rotation * rng.uniform(0.5, 2, size=size)
    mapped = change @ sigma @ change.T
    assert gaussian_mutual_information(mapped, n_x=n_x) == pytest.approx(information, abs=1e-9)
    fewer = sigma[:-1, :-1]
    if n_y > 1:
        assert gaussian_mutual_information(fewer, n_x=n_x) <= information + 1e-9
    mean_p, mean_q = rng.normal(size=(2, n_x + n_y))
    assert gaussian_kl_divergence(mean_p, sigma, mean_q, mapped) >= 0
    assert gaussian_kl_divergence(mean_p, sigma, mean_p, sigma) == pytest.approx(0, abs=1e-9)


@given(tables(6))
def test_grouping(p):
    """Shannon's third axiom: H(p) = H(groups) + the mean entropy within the groups."""
    groups = p.reshape(3, 2)
    weight = groups.sum(axis=1)
    possible = weight > 0
    within = weight[possible] @ entropy(groups[possible] / weight[possible, None])
    assert entropy(p) == pytest.approx(entropy(weight) + within, abs=1e-12)


@given(tables(4), tables(4), st.floats(0, 1))
def test_entropy_is_concave(p, q, share):
    mixed = entropy(share * p + (1 - share) * q)
    assert mixed >= share * entropy(p) + (1 - share) * entropy(q) - 1e-12


@given(tables(3, 4))
def test_conditioning_never_adds_entropy_on_average(p):
    assert 0 <= conditional_entropy(p, given=0) <= entropy(p.sum(axis=0)) + 1e-12
    assert mutual_information(p) <= min(entropy(p.sum(axis=0)), entropy(p.sum(axis=1))) + 1e-12


def test_rounding_makes_no_divergence_negative():
    rng = np.random.default_rng(7)
    p = rng.dirichlet(np.ones(8), size=2000)
    q = p * (1 + 1e-15 * rng.normal(size=p.shape))
    assert (kl_divergence(p, q) >= 0).all()
    for row in p[:200]:
        assert mutual_information(np.outer(row, row)) >= 0
        sigma = np.diag(row) + 0.01
        nearly = sigma * (1 + 1e-15)
        assert gaussian_kl_divergence(row, sigma, row, nearly) >= 0
        apart = np.diag(np.concatenate([row, row]))
        assert gaussian_mutual_information(apart, n_x=8) >= 0


def test_continuity_at_impossible_outcomes():
    assert entropy([1e-300, 1 - 1e-300]) == pytest.approx(0, abs=1e-290)
    assert kl_divergence([0, 1], [1e-300, 1]) == pytest.approx(0, abs=1e-15)


# ---- shapes and types


def test_axis_is_the_one_that_disappears():
    p = np.full((2, 3, 4), 1 / 3)
    assert entropy(p, axis=1).shape == (2, 4)
    assert kl_divergence(p, p, axis=-2).shape == (2, 4)
    assert isinstance(entropy([0.5, 0.5]), float)
    assert isinstance(cross_entropy(COVER_THOMAS, COVER_THOMAS, axis=None), float)


def test_conditional_entropy_counts_axes_from_either_end():
    p = random_table(2, 3, 4)
    assert conditional_entropy(p, given=-1) == conditional_entropy(p, given=2)
    assert conditional_entropy(p, given=(0, -1)) == conditional_entropy(p, given=(2, 0))
    assert conditional_entropy(p, given=np.int64(2)) == conditional_entropy(p, given=2)
    halves = np.full((3, 2), 0.5)
    assert np.array_equal(entropy(halves, axis=np.int64(1)), entropy(halves, axis=1))


def test_float32_and_torch_probabilities_are_welcome():
    logits = torch.randn(100, 1000, generator=torch.Generator().manual_seed(0)) * 5
    p32 = torch.softmax(logits, dim=-1)
    p64 = torch.softmax(logits.double(), dim=-1)
    assert p32.dtype == torch.float32
    np.testing.assert_allclose(entropy(p32), entropy(p64), rtol=1e-5)
    assert np.array_equal(kl_divergence(p32, p32), np.zeros(100))


def test_a_small_error_of_the_sum_is_divided_out():
    assert entropy([0.5 + 1e-6, 0.5 + 1e-6]) == math.log(2)


def test_inputs_are_left_as_they_were():
    p = np.array([0.5 + 1e-6, 0.5])
    before = p.copy()
    entropy(p)
    assert np.array_equal(p, before)


# ---- bad input

LOGITS = [2.0, -1.0, 0.5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: entropy([0.5, -0.1, 0.6]), r"p contains -0\.1; .* logits"),
        (lambda: entropy(LOGITS), r"p contains -1; .* apply a softmax"),
        (lambda: entropy([2.0, 1.0, 0.5]), r"p sums to 3\.5 along axis=-1, not to 1\. .* logits"),
        (lambda: entropy(np.log([0.5, 0.25, 0.25])), r"These are log-probabilities"),
        (lambda: entropy([3, 1]), r"p sums to 4 .* counts, divide by their sum"),
        (lambda: entropy([0.5, math.nan]), r"p contains NaN or infinity"),
        (lambda: entropy([0.5, math.inf]), r"p contains NaN or infinity"),
        (lambda: entropy([]), r"p must be a non-empty array .* \(0,\)"),
        (lambda: entropy(0.5), r"p must be a non-empty array .* \(\)"),
        (lambda: entropy([0.333, 0.333, 0.333]), r"p sums to 0\.999 along axis=-1, not to 1"),
        (lambda: entropy([[0.5, 0.5], [0.5, 0.3]]), r"p sums to 0\.8 along axis=-1"),
        (lambda: entropy([0.5, 0.5 + 2e-5]), r"p sums to 1\.00002"),
        (lambda: entropy([0.5, 0.499985]), r"p sums to 0\.999985 along axis=-1, not to 1\. If "),
        (lambda: entropy([0.5, 0.5], axis=1), r"axis=1 does not name axes of p, .* \(2,\)"),
        (lambda: entropy(COVER_THOMAS), r"The whole of p does: .* axis=None"),
        (
            lambda: entropy(np.full((2, 4), 0.5)),
            r"p sums to 2 along axis=-1.* It does along axis=0",
        ),
        (lambda: entropy(np.full((4, 2), 0.5), axis=None), r"along axis 1: is it conditional"),
        (lambda: entropy([0.5, 0.5], base=0), r"base=0 must be above 1"),
        (lambda: entropy([0.5, 0.5], base=1), r"base=1 must be above 1"),
        (lambda: entropy([0.5, 0.5], base=-2), r"base=-2 must be above 1"),
        (lambda: entropy([0.5, 0.5], base=math.nan), r"base=nan must be above 1"),
        (lambda: entropy([0.5, 0.5], base=math.inf), r"base=inf must be above 1"),
        (
            lambda: kl_divergence([0.5, 0.5], [1, 0, 0]),
            r"p has shape \(2,\) but q has shape \(3,\)",
        ),
        (lambda: cross_entropy([0.5, 0.5], LOGITS), r"q contains -1"),
        (lambda: js_divergence([[0.5, 0.5]], [0.5, 0.5]), r"p has shape \(1, 2\) but q"),
        (lambda: conditional_entropy(COVER_THOMAS, given=2), r"given=2 does not name axes of p"),
        (lambda: conditional_entropy(COVER_THOMAS, given=()), r"given= does not name axes of p"),
        (lambda: conditional_entropy(COVER_THOMAS, given=(0, 1)), r"every axis of p"),
        (lambda: conditional_entropy(COVER_THOMAS * 2, given=0), r"p sums to 2 as a whole"),
        (lambda: mutual_information([0.5, 0.5]), r"p_xy must have 2 axes.* \(2,\)"),
        (lambda: mutual_information(np.eye(3)), r"p_xy sums to 3 as a whole.* conditional"),
        (lambda: conditional_mutual_information(COVER_THOMAS), r"p_xyz must have 3 axes"),
        (lambda: gaussian_entropy(0.0), r"covariance must be positive definite"),
        (lambda: gaussian_entropy([[1, 1], [1, 1]]), r"must be positive definite"),
        (lambda: gaussian_entropy([[1, 0.5], [0.2, 1]]), r"must be finite and symmetric"),
        (lambda: gaussian_entropy([[1, math.nan], [math.nan, 1]]), r"must be finite and symmetric"),
        (lambda: gaussian_entropy([1.0, 2.0]), r"a square matrix; got shape \(1, 2\)"),
        (lambda: gaussian_entropy(np.ones((2, 2, 2))), r"a square matrix; got shape \(2, 2, 2\)"),
        (lambda: gaussian_kl_divergence(0, 1, 0, np.eye(2)), r"covariance_p is 1-dimensional"),
        (lambda: gaussian_kl_divergence([0, 1], 1, 0, 1), r"mean_p must be 1 finite numbers"),
        (lambda: gaussian_kl_divergence(0, 1, math.nan, 1), r"mean_q must be 1 finite numbers"),
        (lambda: gaussian_kl_divergence(0, 1, 0, -1), r"covariance_q must be positive definite"),
        (lambda: gaussian_mutual_information(np.eye(2), n_x=2), r"n_x=2 leaves X or Y empty"),
        (lambda: gaussian_mutual_information(np.eye(2), n_x=0), r"n_x=0 leaves X or Y empty"),
    ],
)
def test_errors_name_the_argument_and_the_cure(call, message):
    with pytest.raises(ValueError, match=message):
        call()


HALF, TABLE, CUBE = np.array([0.5, 0.5]), np.full((2, 2), 0.25), np.full((2, 2, 2), 0.125)
EVERY = {  # each function, with one array that is right
    "entropy": (lambda p, **unit: entropy(p, **unit), HALF),
    "conditional_entropy": (lambda p, **unit: conditional_entropy(p, given=0, **unit), TABLE),
    "cross_entropy, p": (lambda p, **unit: cross_entropy(p, HALF, **unit), HALF),
    "cross_entropy, q": (lambda q, **unit: cross_entropy(HALF, q, **unit), HALF),
    "kl_divergence, p": (lambda p, **unit: kl_divergence(p, HALF, **unit), HALF),
    "kl_divergence, q": (lambda q, **unit: kl_divergence(HALF, q, **unit), HALF),
    "js_divergence, p": (lambda p, **unit: js_divergence(p, HALF, **unit), HALF),
    "js_divergence, q": (lambda q, **unit: js_divergence(HALF, q, **unit), HALF),
    "mutual_information": (mutual_information, TABLE),
    "conditional_mutual_information": (conditional_mutual_information, CUBE),
}
GAUSSIAN = {
    "gaussian_entropy": (gaussian_entropy, np.eye(2)),
    "gaussian_kl_divergence": (
        lambda sigma, **unit: gaussian_kl_divergence(HALF, sigma, HALF, np.eye(2), **unit),
        np.eye(2),
    ),
    "gaussian_mutual_information": (
        lambda sigma, **unit: gaussian_mutual_information(sigma, n_x=1, **unit),
        np.eye(2),
    ),
}


@pytest.mark.parametrize("name", EVERY)
def test_no_function_takes_what_is_no_distribution(name):
    measure, right = EVERY[name]
    assert math.isfinite(measure(right))
    for spoil, message in (
        (lambda p: -p, "contains -"),
        (lambda p: 0.9 * p, "sums to 0.9"),
        (lambda p: np.where(np.arange(p.size).reshape(p.shape) == 1, math.nan, p), "NaN"),
        (lambda p: p[..., :0], "non-empty"),
    ):
        with pytest.raises(ValueError, match=message):
            measure(spoil(right))


@pytest.mark.parametrize("name", [*EVERY, *GAUSSIAN])
@pytest.mark.parametrize("base", [0, -2, 1, 0.5, math.nan])
def test_no_function_takes_such_a_base(name, base):
    measure, right = {**EVERY, **GAUSSIAN}[name]
    assert measure(right, base=2) == pytest.approx(measure(right) / math.log(2))
    with pytest.raises(ValueError, match="must be above 1"):
        measure(right, base=base)
