"""Variational lower bounds on mutual information: a network raises them, a held-out set reads them.

All are in nats. `infonce_bound`, `dv_bound` and `nwj_bound` take the scores that a critic gives to
pairs, `barber_agakov_bound` the log-probabilities of a readout. They work in any dimension, as long
as the answer is small against the logarithm of the sample size (McAllester & Stratos 2020). A NaN
among what they are given makes the value NaN: to look for one would make a GPU wait at each step.
`estimate_mutual_information` trains a critic and reports the bound on pairs that it has not seen.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from tqdm import tqdm

from distill_lib._validate import same_length, samples
from distill_lib.data import default_device

Array = NDArray[np.float64]
Bound = Callable[[Tensor], Tensor]


def infonce_bound(scores: Tensor) -> Tensor:
    """InfoNCE: ln B + mean of ln softmax(scores[i])[i] (van den Oord et al. 2018).

    Parameters
    ----------
    scores : Tensor, shape (B, B)
        ``scores[i, j] = f(x_i, y_j)`` for B independent pairs. The best critic f is
        ln p(x, y) / (p(x) p(y)), plus anything that depends on x alone.

    Returns
    -------
    Tensor, scalar
        Never above ln B. Its mean over batches is never above I(X;Y).

    Raises
    ------
    ValueError
        If `scores` is not a square matrix with B >= 2.
    """
    scores = _check_scores(scores)
    right = scores.diagonal() - scores.logsumexp(dim=1)
    return math.log(len(scores)) + right.mean()


def dv_bound(scores: Tensor) -> Tensor:
    """Donsker & Varadhan (1983): E f - ln E' eᶠ, with E' over pairs that do not belong together.

    MINE (Belghazi et al. 2018) is this bound, trained. The logarithm of a sample's mean is too
    small on average, so with few samples the value can be, and often is, above I(X;Y).

    Parameters
    ----------
    scores : Tensor, shape (B, B)
        As in `infonce_bound`: E is over its diagonal, E' over the rest. The best critic is
        ln p(x, y) / (p(x) p(y)), plus any constant.

    Returns
    -------
    Tensor, scalar

    Raises
    ------
    ValueError
        As `infonce_bound`.
    """
    scores = _check_scores(scores)
    return scores.diagonal().mean() - _log_mean_exp_apart(scores)


def nwj_bound(scores: Tensor) -> Tensor:
    """Nguyen, Wainwright & Jordan (2010): 1 + E f - E' eᶠ, never above `dv_bound`.

    Papers often write f - 1 for our f. In this form one critic, ln p(x, y) / (p(x) p(y)), is the
    best for all three bounds. The mean over batches is never above I(X;Y), but a single value can
    be by far: its variance grows like e^I.

    Parameters
    ----------
    scores : Tensor, shape (B, B)
        As in `dv_bound`.

    Returns
    -------
    Tensor, scalar

    Raises
    ------
    ValueError
        As `infonce_bound`.
    """
    scores = _check_scores(scores)
    return 1 + scores.diagonal().mean() - _log_mean_exp_apart(scores).exp()


def barber_agakov_bound(log_q: Tensor, entropy_y: float) -> Tensor:
    """Barber & Agakov (2003): H(Y) + mean ln q(y|x), the entropy less a cross-entropy.

    Parameters
    ----------
    log_q : Tensor, shape (n,)
        ``ln q(y_i | x_i)`` of a readout q, at pairs that q was not fitted to.
    entropy_y : float
        H(Y) in nats; differential where `log_q` are log-densities.

    Returns
    -------
    Tensor, scalar
        Below I(X;Y) on average, by the mean KL of p(y|x) from q(y|x). It can be negative.

    Raises
    ------
    ValueError
        If `log_q` is not a vector.
    """
    if log_q.ndim != 1 or len(log_q) == 0:
        raise ValueError(f"log_q: expected one number a pair, shape (n,), got {tuple(log_q.shape)}")
    return entropy_y + log_q.mean()


def _check_scores(scores: Tensor) -> Tensor:
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1] or len(scores) < 2:
        raise ValueError(
            f"scores: expected a square matrix f(x_i, y_j) of 2 pairs or more, got shape "
            f"{tuple(scores.shape)}"
        )
    return scores if scores.dtype == torch.float64 else scores.float()


def _log_mean_exp_apart(scores: Tensor) -> Tensor:
    """Return ln of the mean of exp(scores) off the diagonal, without overflow."""
    n = len(scores)
    diagonal = torch.eye(n, dtype=torch.bool, device=scores.device)
    total = scores.masked_fill(diagonal, -math.inf).flatten().logsumexp(dim=0)
    return total - math.log(n * (n - 1))


# ---- training a critic


class SeparableCritic(nn.Module):
    """f(x, y) = g(x) · h(y), two small networks: B² scores from 2B passes (Poole et al. 2019).

    Parameters
    ----------
    n_x, n_y : int
        Columns of x and of y.
    hidden, n_features : int
        Width of the two hidden layers of each network, and the length of g and h.
    """

    def __init__(self, n_x: int, n_y: int, *, hidden: int = 64, n_features: int = 16) -> None:
        super().__init__()
        self.g, self.h = (
            nn.Sequential(
                nn.Linear(n, hidden),
                nn.ReLU(),
                nn.Linear(hidden, hidden),
                nn.ReLU(),
                nn.Linear(hidden, n_features),
            )
            for n in (n_x, n_y)
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """From (B, n_x) and (B, n_y) to the scores of all pairs, (B, B)."""
        return self.g(x) @ self.h(y).T


class NeuralEstimate(NamedTuple):
    """What `estimate_mutual_information` found, in nats."""

    nats: float
    """The bound on held-out pairs: the estimate."""
    training_nats: float
    """The bound on the training pairs. What it has more was learnt by heart."""


def estimate_mutual_information(
    x: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    bound: Bound = infonce_bound,
    *,
    critic: nn.Module | None = None,
    steps: int = 500,
    batch: int = 256,
    lr: float = 1e-3,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> NeuralEstimate:
    """Train a critic to raise a lower bound, and report the bound on pairs it has never seen.

    Of the pairs, 60 % train the critic (with Adam), 20 % choose the step to stop at, and the last
    20 % are held out for the estimate. On the pairs of its training a critic can reach values far
    above I(X;Y) by heart; held out, InfoNCE and NWJ cannot, on average. (The gradient of DV in a
    batch is slightly biased. Belghazi et al. 2018 correct it with a moving average, left out here:
    a batch has B(B - 1) pairs that do not belong together, and little is left to correct.)

    Parameters
    ----------
    x, y : array_like or Tensor, shape (n,) or (n, d_x) and (n, d_y)
        Independent pairs. Each column is standardised, by its mean and deviation in training.
    bound : callable
        `infonce_bound`, `dv_bound`, `nwj_bound`, or another function of a (B, B) matrix of scores.
    critic : nn.Module, optional
        From (B, d_x) and (B, d_y) to scores (B, B), trained in place; a `SeparableCritic` if None.
    steps, batch : int
        Training steps; pairs in a batch, in evaluation too, so that InfoNCE stays below ln `batch`.
    lr : float
        Learning rate.
    seed : int
        On a CPU the same seed gives the same answer. The caller's random state stays as it was.
    device : str or torch.device, optional
        CUDA or MPS where there is one, if None.

    Returns
    -------
    NeuralEstimate
        The bound on held-out and on training pairs, each a mean over batches.

    Raises
    ------
    FloatingPointError
        The bound is no longer finite.
    ValueError
        A bad argument, or a fifth of the pairs does not fill a batch.
    """
    pairs = (samples(x, "x"), samples(y, "y"))
    same_length(*pairs)
    n = len(pairs[0])
    if steps < 1 or batch < 2 or not lr > 0:
        given = f"{steps}, {batch} and {lr}"
        raise ValueError(f"steps, batch, lr: expected at least 1, 2 and above 0, got {given}")
    if n // 5 < batch:
        raise ValueError(
            f"x, y: expected {5 * batch} pairs or more, as a fifth of them is held out and must "
            f"fill a batch of {batch}; got {n}. Pass a smaller batch"
        )
    device = default_device() if device is None else torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        held_out, choice, train = torch.randperm(n).split([n // 5, n // 5, n - 2 * (n // 5)])
        columns = [_standardised_tensor(values, train, device) for values in pairs]

        default = SeparableCritic(pairs[0].shape[1], pairs[1].shape[1])
        net = default if critic is None else critic

        def scores(rows: Tensor) -> Tensor:
            return net(*(column[rows.to(device)] for column in columns))

        @torch.no_grad()
        def value(rows: Tensor) -> float:
            net.eval()
            full = rows[: len(rows) // batch * batch].split(batch)
            mean = float(torch.stack([bound(scores(part)) for part in full]).mean())
            net.train()
            return mean

        net.to(device).train()
        optimizer = torch.optim.Adam(net.parameters(), lr=lr, fused=True)
        best, kept = -math.inf, copy.deepcopy(net.state_dict())
        for step in tqdm(range(1, steps + 1), desc="critic", delay=3, leave=False):
            loss = -bound(scores(train[torch.randperm(len(train))[:batch]]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % max(1, steps // 25) == 0:
                now = value(choice)
                if not math.isfinite(now):
                    raise FloatingPointError(
                        f"bound: it is {now} after {step} steps. Lower lr={lr}, or take the "
                        f"outliers in with estimators.gaussian_ranks"
                    )
                if now > best:
                    best, kept = now, copy.deepcopy(net.state_dict())
        net.load_state_dict(kept)
        return NeuralEstimate(value(held_out), value(train))


def _standardised_tensor(values: Array, train: Tensor, device: torch.device) -> Tensor:
    known = values[train.numpy()]
    spread = known.std(axis=0)
    scaled = (values - known.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return torch.from_numpy(scaled.astype(np.float32)).to(device)
