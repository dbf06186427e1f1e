"""Estimators of mutual information, for when there are samples and no table of probabilities.

All answers are in nats. Three families, and what each needs to be right:

- `plug_in_mutual_information` takes frequencies for probabilities: discrete variables with many
  samples for each cell of the table. `equal_mass_bins` makes a continuous variable discrete.
- `ksg_mutual_information` compares distances to neighbours: continuous variables of few dimensions.
- `infonce_bound`, `dv_bound`, `nwj_bound` and `barber_agakov_bound` are lower bounds that a network
  raises: any dimension, as long as the answer is small against the logarithm of the sample size
  (McAllester & Stratos 2020). `estimate_mutual_information` trains the network and reports the
  bound on pairs that it has not seen.

For distributions that are known exactly see `distill_lib.information`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.special import digamma, ndtri
from scipy.stats import rankdata
from torch import Tensor, nn
from tqdm import tqdm

from distill_lib.data import default_device
from distill_lib.information import entropy

Array = NDArray[np.float64]
Bound = Callable[[Tensor], Tensor]

_MANY_COLUMNS = 10
_NEARER = 1 - 1e-12  # nearer by more than rounding, also where values lie on a grid


# ---- tables of frequencies


def plug_in_mutual_information(x: ArrayLike, y: ArrayLike) -> float:
    """I(X;Y) of the table of frequencies: the plug-in, or maximum-likelihood, estimate.

    Parameters
    ----------
    x, y : array_like, shape (n,) or (n, d)
        Outcomes of discrete variables, of any type; with two axes each row is one outcome.

    Returns
    -------
    float
        At least 0, and on average too large: for independent variables of K_x and K_y values by
        about (K_x - 1)(K_y - 1) / 2n (Miller 1955).

    Raises
    ------
    ValueError
        No samples, NaN, more than two axes, or lengths that differ.
    """
    x_index, y_index = _outcomes(x, "x"), _outcomes(y, "y")
    _check_lengths(x_index, y_index)
    pair_index = x_index * (y_index.max() + 1) + y_index
    h_x, h_y, h_xy = (
        entropy(np.unique(index, return_counts=True)[1] / len(index))
        for index in (x_index, y_index, pair_index)
    )
    return float(np.maximum(h_x + h_y - h_xy, 0.0))


def equal_mass_bins(x: ArrayLike, n_bins: int) -> NDArray[np.int64]:
    """Put each value into one of `n_bins` bins that hold the same number of samples.

    It looks at ranks alone, so no increasing function of `x` changes it. Equal values share a bin.

    Parameters
    ----------
    x : array_like, shape (n,)
    n_bins : int
        From 1 to n.

    Returns
    -------
    ndarray of int, shape (n,)
        From 0 to ``n_bins - 1``, in the order of the values.

    Raises
    ------
    ValueError
        If `x` is not one finite column, or `n_bins` is not between 1 and n.
    """
    column = _samples(x, "x")
    if column.shape[1] != 1:
        raise ValueError(f"x: expected one column to bin, got shape {column.shape}")
    n = len(column)
    if not 1 <= n_bins <= n:
        raise ValueError(f"n_bins: expected 1 to n = {n}, got {n_bins}")
    below: NDArray[np.int64] = rankdata(column[:, 0], method="min").astype(np.int64) - 1
    return below * n_bins // n


def gaussian_ranks(x: ArrayLike) -> Array:
    """Replace each column's values by the Gaussian quantiles of their ranks.

    An increasing function of one column changes no mutual information, and this is the one that
    makes the column Gaussian: heavy tails are gone, dependence stays.

    Parameters
    ----------
    x : array_like, shape (n,) or (n, d)

    Returns
    -------
    ndarray, of the shape of `x`
        Φ⁻¹(rank / (n + 1)); equal values get equal ranks.

    Raises
    ------
    ValueError
        As `ksg_mutual_information`.
    """
    columns = _samples(x, "x")
    ranks: Array = ndtri(rankdata(columns, axis=0) / (len(columns) + 1))
    return ranks.reshape(np.shape(x))


# ---- distances to neighbours


def ksg_mutual_information(x: ArrayLike, y: ArrayLike, *, k: int = 3) -> float:
    """I(X;Y) from nearest neighbours: algorithm 1 of Kraskov, Stögbauer & Grassberger (2004).

    ψ(k) + ψ(n) - mean[ψ(n_x + 1) + ψ(n_y + 1)], where n_x counts the samples nearer in x alone
    than the k-th neighbour is in x and y together (maximum norm). X and Y are first divided by a
    standard deviation each, one number for all columns of X and one for those of Y, so the units
    that they come in do not matter.

    Parameters
    ----------
    x, y : array_like, shape (n,) or (n, d_x) and (n, d_y)
        Samples of *continuous* variables. A few repeated values do no harm.
    k : int
        Neighbours: more of them give less variance and more bias.

    Returns
    -------
    float
        Not clipped: for independent variables it is negative about as often as positive.

    Raises
    ------
    ValueError
        k < 1, n <= k, lengths that differ, NaN or infinity, a variable that never changes, or a
        point that more than `k` samples share: such data are not continuous. No noise is added.

    References
    ----------
    Kraskov, Stögbauer & Grassberger (2004), https://doi.org/10.1103/PhysRevE.69.066138
    """
    x, y = _standardised(_samples(x, "x"), "x"), _standardised(_samples(y, "y"), "y")
    _check_lengths(x, y)
    n = len(x)
    if k < 1:
        raise ValueError(f"k: expected at least 1 neighbour, got {k}")
    if n <= k:
        raise ValueError(f"x, y: expected more than k = {k} samples, got {n}")
    counts = _neighbours if x.shape[1] + y.shape[1] <= _MANY_COLUMNS else _neighbours_directly
    distance, n_x, n_y = counts(x, y, k)
    if (ties := int((distance == 0).sum())) > 0:
        raise ValueError(
            f"x, y: {ties} of {n} samples share their point with {k} others or more, which "
            f"continuous variables do not. For discrete ones use plug_in_mutual_information; for "
            f"rounded ones undo the rounding with noise of its size, and say so."
        )
    return float(digamma(k) + digamma(n) - np.mean(digamma(n_x) + digamma(n_y)))


def _neighbours(x: Array, y: Array, k: int) -> tuple[Array, Array, Array]:
    """Each sample's distance to its k-th neighbour, and n_x + 1 and n_y + 1, by trees."""
    both = np.hstack([x, y])
    tree = cKDTree(both, balanced_tree=False)
    distance = tree.query(both, k=[k + 1], p=np.inf)[0][:, 0]  # the first neighbour is the point
    return distance, _count_nearer(x, distance), _count_nearer(y, distance)


