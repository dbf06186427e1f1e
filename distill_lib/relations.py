"""Distilling structure: losses of the relations between samples, or between layers.

A relation between two samples is one number, however wide the layer: most of these losses compare
a student and a teacher of different widths with no regressor between them. All are pure functions
of features first; the modules name the layers, as in `distill_lib.features`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from distill_lib.features import FeatureLoss
from distill_lib.layers import naming_layers
from distill_lib.objectives import Loss, Step, in_full_precision


@in_full_precision
def similarity_preserving_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Difference of who resembles whom, :math:`\frac{1}{B^2} \lVert G_T - G_S \rVert_F^2`.

    G = A Aᵀ holds the inner products of all pairs of samples, each row brought to length 1.

    Parameters
    ----------
    student, teacher : Tensor, shape (B, …)
        Their widths need not agree. A rotation of the features, or a factor, changes nothing.

    Returns
    -------
    Tensor, scalar
        A sum over the B² pairs, divided by B².

    Raises
    ------
    ValueError
        Not the same samples, or fewer than two.

    References
    ----------
    Tung & Mori (2019), https://arxiv.org/abs/1907.09682
    """
    _check_same_batch(student, teacher)
    g_student, g_teacher = _similarities(student), _similarities(teacher)
    return (g_student - g_teacher).square().sum() / len(student) ** 2


@in_full_precision
def relational_distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Difference of who is how far from whom: Huber's loss of distances over their mean.

    Parameters
    ----------
    student, teacher : Tensor, shape (B, …)
        Their widths need not agree. A shift, a rotation or a factor changes nothing.

    Returns
    -------
    Tensor, scalar
        A mean over the B(B − 1) ordered pairs.

    Raises
    ------
    ValueError
        Not the same samples, or fewer than two.

    References
    ----------
    Park et al. (2019), https://arxiv.org/abs/1904.05068
    """
    _check_same_batch(student, teacher)
    return F.smooth_l1_loss(_relative_distances(student), _relative_distances(teacher))


@in_full_precision
def relational_angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Difference of the angles in triangles of samples: Huber's loss of their cosines.

    Memory grows like B² times the width, and like B³: 64 samples make 262,144 cosines.

    Parameters
    ----------
    student, teacher : Tensor, shape (B, …)
        Their widths need not agree. A shift, a rotation or a factor changes nothing.

    Returns
    -------
    Tensor, scalar
        A mean over the B(B − 1)(B − 2) ordered triples of different samples.

    Raises
    ------
    ValueError
        Not the same samples, or fewer than three.

    References
    ----------
    Park et al. (2019), https://arxiv.org/abs/1904.05068
    """
    _check_same_batch(student, teacher, least=3)
    n = len(student)
    # where two of the three are one sample, both cosines are 0, or both 1: nothing is added
    huber = F.smooth_l1_loss(_cosines(student), _cosines(teacher), reduction="sum")
    return huber / (n * (n - 1) * (n - 2))


