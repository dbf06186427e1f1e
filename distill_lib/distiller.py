"""The distiller: a teacher, a student, and the losses between them, as one thing to fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill_lib.data import Batch
from distill_lib.layers import read_layers
from distill_lib.objectives import Step, compute_part, full_precision
from distill_lib.training import Learner


class Distiller(Learner):
    """Turns a batch into the named losses that train a student to follow a teacher.

    It has no parameters of its own and predicts nothing: after training only the student is kept.
    The teacher is frozen, stays in evaluation mode whatever `train` is told, and never gets a
    gradient.

    Parameters
    ----------
    teacher, student : nn.Module
        Each maps images to logits over the same classes.
    losses : mapping of str to nn.Module
        What to minimise the sum of. Each takes a `distill_lib.objectives.Step` and returns a
        scalar, its weight included; `fit` reports it under its name. A loss may have parameters
        (a regressor, say): they are trained along with the student. One that has `student_layers`
        and `teacher_layers` finds the outputs of the layers so named in its step.
    warmup_epochs : int
        For so many epochs the student first learns from the labels alone.
    teacher_logits : Tensor, shape (N, K), optional
        The teacher's logits on the whole training set, in its order:
        ``predict(teacher, train)``. With them the teacher never runs again; each batch looks its
        rows up by sample index.
    teacher_features : mapping of str to Tensor, shape (N, …), optional
        With `teacher_logits`, and in the same order: the teacher's layers that the losses read.

    Raises
    ------
    ValueError
        A student that has parameters of the teacher, no losses, a negative `warmup_epochs`, a layer
        that a network does not have, or tables of the teacher that lack one.

    Examples
    --------
    >>> from distill_lib.models import MLP
    >>> from distill_lib.objectives import HardLabels, SoftTargets
    >>> losses = {"labels": HardLabels(0.1), "soft": SoftTargets(tau=4.0, weight=0.9)}
    >>> distiller = Distiller(MLP(784, 1200, 10), MLP(784, 32, 10), losses)
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        losses: Mapping[str, nn.Module],
        *,
        warmup_epochs: int = 0,
        teacher_logits: Tensor | None = None,
        teacher_features: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        if teacher is student:
            raise ValueError("student: expected a network other than the teacher, got the same one")
        if set(map(id, student.parameters())) & set(map(id, teacher.parameters())):
            raise ValueError(
                "student: expected parameters of its own, got some of the teacher's, which are "
                "frozen: copy the part that they share with copy.deepcopy"
            )
        if not losses:
            raise ValueError("losses: expected at least one named loss, got none")
        if warmup_epochs < 0:
            raise ValueError(f"warmup_epochs: expected 0 or more, got {warmup_epochs}")
        self.teacher = teacher.requires_grad_(False).eval()
        self.student = student
        self.losses = nn.ModuleDict(losses)
        self._student_layers, self._teacher_layers = (
            sorted({name for loss in self.losses.modules() for name in getattr(loss, layers, ())})
            for layers in ("student_layers", "teacher_layers")
        )
        features = teacher_features or {}
        missing = [name for name in self._teacher_layers if name not in features]
        if missing and teacher_logits is not None:
            raise ValueError(
                f"teacher_logits: the losses read the teacher's {missing}, which a cache of logits "
                f"does not hold: leave teacher_logits out, or give them as teacher_features"
            )
        if features and teacher_logits is None:
            raise ValueError("teacher_features: expected teacher_logits beside them, got none")
        for network, layers in ((teacher, self._teacher_layers), (student, self._student_layers)):
            with read_layers(network, layers):
                pass  # an unknown name is an error now, not in the first step
        self.warmup_epochs = warmup_epochs
        self.cached: Tensor | None
        self.register_buffer("cached", teacher_logits, persistent=False)
        for name in self._teacher_layers if features else ():
            self.register_buffer(_buffer(name), features[name].detach(), persistent=False)

    def extra_repr(self) -> str:
        """What a checkpoint should know, too: it is refused by a run of another description."""
        return f"warmup_epochs={self.warmup_epochs}"

    def train(self, mode: bool = True) -> Self:
        """Set the student's and the losses' mode; the teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The named losses of one batch; their sum is what to minimise.

        Raises
        ------
        ValueError
            Logits that are probabilities, or don't fit the labels; shapes that a loss can't
            compare: the message says which loss and what to change.
        """
        with read_layers(self.student, self._student_layers) as student_features:
            student_logits = full_precision(self.student(batch.x))
        self.check_once(batch.y, student=student_logits)
        self._check_tables(batch)
        if batch.epoch < self.warmup_epochs:
            return {"warmup": F.cross_entropy(student_logits, batch.y)}
        with read_layers(self.teacher, self._teacher_layers) as teacher_features:
            teacher_logits = full_precision(self._teacher_logits(batch))
        if self.cached is not None:
            teacher_features |= {
                name: getattr(self, _buffer(name))[batch.index] for name in self._teacher_layers
            }
        self.check_once(batch.y, teacher=teacher_logits)
        step = Step(batch, student_logits, teacher_logits, student_features, teacher_features)
        return {name: compute_part(name, loss, step) for name, loss in self.losses.items()}

    @torch.no_grad()
    def _teacher_logits(self, batch: Batch) -> Tensor:
        return self.teacher(batch.x) if self.cached is None else self.cached[batch.index]

    def _check_tables(self, batch: Batch) -> None:
        """Raise ValueError if the teacher's answers, looked up, are not those to `batch`."""
        if self.cached is None:
            return
        if batch.augmented:
            raise ValueError(
                "teacher_logits: they were computed on other images than the augmented ones: leave "
                "them out, so that the teacher sees what the student sees, or train without augment"
            )
        tables = {
            f"teacher_features[{n!r}]": getattr(self, _buffer(n)) for n in self._teacher_layers
        }
        for name, table in ({"teacher_logits": self.cached} | tables).items():
            if len(table) != batch.n_samples:
                raise ValueError(
                    f"{name}: expected one row for each of the {batch.n_samples} training images, "
                    f"got {len(table)} rows"
                )


def _buffer(layer: str) -> str:
    """What a layer's table is called: a buffer's name has no dots."""
    return f"layer {layer.replace('.', '/')}"
