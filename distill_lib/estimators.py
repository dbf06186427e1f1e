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

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree
from scipy.special import digamma, ndtri
from scipy.stats import rankdata
from torch import Tensor, nn
from tqdm import tqdm

from distill_lib.data import default_device
from distill_lib.information import entropy

Array = NDArray[np.float64]
Bound = Callable[[Tensor], Tensor]


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
    both = np.hstack([x, y])
    tree = cKDTree(both, balanced_tree=False)
    distance = tree.query(both, k=[k + 1], p=np.inf)[0][:, 0]  # the first neighbour is the point
    if (ties := int((distance == 0).sum())) > 0:
        raise ValueError(
            f"x, y: {ties} of {n} samples share their point with {k} others or more, which "
            f"continuous variables do not. For discrete ones use plug_in_mutual_information; for "
            f"rounded ones undo the rounding with noise of its size, and say so."
        )
    near = digamma(_count_nearer(x, distance)) + digamma(_count_nearer(y, distance))
    return float(digamma(k) + digamma(n) - near.mean())


def _count_nearer(x: Array, distance: Array) -> NDArray[np.int64]:
    """For each sample the number of samples, itself among them, nearer than its distance."""
    if x.shape[1] > 1:
        counts: NDArray[np.int64] = cKDTree(x).query_ball_point(
            x, np.nextafter(distance, 0), p=np.inf, return_length=True
        )
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
        raise ValueError(
            f"log_q: expected one number a pair, shape (n,), got {tuple(log_q.shape)}"
        )
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
    """f(x, y) = g(x) · h(y), with two small networks: B pairs cost 2B passes and not B² (Poole 2019).

    Parameters
    ----------
    n_x, n_y : int
        Columns of x and of y.
    hidden : int
        Width of the two hidden layers of each network.
    n_features : int
        Length of g and h.
    """

    def __init__(self, n_x: int, n_y: int, *, hidden: int = 64, n_features: int = 32) -> None:
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
        """All pairs: from (B, n_x) and (B, n_y) to (B, B)."""
        return self.g(x) @ self.h(y).T


class NeuralEstimate(NamedTuple):
    """What `estimate_mutual_information` found, in nats."""

    nats: float
    """The bound on held-out pairs: the estimate."""
    training_nats: float
    """The bound on the pairs of the training: how much more it is, is what was learnt by heart."""


def estimate_mutual_information(
    x: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    bound: Bound = infonce_bound,
    *,
    critic: nn.Module | None = None,
    steps: int = 500,
    batch: int = 256,
    lr: float = 2e-3,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> NeuralEstimate:
    """Raise a lower bound with a critic, and report it on pairs that the critic has not seen.

    Two thirds of the pairs train the critic (Adam, batches drawn without replacement); the rest
    are held out. On its own training pairs a critic can reach any value by heart, far above
    I(X;Y); held out, the mean of InfoNCE and NWJ cannot exceed it. (The batch gradient of DV is
    slightly biased; Belghazi et al. 2018 correct it with a moving average, which is left out here:
    with B(B - 1) pairs apart in a batch there is little to correct.)

    Parameters
    ----------
    x, y : array_like or Tensor, shape (n,) or (n, d_x) and (n, d_y)
        Independent pairs. Each column is standardised by its mean and deviation in training.
    bound : callable
        `infonce_bound`, `dv_bound`, `nwj_bound`, or another function of a (B, B) matrix of scores.
    critic : nn.Module, optional
        From (B, d_x) and (B, d_y) to scores (B, B), trained in place; a `SeparableCritic` if None.
    steps, batch : int
        Training steps, and pairs a batch, in evaluation too: InfoNCE never exceeds ln `batch`.
    lr : float
        Learning rate.
    seed : int
        On a CPU the same seed gives the same answer. The caller's random state is left as it was.
    device : str or torch.device, optional
        CUDA or MPS where there is one, if None.

    Returns
    -------
    NeuralEstimate
        The bound on held-out pairs and on training pairs, each a mean over batches.

    Raises
    ------
    FloatingPointError
        The bound is no longer finite.
    ValueError
        As `ksg_mutual_information`, and if a third of the pairs does not fill a batch.
    """
    pairs = [_samples(x, "x"), _samples(y, "y")]
    _check_lengths(*pairs)
    n = len(pairs[0])
    if steps < 1 or batch < 2 or not lr > 0:
        raise ValueError(
            f"steps, batch, lr: expected at least 1, at least 2 and above 0, got {steps}, {batch}, "
            f"{lr}"
        )
    if n // 3 < batch:
        raise ValueError(
            f"x, y: a third of the {n} pairs is held out and must fill a batch of {batch}; expected "
            f"{3 * batch} pairs or more, or a smaller batch"
        )
    device = torch.device(device) if device is not None else default_device()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        split = np.random.default_rng(seed).permutation(n)
        held_out, train = np.split(split, [n // 3])
        columns = [_tensor(values, train, device) for values in pairs]
        if critic is None:
            critic = SeparableCritic(*(values.shape[1] for values in pairs))
        critic.to(device).train()
        optimizer = torch.optim.Adam(critic.parameters(), lr=lr)
        rows = torch.from_numpy(train)
        for _ in tqdm(range(steps), desc=getattr(bound, "__name__", "bound"), delay=3, leave=False):
            drawn = rows[torch.randperm(len(rows))[:batch]].to(device)
            loss = -bound(critic(*(column[drawn] for column in columns)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found = NeuralEstimate(
            *(_evaluate(critic, bound, columns, part, batch) for part in (held_out, train))
        )
    if not all(map(math.isfinite, found)):
        raise FloatingPointError(
            f"bound: it is {found.nats} on held-out and {found.training_nats} on training pairs "
            f"after {steps} steps. Lower lr={lr}, or bring in outliers with gaussian_ranks"
        )
    return found


@torch.no_grad()
def _evaluate(
    critic: nn.Module, bound: Bound, columns: list[Tensor], rows: NDArray[np.int64], batch: int
) -> float:
    critic.eval()
    full = torch.from_numpy(rows[: len(rows) // batch * batch]).to(columns[0].device)
    values = [bound(critic(*(column[part] for column in columns))) for part in full.split(batch)]
    return float(torch.stack(values).mean())


def _tensor(values: Array, train: NDArray[np.int64], device: torch.device) -> Tensor:
    spread = values[train].std(axis=0)
    scaled = (values - values[train].mean(axis=0)) / np.where(spread > 0, spread, 1.0)
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