@in_full_precision
def probabilistic_transfer_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""KL between the teacher's and the student's distribution over a sample's neighbours.

    A sample's neighbours are the other samples of the batch; a neighbour's probability is
    proportional to (1 + cosine)/2.

    Parameters
    ----------
    student, teacher : Tensor, shape (B, …)
        Their widths need not agree. A rotation of the features, or a factor, changes nothing.

    Returns
    -------
    Tensor, scalar
        Nats, a mean over the B samples.

    Raises
    ------
    ValueError
        Not the same samples, or fewer than two.

    References
    ----------
    Passalis & Tefas (2018), https://arxiv.org/abs/1803.10837
    """
    _check_same_batch(student, teacher)
    log_q, log_p = _log_neighbours(student), _log_neighbours(teacher)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


class SimilarityPreserving(FeatureLoss):
    """SP: samples that are alike for the teacher shall be alike for the student."""

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        return similarity_preserving_loss(student, teacher)


class RelationalDistance(FeatureLoss):
    """RKD-D: samples shall be as far from each other as they are for the teacher."""

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        return relational_distance_loss(student, teacher)


class RelationalAngle(FeatureLoss):
    """RKD-A: three samples shall make the same triangle. Looks at `n_samples` of each batch.

    Parameters
    ----------
    n_samples : int
        The first so many, which a shuffled batch has at random.
    """

    def __init__(
        self, student_layer: str, teacher_layer: str, *, n_samples: int = 32, weight: float = 1.0
    ) -> None:
        super().__init__(student_layer, teacher_layer, weight=weight)
        self.n_samples = n_samples

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        return relational_angle_loss(student[: self.n_samples], teacher[: self.n_samples])


class ProbabilisticTransfer(FeatureLoss):
    """PKT: each sample shall have the neighbours it has for the teacher."""

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        return probabilistic_transfer_loss(student, teacher)


@in_full_precision
def flow_matrix(first: Tensor, second: Tensor) -> Tensor:
    r"""What a network does from one layer to another, :math:`G_{ij} = \frac{1}{hw} \sum F_i F'_j`.

    Parameters
    ----------
    first, second : Tensor, shapes (B, C, H, W) and (B, C', H', W')
        The larger map is brought to the smaller one's size by taking the maximum.

    Returns
    -------
    Tensor, shape (B, C, C')

    Raises
    ------
    ValueError
        Features that are no maps.

    References
    ----------
    Yim et al. (2017), *A gift from knowledge distillation*, CVPR
    """
    for name, maps in (("first", first), ("second", second)):
        if maps.ndim != 4:
            raise ValueError(
                f"{name}: expected maps of shape (B, C, H, W), got {tuple(maps.shape)}: name a "
                f"convolution"
            )
    size = [min(sides) for sides in zip(first.shape[2:], second.shape[2:], strict=True)]
    first, second = (F.adaptive_max_pool2d(maps, size) for maps in (first, second))
    return torch.einsum("bihw,bjhw->bij", first, second) / (size[0] * size[1])


@in_full_precision
def flow_loss(student_flow: Tensor, teacher_flow: Tensor) -> Tensor:
    """Squared distance of two flow matrices of shape (B, C, C'), a scalar: the batch's mean."""
    if student_flow.shape != teacher_flow.shape:
        raise ValueError(
            f"expected flow matrices of one shape, got {tuple(student_flow.shape)} for the student "
            f"and {tuple(teacher_flow.shape)} for the teacher: name layers with as many channels, "
            f"or add a 1×1 convolution that makes them agree"
        )
    return (student_flow - teacher_flow).square().sum(dim=(1, 2)).mean()


class Flow(Loss):
    """FSP: between two layers the student shall do what the teacher does between two of its own.

    Parameters
    ----------
    student_layers, teacher_layers : (str, str)
        Each from, to. The channels at both ends agree; what lies between need not.

    Raises
    ------
    ValueError
        Not two names.
    """

    def __init__(
        self,
        student_layers: tuple[str, str],
        teacher_layers: tuple[str, str],
        *,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        for name, pair in (("student_layers", student_layers), ("teacher_layers", teacher_layers)):
            if isinstance(pair, str) or len(pair) != 2:
                raise ValueError(f"{name}: expected a pair of layers, from and to, got {pair!r}")
        self.student_layers, self.teacher_layers = student_layers, teacher_layers

    def forward(self, step: Step) -> Tensor:
        student, teacher = (
            {name: features[name] for name in names}
            for features, names in (
                (step.student_features, self.student_layers),
                (step.teacher_features, self.teacher_layers),
            )
        )
        with naming_layers(student, teacher):
            ours = flow_matrix(*(student[name] for name in self.student_layers))
            theirs = flow_matrix(*(teacher[name] for name in self.teacher_layers))
            return self.weight * flow_loss(ours, theirs)


def _check_same_batch(student: Tensor, teacher: Tensor, least: int = 2) -> None:
    if len(student) != len(teacher) or len(student) < least:
        raise ValueError(
            f"expected features of the same {least} or more samples, got {len(student)} of the "
            f"student and {len(teacher)} of the teacher: if it is the smaller last batch of an "
            f"epoch, choose another batch_size or leave the odd images out"
        )


def _similarities(features: Tensor) -> Tensor:
    rows = features.flatten(1)
    return F.normalize(rows @ rows.T, dim=1)


def _relative_distances(features: Tensor) -> Tensor:
    """Distances between different samples over their mean, shape (B, B - 1)."""
    rows = features.flatten(1)
    rows = rows - rows.mean(dim=0)  # torch's distances lose digits to a common offset
    distances = _off_diagonal(torch.cdist(rows, rows))
    return distances / distances.mean().clamp(min=1e-12)


def _cosines(features: Tensor) -> Tensor:
    """Cosines of the angles at j of all triangles (i, j, k), shape (B, B, B): [j, i, k]."""
    rows = features.flatten(1)
    sides = F.normalize(rows[None] - rows[:, None], dim=-1)  # [j, i]: from j to i, of length 1
    return sides @ sides.transpose(1, 2)


def _log_neighbours(features: Tensor) -> Tensor:
    """Log-probability of each other sample as a neighbour, shape (B, B - 1)."""
    rows = F.normalize(features.flatten(1), dim=1)
    kernel = (1 + _off_diagonal(rows @ rows.T)) / 2
    kernel = kernel.clamp(min=1e-7)  # opposite features: a neighbour of probability almost 0
    return kernel.log() - kernel.sum(dim=1, keepdim=True).log()


def _off_diagonal(square: Tensor) -> Tensor:
    """A square matrix without its diagonal, shape (B, B - 1): no waiting for the device."""
    n = len(square)
    return square.flatten()[1:].view(n - 1, n + 1)[:, :-1].reshape(n, n - 1)
