"""Students that teach each other, and teachers that speak with one voice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from distill_lib.analysis import refuse_probabilities
from distill_lib.data import Batch
from distill_lib.layers import refuse_layers
from distill_lib.objectives import Step, compute_part, full_precision
from distill_lib.training import Learner


class Ensemble(nn.Module):
    r"""Several networks as one teacher, whose probabilities are the mean of theirs.

    Its logits are :math:`\ln \frac1N \sum_n p_n`: a softmax of them is the mean p̄, so every loss
    that takes a teacher's logits takes an ensemble's.

    Parameters
    ----------
    members : sequence of nn.Module
        Each maps images to logits, shape (B, K).

    Raises
    ------
    ValueError
        No members; in the first forward pass, a member that returns probabilities.

    References
    ----------
    Lakshminarayanan et al. (2017), https://arxiv.org/abs/1612.01474
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if not members:
            raise ValueError("members: expected at least one network, got none")
        self.members = nn.ModuleList(members)
        self._checked = False

    def forward(self, x: Tensor) -> Tensor:
        logits = [full_precision(member(x)) for member in self.members]
        for i, z in enumerate(logits if not self._checked else ()):  # once: it waits for the device
            refuse_probabilities(f"members[{i}]", z)
        self._checked = True
        log_p = torch.stack([z.log_softmax(-1) for z in logits])
        return log_p.logsumexp(dim=0) - math.log(len(self.members))


class Peers(Learner):
    """Deep mutual learning: each student learns from the others as they are at this step.

    Parameters
    ----------
    students : sequence of two or more nn.Module
    losses : mapping of str to nn.Module
        What each student minimises against each peer, averaged over its peers. Each takes a
        `distill_lib.objectives.Step`, in which the peer is the teacher: its logits are detached,
        so that no student is pulled towards those that it teaches. None may read layers (a
        ValueError names it). For Zhang et al.'s loss:
        ``{"labels": HardLabels(), "peers": SoftTargets(tau=1.0)}``.

    Notes
    -----
    `fit` evaluates the first student.

    References
    ----------
    Zhang et al. (2018), https://arxiv.org/abs/1706.00384
    """

    def __init__(self, students: Sequence[nn.Module], losses: Mapping[str, nn.Module]) -> None:
        super().__init__()
        if len(students) < 2 or len(set(map(id, students))) < len(students):
            raise ValueError("students: expected two or more different networks")
        if not losses:
            raise ValueError("losses: expected at least one named loss, got none")
        self.students, self.losses = nn.ModuleList(students), nn.ModuleDict(losses)
        refuse_layers(self.losses, "Peers")

    @property
    def student(self) -> nn.Module:  # type: ignore[override]
        """The first of the students."""
        return self.students[0]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of every student, named like ``peers 1``: of student 1."""
        logits = [full_precision(student(batch.x)) for student in self.students]
        self.check_once(batch.y, **{f"students[{i}]": z for i, z in enumerate(logits)})
        parts = {}
        for i, z in enumerate(logits):
            steps = [Step(batch, z, v.detach()) for j, v in enumerate(logits) if j != i]
            for name, loss in self.losses.items():
                of_peers = [compute_part(name, loss, step) for step in steps]
                parts[f"{name} {i}"] = torch.stack(of_peers).mean()
        return parts
