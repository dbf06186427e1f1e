"""What *What distillation maximises* writes out: true in every world, and as in the library."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lab_answers import answers, cells
from scipy.special import log_softmax, rel_entr, softmax, xlogy

from distill_lib import information
from distill_lib.bounds import barber_agakov_bound
from distill_lib.objectives import soft_target_loss

CHAPTER = "05-what-distillation-maximises"
DEFINE = ("define-account", "mnist-shares")


@pytest.fixture(scope="module")
def chapter():
    """The names that the chapter's defining cells make."""
    names = {"np": np, "xlogy": xlogy, "rel_entr": rel_entr, **vars(information)}
    for name in DEFINE:
        exec(cells(CHAPTER)[name].source, names)
    return names


@st.composite
def worlds(draw):
    """Images, soft targets with zeros among them, a soft grouping, and a head."""
    n_x, n_t, n_z = (draw(st.integers(2, 6)) for _ in range(3))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    p_t_given_x = random.dirichlet(np.ones(n_t), size=n_x)
    p_t_given_x[random.random((n_x, n_t)) < draw(st.sampled_from((0.0, 0.3)))] = 0
    p_t_given_x[p_t_given_x.sum(axis=1) == 0, 0] = 1
    p_t_given_x /= p_t_given_x.sum(axis=1, keepdims=True)
    p_z_given_x = random.dirichlet(np.full(n_z, draw(st.sampled_from((0.1, 1.0)))), size=n_x)
    return (
        random.dirichlet(np.ones(n_x)),
        p_t_given_x,
        p_z_given_x,
        random.dirichlet(np.ones(n_t), size=n_z),
    )


@settings(deadline=None, max_examples=100)
@given(world=worlds())
def test_the_gap_is_what_was_lost_and_what_was_misread(chapter, world):
    p_x, p_t_given_x, p_z_given_x, _ = world
    terms = chapter["account"](*world)
    assert terms["gap"] == pytest.approx(terms["lost"] + terms["readout"], abs=1e-13)
    i_xt = information.mutual_information(p_x[:, None] * p_t_given_x)
    i_zt = information.mutual_information((p_x[:, None] * p_z_given_x).T @ p_t_given_x)
    assert i_xt - terms["lost"] == pytest.approx(i_zt, abs=1e-12)
    assert i_zt - terms["readout"] == pytest.approx(terms["bound"], abs=1e-12)
    assert terms["bound"] <= i_zt + 1e-12 <= i_xt + 2e-12
    assert terms["noise"] + terms["gap"] == pytest.approx(terms["loss"], abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(
    n=st.integers(2, 20),
    k=st.integers(2, 12),
    tau=st.floats(0.3, 20),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_bound_is_the_librarys_and_falls_with_its_loss(n, k, tau, seed):
    """I(X;T) less the bound is the loss of training over tau squared."""
    information_bound = answers(CHAPTER, cut=False)["information_bound"]
    random = np.random.default_rng(seed)
    v, z = 3 * random.normal(size=(2, n, k))
    p = softmax(v / tau, axis=1)
    log_q = torch.from_numpy((p * log_softmax(z / tau, axis=1)).sum(axis=1))
    h_t = information.entropy(p.mean(axis=0))
    bound = information_bound(v, z, tau)
    assert bound == pytest.approx(float(barber_agakov_bound(log_q, h_t)), abs=1e-12)
    loss = float(soft_target_loss(torch.from_numpy(z), torch.from_numpy(v), tau))
    i_xt = information.mutual_information(p / n)
    assert i_xt - bound == pytest.approx(loss / tau**2, abs=1e-10)


def test_a_head_may_rule_out_what_never_happens(chapter):
    """A zero in the head is no NaN: the student that says what the teacher says has no gap."""
    p_t_given_x = np.array([[1.0, 0, 0], [0, 0.5, 0.5]])
    with np.errstate(all="raise"):
        terms = chapter["account"](np.array([0.4, 0.6]), p_t_given_x, np.eye(2), p_t_given_x)
    assert [terms[name] for name in ("gap", "lost", "readout")] == pytest.approx([0, 0, 0])


def test_shares_are_those_of_the_joint_table(chapter):
    """The class and the image, in one table p[x, t, y]."""
    random = np.random.default_rng(0)
    p = random.dirichlet(np.ones(4), size=30)
    y = random.permutation(np.arange(30) % 3)
    h_t, h_t_given_y, h_t_given_x = chapter["shares"](p, y)
    joint = p[:, :, None] * np.eye(3)[y][:, None, :] / 30
    assert h_t - h_t_given_y == pytest.approx(information.mutual_information(joint.sum(axis=0)))
    beyond = information.conditional_mutual_information(joint)
    assert h_t_given_y - h_t_given_x == pytest.approx(beyond)


@pytest.mark.parametrize("tau", [0.5, 2.0, 30.0])
def test_the_loss_is_half_a_variance_of_the_logits_difference(tau):
    """Under a softmax somewhere between teacher and student, as the chapter derives."""
    v, z = 3 * np.random.default_rng(1).normal(size=(2, 50, 10))
    for teacher, student in zip(v, z, strict=True):
        delta = student - teacher
        xi = np.linspace(0, 1, 1001)[:, None]
        r = softmax((teacher + xi * delta) / tau, axis=1)
        half_variances = (r @ delta**2 - (r @ delta) ** 2) / 2
        pair = (torch.from_numpy(logits)[None] for logits in (student, teacher))
        loss = float(soft_target_loss(*pair, tau))
        assert half_variances.min() * (1 - 1e-9) <= loss <= half_variances.max() * (1 + 1e-9)


def test_a_cold_loss_tends_to_the_limit_of_the_exercise():
    cold_limit = answers(CHAPTER, cut=False)["cold_limit"]
    v, z = np.random.default_rng(2).normal(size=(2, 40, 6))
    tau = 1e-3
    loss = float(soft_target_loss(torch.from_numpy(z), torch.from_numpy(v), tau)) / tau
    assert loss == pytest.approx(cold_limit(z, v), abs=1e-3)
