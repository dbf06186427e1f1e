"""Distilling what happens inside: losses of feature maps and of other layers' outputs.

Each method is a pure function of tensors first, then a small module that names the layers it reads
and carries its weight and what it has to learn. `distill_lib.distiller.Distiller` reads the layers
that its losses name, so they compose with each other and with soft targets. All are averages over
the batch. Losses that compare *relations* between samples or layers are in `distill_lib.relations`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill_lib.layers import naming_layers
from distill_lib.objectives import Loss, Step, check_tau, full_precision, in_full_precision
from distill_lib.training import is_out_of_memory


class FeatureLoss(Loss):
    """A loss that compares one layer of the student with one of the teacher.

    A method is a subclass that writes `compare`. What it has to learn (a regressor, say) is a
    submodule of it; `fit` trains that along with the student, and it is left behind afterwards.
    Under autocast both run in bfloat16, except for functions that are `in_full_precision`.

    Parameters
    ----------
    student_layer, teacher_layer : str
        Paths of modules. The student's features carry a gradient, the teacher's none.
    weight : float
    """

    def __init__(self, student_layer: str, teacher_layer: str, *, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.student_layers, self.teacher_layers = (student_layer,), (teacher_layer,)

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of the student's features (B, …) against the teacher's (B, …): a scalar."""
        raise NotImplementedError

    def forward(self, step: Step) -> Tensor:
        (student_layer,), (teacher_layer,) = self.student_layers, self.teacher_layers
        student = full_precision(step.student_features[student_layer])
        teacher = full_precision(step.teacher_features[teacher_layer])
        with naming_layers({student_layer: student}, {teacher_layer: teacher}):
            return self.weight * self.compare(student, teacher)


def _learned(name: str, module: nn.Module, features: Tensor) -> Tensor:
    """What a loss learns, applied to features: an error says which inputs it has to take."""
    try:
        return module(features)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise  # not a matter of shapes: `fit` names a batch that fits
        width = features.shape[1]
        like = f"nn.Linear({width}, …)" if features.ndim == 2 else f"nn.Conv2d({width}, …, 1)"
        raise ValueError(
            f"{name}: {error}: it gets inputs of shape {tuple(features.shape)}, so start it with "
            f"{like}"
        ) from error


@in_full_precision
def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Half the squared distance of features, :math:`\frac12 \lVert F_T - F_S \rVert^2` a sample.

    Parameters
    ----------
    student, teacher : Tensor, shape (B, …)
        Of one shape: where the widths differ, a regressor comes first.

    Returns
    -------
    Tensor, scalar
        Summed over the features, averaged over the B samples, halved.

    Raises
    ------
    ValueError
        Features of two shapes, or without an axis for them.

    References
    ----------
    Romero et al. (2015), FitNets, https://arxiv.org/abs/1412.6550
    """
    _check_same_shape(student, teacher, "a regressor that turns the one into the other")
    return (student - teacher).square().flatten(1).sum(dim=1).mean() / 2


class Hint(FeatureLoss):
    """FitNets: the student's layer, seen through a regressor, shall be the teacher's layer.

    Parameters
    ----------
    regressor : nn.Module
        From the student's features to the teacher's shape: ``nn.Linear(64, 128)`` for vectors, a
        1×1 convolution ``nn.Conv2d(8, 32, 1)`` for maps, ``nn.Identity()`` where the shapes agree.
    """

    def __init__(
        self, student_layer: str, teacher_layer: str, regressor: nn.Module, *, weight: float = 1.0
    ) -> None:
        super().__init__(student_layer, teacher_layer, weight=weight)
        self.regressor = regressor

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        return hint_loss(_learned("regressor", self.regressor, student), teacher)


@in_full_precision
def attention_map(features: Tensor) -> Tensor:
    r"""Where a layer looks: :math:`Q = \sum_c A_c^2`, as a vector of length 1.

    Parameters
    ----------
    features : Tensor, shape (B, C, H, W)

    Returns
    -------
    Tensor, shape (B, H·W)
        The same for all numbers of channels, for −A, and for c·A, as long as the squares are
        neither below 1e-12 nor infinite. Zeros where A is zero.

    Raises
    ------
    ValueError
        Features that are no maps.
    """
    if features.ndim != 4:
        raise ValueError(
            f"features: expected maps of shape (B, C, H, W), got {tuple(features.shape)}: "
            f"attention needs places to look at, so name a convolution"
        )
    return F.normalize(features.square().sum(dim=1).flatten(1), dim=1)


@in_full_precision
def attention_transfer_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Distance of two attention maps, :math:`\lVert Q_S - Q_T \rVert`, a number in [0, √2].

    Parameters
    ----------
    student, teacher : Tensor, shape (B, C, H, W)
        H and W agree; C need not.

    Returns
    -------
    Tensor, scalar
        A mean over the B samples.

    Raises
    ------
    ValueError
        Features that are no maps, or maps of two sizes.

    References
    ----------
    Zagoruyko & Komodakis (2017), https://arxiv.org/abs/1612.03928
    """
    q_student, q_teacher = attention_map(student), attention_map(teacher)
    _check_same_shape(q_student, q_teacher, "a pooling layer, or a pair of layers of one size,")
    return torch.linalg.vector_norm(q_student - q_teacher, dim=1).mean()


class AttentionTransfer(FeatureLoss):
    """The student shall look where the teacher looks: `attention_transfer_loss` of two maps."""

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        return attention_transfer_loss(student, teacher)