def _neighbours_directly(x: Array, y: Array, k: int) -> tuple[Array, Array, Array]:
    """The same from all distances: faster in many columns, where trees find nothing to skip."""
    found = []
    for rows in np.array_split(np.arange(len(x)), math.ceil(len(x) / 256)):
        x_apart, y_apart = cdist(x[rows], x, "chebyshev"), cdist(y[rows], y, "chebyshev")
        distance = np.partition(np.maximum(x_apart, y_apart), k, axis=1)[:, k]
        nearer = [(apart < _NEARER * distance[:, None]).sum(axis=1) for apart in (x_apart, y_apart)]
        found.append((distance, *nearer))
    distance, n_x, n_y = (np.concatenate(part) for part in zip(*found, strict=True))
    return distance, n_x, n_y


def _count_nearer(x: Array, distance: Array) -> Array:
    """For each sample the number of samples, itself among them, nearer than its distance."""
    if x.shape[1] > 1:
        radius = distance * _NEARER
        counts: Array = cKDTree(x).query_ball_point(x, radius, p=np.inf, return_length=True)
        return counts
    # On a line they are a stretch of the sorted values. What lies at the distance itself does not
    # count, and must not slip in when x ± distance is rounded.
    line = x[:, 0]
    order = np.argsort(line)  # looking up values in order is several times faster
    ordered, radius = line[order], distance[order]
    radius = radius - 4 * np.finfo(np.float64).eps * (np.abs(ordered) + radius)
    last = np.searchsorted(ordered, ordered + radius, side="right")
    return np.maximum(last - np.searchsorted(ordered, ordered - radius, side="left"), 1)


# ---- variational lower bounds


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
    pairs = (_samples(x, "x"), _samples(y, "y"))
    _check_lengths(*pairs)
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
                        f"outliers in with gaussian_ranks"
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


# ---- what the estimators are given


def _outcomes(values: ArrayLike, name: str) -> NDArray[np.int64]:
    """Number the different outcomes from 0 up."""
    values = np.asarray(values)
    if values.ndim not in (1, 2) or values.size == 0:
        raise ValueError(f"{name}: expected shape (n,) or (n, d), got {values.shape}")
    if values.dtype.kind in "fc" and np.isnan(values).any():
        raise ValueError(f"{name}: expected outcomes, got NaN among them")
    axis = 0 if values.ndim == 2 else None
    return np.unique(values, axis=axis, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _samples(values: ArrayLike | Tensor, name: str) -> Array:
    """Return samples as float64 of shape (n, d)."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    columns = np.asarray(values, dtype=np.float64)
    if columns.ndim not in (1, 2) or columns.size == 0:
        raise ValueError(f"{name}: expected samples of shape (n,) or (n, d), got {columns.shape}")
    if not np.isfinite(columns).all():
        bad = int((~np.isfinite(columns)).sum())
        raise ValueError(f"{name}: expected finite numbers, got {bad} that are NaN or infinite")
    return columns.reshape(len(columns), -1)


def _standardised(columns: Array, name: str) -> Array:
    centred: Array = columns - columns.mean(axis=0)
    spread = math.sqrt(np.square(centred).mean())
    if spread == 0:
        raise ValueError(f"{name}: all {len(columns)} samples are equal; expected them to vary")
    return centred / spread


def _check_lengths(x: NDArray[np.generic], y: NDArray[np.generic]) -> None:
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} samples but y has {len(y)}: expected pairs")
