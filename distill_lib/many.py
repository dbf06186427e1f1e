"""Many students at once: their small matrix products become one large one."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from distill_lib.data import Batch
from distill_lib.distiller import Distiller
from distill_lib.layers import refuse_layers
from distill_lib.objectives import Step, compute_part, full_precision


class Many(nn.Module):
    """n networks of one architecture as one module, whose weights have one more axis.

    They stay independent: none sees another's numbers, and each gets the gradient of its own loss
    when the losses are added up. Dropout differs between them.

    Parameters
    ----------
    networks : sequence of n nn.Module
        Of the same class and sizes; their weights are copied. Without buffers (batch norm), and
        without what draws its own random numbers (`distill_lib.models.PooledDropout`). All but the
        weights is taken from the first: what another keeps in attributes of its own is not looked
        at.

    Raises
    ------
    ValueError
        No network, networks that are printed differently, or one with buffers.

    Notes
    -----
    ``forward``: images, shape (B, C, H, W) → logits, shape (n, B, K).
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        if len({repr(network) for network in networks}) != 1:
            raise ValueError(
                f"networks: expected one or more of the same architecture, got "
                f"{sorted({repr(network) for network in networks})}"
            )
        if next(networks[0].buffers(), None) is not None:
            raise ValueError("networks: expected networks without buffers (batch norm has some)")
        stacked, _ = stack_module_state(list(networks))
        self._names = list(stacked)
        self.weights = nn.ParameterList(
            [nn.Parameter(p.detach().clone(), p.requires_grad) for p in stacked.values()]
        )
        self._one = (copy.deepcopy(networks[0]),)  # in a tuple, so that its weights are not ours

    def extra_repr(self) -> str:
        """What is not in the weights: a checkpoint is refused by students of another kind."""
        return repr(self._one[0])

    def forward(self, x: Tensor) -> Tensor:
        one = self._one[0].train(self.training)

        def logits(weights: dict[str, Tensor]) -> Tensor:
            return functional_call(one, weights, (x,))

        weights = dict(zip(self._names, self.weights, strict=True))
        return vmap(logits, randomness="different")(weights)

    def networks(self) -> list[nn.Module]:
        """The n networks, with weights of their own, in evaluation mode."""
        found = []
        for i in range(len(self.weights[0])):
            network = copy.deepcopy(self._one[0]).to(self.weights[0].device)
            own = {name: p[i] for name, p in zip(self._names, self.weights, strict=True)}
            network.load_state_dict(own, strict=False)  # weights that two layers share are in once
            found.append(network.eval())
        return found


class ManyDistillers(Distiller):
    """Trains many students of one teacher at once, each on losses of its own.

    All see the same batches in the same order, and the teacher runs once for all. After training,
    ``learner.student.networks()`` gives the students back. (Their logits have one more axis, so
    `fit` can't evaluate them on validation images meanwhile.)

    Parameters
    ----------
    teacher : nn.Module
    students : sequence of n nn.Module
        As `Many` takes them.
    losses : sequence of n mappings of str to nn.Module
        For each student what a `distill_lib.distiller.Distiller` would take. One that has
        ``HardLabels()`` alone learns without the teacher.
    teacher_logits : Tensor, shape (N, K), optional
        As a `Distiller` takes them.

    Raises
    ------
    ValueError
        Students that `Many` refuses, not a mapping for each, or a loss that reads layers.

    Examples
    --------
    Five temperatures, the same initial weights:

    >>> from distill_lib.models import MLP
    >>> from distill_lib.objectives import SoftTargets
    >>> student = MLP(784, 32, 10)
    >>> losses = [{"soft": SoftTargets(tau)} for tau in (1.0, 2.0, 4.0, 8.0, 20.0)]
    >>> learner = ManyDistillers(MLP(784, 1200, 10), [student] * 5, losses)
    """

    student: Many

    def __init__(
        self,
        teacher: nn.Module,
        students: Sequence[nn.Module],
        losses: Sequence[Mapping[str, nn.Module]],
        *,
        teacher_logits: Tensor | None = None,
    ) -> None:
        if len(students) != len(losses):
            raise ValueError(
                f"losses: expected one mapping for each of {len(students)} students, "
                f"got {len(losses)}"
            )
        each = {str(i): nn.ModuleDict(mapping) for i, mapping in enumerate(losses)}
        for i, mapping in each.items():
            if not mapping:
                raise ValueError(f"losses: expected at least one for student {i}, got none")
            refuse_layers(mapping, "ManyDistillers")
        super().__init__(teacher, Many(students), each, teacher_logits=teacher_logits)
        self._each = list(each.values())

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of every student, named like ``soft 3``: of student 3."""
        self._check_tables(batch)
        student_logits = full_precision(self.student(batch.x))
        teacher_logits = full_precision(self._teacher_logits(batch))
        named = {f"students[{i}]": logits for i, logits in enumerate(student_logits)}
        self.check_once(batch.y, teacher=teacher_logits, **named)
        parts = {}
        for i, (logits, losses) in enumerate(zip(student_logits, self._each, strict=True)):
            step = Step(batch, logits, teacher_logits)
            for name, loss in losses.items():
                parts[f"{name} {i}"] = compute_part(name, loss, step)
        return parts