@in_full_precision
def variational_information_loss(mean: Tensor, variance: Tensor, teacher: Tensor) -> Tensor:
    r"""Surprise at the teacher's features, :math:`-\ln q(t \mid s)`, under a Gaussian.

    .. math:: \sum_c \ln\sigma_c + \frac{(t_c - \mu_c(s))^2}{2 \sigma_c^2} + \tfrac12 \ln 2\pi

    The entropy h(T) minus this is a lower bound on I(T; S), the bound of Barber & Agakov.

    Parameters
    ----------
    mean : Tensor, shape (B, C, …)
        The prediction μ(s).
    variance : Tensor, shape (C,)
        σ², above 0, one a channel.
    teacher : Tensor, shape (B, C, …)

    Returns
    -------
    Tensor, scalar
        Nats a sample, added up over channels and places.

    Raises
    ------
    ValueError
        Features of two shapes, or a variance that is not one a channel.

    References
    ----------
    Ahn et al. (2019), https://arxiv.org/abs/1904.05835
    """
    _check_same_shape(mean, teacher, "a regressor that turns the one into the other")
    if variance.shape != teacher.shape[1:2]:
        raise ValueError(
            f"variance: expected one value for each of {teacher.shape[1]} channels, got shape "
            f"{tuple(variance.shape)}: pass channels={teacher.shape[1]} to VariationalInformation"
        )
    per_channel = variance.view(-1, *[1] * (teacher.ndim - 2))
    nats = (per_channel.log() + (teacher - mean).square() / per_channel + math.log(2 * math.pi)) / 2
    return nats.flatten(1).sum(dim=1).mean()


class VariationalInformation(FeatureLoss):
    """VID: what the teacher's layer is, guessed from the student's, with a doubt for each channel.

    Parameters
    ----------
    regressor : nn.Module
        As in `Hint`; it predicts the mean.
    channels : int
        Of the teacher's layer. Their variances are learned; they start at 5, as in the paper.
    """

    def __init__(
        self,
        student_layer: str,
        teacher_layer: str,
        regressor: nn.Module,
        channels: int,
        *,
        weight: float = 1.0,
    ) -> None:
        super().__init__(student_layer, teacher_layer, weight=weight)
        self.regressor = regressor
        self.raw_variance = nn.Parameter(torch.full((channels,), 5.0).expm1().log())

    @property
    def variance(self) -> Tensor:
        """σ², shape (C,): a softplus of what is learned, so that it stays above 0."""
        return F.softplus(self.raw_variance) + 1e-5

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        mean = _learned("regressor", self.regressor, student)
        return variational_information_loss(mean, self.variance, teacher)


@in_full_precision
def contrastive_loss(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """Pick the teacher's features of the same image out of the batch, knowing the student's.

    A cross-entropy over the B images of the batch, of scores that are cosines over `tau`.
    ln B minus it is the InfoNCE bound on I(T; S), at most ln B. All other images of the batch are
    wrong answers; the code published with CRD draws them from other classes alone.

    Parameters
    ----------
    student, teacher : Tensor, shape (B, D)
    tau : float
        Temperature, above 0.

    Returns
    -------
    Tensor, scalar
        Nats. ln B for a guess.

    Raises
    ------
    ValueError
        Features of two shapes, or a `tau` that is not above 0.

    References
    ----------
    Tian et al. (2020), https://arxiv.org/abs/1910.10699: there with a memory of negatives from
    other batches. van den Oord et al. (2018), https://arxiv.org/abs/1807.03748
    """
    check_tau(tau)
    student, teacher = student.flatten(1), teacher.flatten(1)
    _check_same_shape(student, teacher, "an embedding of the same width for each")
    scores = F.normalize(student, dim=1) @ F.normalize(teacher, dim=1).T / tau
    return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))


class Contrastive(FeatureLoss):
    """CRD: each image's features shall be nearest to the teacher's features of the same image.

    The code published with CRD draws its wrong answers from other classes; here all other images
    of the batch are wrong answers.

    Parameters
    ----------
    student_embedding, teacher_embedding : nn.Module
        From features (flattened, shape (B, …)) to D numbers: ``nn.Linear(64, 32)``. Both learn.
    tau : float
        Temperature of the cosines.
    """

    def __init__(
        self,
        student_layer: str,
        teacher_layer: str,
        student_embedding: nn.Module,
        teacher_embedding: nn.Module,
        *,
        tau: float = 0.1,
        weight: float = 1.0,
    ) -> None:
        super().__init__(student_layer, teacher_layer, weight=weight)
        check_tau(tau)
        self.student_embedding, self.teacher_embedding = student_embedding, teacher_embedding
        self.tau = tau

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        ours = _learned("student_embedding", self.student_embedding, student.flatten(1))
        theirs = _learned("teacher_embedding", self.teacher_embedding, teacher.flatten(1))
        return contrastive_loss(ours, theirs, self.tau)


def _check_same_shape(student: Tensor, teacher: Tensor, cure: str) -> None:
    if student.ndim < 2:
        raise ValueError(f"expected features of shape (B, …), got {tuple(student.shape)}")
    if student.shape != teacher.shape:
        raise ValueError(
            f"expected one shape, got {tuple(student.shape)} for the student and "
            f"{tuple(teacher.shape)} for the teacher: add {cure}"
        )
