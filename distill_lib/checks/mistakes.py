"""Checkers for the exercises of the chapter on common mistakes."""

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill_lib.checks import Function, attempt, compare, compare_gradient, passed

SoftLoss = Callable[[Tensor, Tensor, float], Tensor]


def loss_factor(student: Function) -> None:
    """Exercise 1: what a reduction of kl_div gives, over the mean KL of one prediction."""
    b, t, k = (int(n) for n in np.random.default_rng().integers(3, 40, size=3))
    shapes = [(128, 10), (8, 64, 1000), (b, k + 40), (b, t, k + 40), (2, 3, 5, 7)]
    cases = [(shape, how) for shape in shapes for how in ("sum", "mean", "batchmean")]

    def factors(shape: tuple[int, ...], how: str, *, by_mean: float, by_batch: float) -> float:
        return {"sum": float(math.prod(shape[:-1])), "mean": by_mean, "batchmean": by_batch}[how]

    def right(shape: tuple[int, ...], how: str) -> float:
        return factors(shape, how, by_mean=1 / shape[-1], by_batch=math.prod(shape[:-1]) / shape[0])

    def right_for_images(shape: tuple[int, ...], how: str) -> float:
        return factors(shape, how, by_mean=1 / shape[-1], by_batch=1.0)

    def batch_only(shape: tuple[int, ...], how: str) -> float:
        return {"sum": float(shape[0]), "mean": 1 / shape[-1], "batchmean": 1.0}[how]

    def over_all(shape: tuple[int, ...], how: str) -> float:
        return factors(
            shape,
            how,
            by_mean=1 / math.prod(shape),
            by_batch=math.prod(shape[:-1]) / shape[0],
        )

    compare(
        student,
        right,
        cases,
        {
            "Right for images, but for logits of shape (B, T, K) `batchmean` still divides by the "
            "first axis alone: how many predictions are there?": right_for_images,
            "For logits of shape (B, T, K) there are more predictions than the first axis is "
            "long: count them all.": batch_only,
            "These are the factors upside down: divide what `kl_div` gives by what we want, not "
            "the other way round.": lambda shape, how: 1 / right(shape, how),
            "`mean` divides the sum by the number of all entries. What we want is divided too, by "
            "the number of predictions: what is left of the quotient?": over_all,
            "`mean` is not what we want: it averages over the classes as well, and a KL is a sum "
            "over them.": lambda shape, how: 1.0 if how == "mean" else right(shape, how),
            "The answer is the same for every reduction.": lambda shape, how: 1.0,
        },
        hint="Write both as the sum of all entries, divided by something.",
    )
    passed("loss_factor: batchmean is right for two axes, and for no more")


_BUGS = {
    "axis": "the probabilities of one image must add up to one: along which axis do they?",
    "teacher": "teacher and student must be asked at the same temperature",
    "mean": "it is K times too light: over what does `mean` average?",
    "tau": "it fades as the temperature rises: a factor is missing",
}


def mended_loss(student: Function) -> None:
    """Exercise 2: the loss of distillation, from one with four mistakes."""
    generator = torch.Generator().manual_seed(int(np.random.default_rng().integers(2**31)))
    cases = []
    for n_images, n_classes, tau, alpha in ((4, 10, 4.0, 0.9), (6, 3, 1.0, 0.5), (2, 5, 2.5, 0.2)):
        z, v = torch.randn(2, n_images, n_classes, dtype=torch.float64, generator=generator)
        y = torch.randint(n_classes, (n_images,), generator=generator)
        cases.append((z, 3 * v, y, tau, alpha))

    def loss(
        *bugs: str, power: float = 2, swap: bool = False, share: Callable[[float], float] = float
    ) -> Function:
        def wrong(z: Tensor, v: Tensor, y: Tensor, tau: float, alpha: float) -> Tensor:
            first, second = (v, z) if swap else (z, v)
            log_q = F.log_softmax(first / tau, dim=0 if "axis" in bugs else 1)
            log_p = F.log_softmax(second if "teacher" in bugs else second / tau, dim=1)
            soft = (log_p.exp() * (log_p - log_q)).sum()
            soft = soft if "sum" in bugs else soft / len(z)
            soft = soft / z.shape[1] if "mean" in bugs else soft
            soft = soft if "tau" in bugs else tau**power * soft
            hard = F.cross_entropy(z / tau if "hard" in bugs else z, y)
            return (1 - share(alpha)) * hard + share(alpha) * soft

        return wrong

    def of_probabilities(z: Tensor, v: Tensor, y: Tensor, tau: float, alpha: float) -> Tensor:
        q, p = F.softmax(z / tau, dim=1), F.softmax(v / tau, dim=1)
        soft = tau**2 * F.kl_div(q, p, reduction="batchmean")
        return (1 - alpha) * F.cross_entropy(z, y) + alpha * soft

    def over_the_batch(z: Tensor, v: Tensor, y: Tensor, tau: float, alpha: float) -> Tensor:
        log_q, log_p = F.log_softmax(z / tau, dim=0), F.log_softmax(v / tau, dim=0)
        soft = tau**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
        return (1 - alpha) * F.cross_entropy(z, y) + alpha * soft

    mistakes: dict[str, Function] = {
        "α weighs the labels here. It should weigh the teacher.": loss(share=lambda a: 1 - a),
        "This is the mean of the two losses without their weights.": (
            lambda z, v, y, tau, alpha: F.cross_entropy(z, y) + loss()(z, v, y, tau, 1.0)
        ),
        "The soft loss alone came back: where are the labels?": loss(share=lambda a: 1.0),
        "The direction is wrong: `kl_div` takes the student first, and the result is the teacher's "
        "divergence from it.": loss(swap=True),
        "The labels' part has a temperature here. The student answers them at τ = 1.": loss("hard"),
        "A factor τ stands before the soft loss: it should be τ².": loss(power=1),
        "This is the sum over the images: take the mean of the soft loss, too.": loss("sum"),
        "Probabilities went in where log-probabilities belong: `kl_div` takes the student's "
        "logarithm.": of_probabilities,
        "Both softmaxes run over the images: they belong over the classes.": over_the_batch,
        "Two mistakes: α weighs the labels, and `mean` averages over the classes as well.": (
            loss("mean", share=lambda a: 1 - a)
        ),
    }
    for chosen in product((False, True), repeat=len(_BUGS)):
        left = [bug for bug, is_left in zip(_BUGS, chosen, strict=True) if is_left]
        if left:
            what = "; and ".join(_BUGS[bug] for bug in left)
            mistakes[f"Mistakes left in the soft loss: {len(left)}. {what}."] = loss(*left)
    compare(
        student,
        loss(),
        cases,
        mistakes,
        hint="Take the soft loss alone (α = 1): is it 0 for a copy of the teacher?",
        not_finite="With log-probabilities as its target, `kl_div` needs `log_target=True`.",
    )
    compare_gradient(student, loss(), cases[0])
    passed("mended_loss: four mistakes, and none of them raised an error")


class _Network(nn.Module):
    """A network with dropout, a batch normalisation that is frozen, and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.drop = nn.Dropout(0.5)
        self.norm = nn.BatchNorm1d(8)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.drop(self.first(x))))

    def __repr__(self) -> str:
        return "a network with dropout"


def careful_logits(student: Function) -> None:
    """Exercise 3: logits in evaluation mode, with every module's mode as it was."""
    name = getattr(student, "__name__", "your function")
    for frozen in ("none", "one", "all"):
        network = _Network().train(frozen != "all")
        if frozen == "one":
            network.first[1].eval()
            network.last.weight.requires_grad_(False)
        modes = {key: module.training for key, module in network.named_modules()}
        trained = {key: weight.requires_grad for key, weight in network.named_parameters()}
        before = {key: value.clone() for key, value in network.state_dict().items()}
        x = torch.randn(16, 6)
        reference = _Network()
        reference.load_state_dict(before)
        with torch.no_grad():
            expected = reference.eval()(x)
        with torch.enable_grad():  # which puts back whatever the student leaves
            logits = attempt(student, network, x)
            records = torch.is_grad_enabled()
        if not isinstance(logits, Tensor):
            raise AssertionError(
                f"{name} returns {type(logits).__name__}: expected the network's logits, a tensor. "
                "Is there a `return`?"
            )
        if logits.requires_grad:
            raise AssertionError(
                "The logits carry a gradient: `eval()` does not stop it. What does?"
            )
        after = network.state_dict()
        if not all(torch.equal(after[key], value) for key, value in before.items()):
            raise AssertionError(
                "The network is not what it was: a running mean has moved, as it does in training "
                "mode."
            )
        if logits.shape != expected.shape or not torch.allclose(logits, expected, atol=1e-5):
            raise AssertionError(
                "These are not the logits of evaluation mode: does the dropout still drop?"
            )
        if not records:
            raise AssertionError(
                "Gradients are still switched off: nothing that comes after can learn. "
                "`with torch.no_grad():` switches them on again by itself."
            )
        if {key: weight.requires_grad for key, weight in network.named_parameters()} != trained:
            raise AssertionError(
                "`requires_grad` of a weight is not what it was: the network could not go on "
                "learning, or what was frozen learns. What stops gradients without touching them?"
            )
        now = {key: module.training for key, module in network.named_modules()}
        if now == modes:
            continue
        if not any(now.values()):
            raise AssertionError("The network was in training mode, and is left in eval mode.")
        if frozen == "all":
            raise AssertionError(
                "The network was in eval mode, and is left in training mode: don't assume where it "
                "came from."
            )
        raise AssertionError(
            "One module inside was in eval mode on purpose, and has been woken up: `train()` "
            "reaches all of them."
        )
    passed("careful_logits: nothing shows that an evaluation took place")


def table_of_logits(student: Function) -> None:
    """Exercise 4: the logits of shuffled batches, in the order of the data set."""
    random = np.random.default_rng()
    cases = []
    for sizes, n_classes in (((3, 2), 2), ((4, 4, 1), 3)):
        n = sum(sizes)
        order = np.arange(n)
        while (order[order] == np.arange(n)).all() or order[: sizes[0]].max() < sizes[0]:
            order = random.permutation(n)  # not its own inverse, nor sorted batch by batch
        logits = random.normal(size=(n, n_classes)).round(2)
        ends = np.cumsum(sizes)[:-1]
        cases.append((np.split(logits, ends), np.split(order, ends)))

    def joined(blocks: list[Any], indices: list[Any]) -> tuple[Any, Any]:
        return np.concatenate(blocks), np.concatenate(indices)

    def right(blocks: list[Any], indices: list[Any]) -> Any:
        came, order = joined(blocks, indices)
        return came[np.argsort(order)]

    def wrong_way_round(blocks: list[Any], indices: list[Any]) -> Any:
        came, order = joined(blocks, indices)
        return came[order]

    def within_batches(blocks: list[Any], indices: list[Any]) -> Any:
        pairs = zip(blocks, indices, strict=True)
        return np.concatenate([block[np.argsort(index)] for block, index in pairs])

    compare(
        student,
        right,
        cases,
        {
            "These are the logits in the order in which they came: the places are not used.": (
                lambda blocks, indices: joined(blocks, indices)[0]
            ),
            "The permutation goes the wrong way round: an index says where a row belongs, and not "
            "from where to fetch it.": wrong_way_round,
            "Each batch is in order by itself, but image 0 may have come in the last one.": (
                within_batches
            ),
            "The rows are sorted by their values. What counts is the image that a row belongs "
            "to.": lambda blocks, indices: np.sort(joined(blocks, indices)[0], axis=0),
        },
        hint="Take one row of one batch: at which row of the table should it be?",
    )
    passed("table_of_logits: found again by the image, not by the batch")


class _Loss:
    """A soft-target loss to be judged; it does not show its code."""

    def __init__(self, function: SoftLoss) -> None:
        self.function = function

    def __call__(self, z: Tensor, v: Tensor, tau: float) -> Tensor:
        return self.function(z, v, tau)

    def __repr__(self) -> str:
        return "a loss"


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum()


def _logs(z: Tensor, v: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    return F.log_softmax(v / tau, dim=1), F.log_softmax(z / tau, dim=1)


def _by_hand(z: Tensor, v: Tensor, tau: float) -> Tensor:
    p = (v / tau).softmax(dim=1)
    return tau**2 * (p * (p.log() - F.log_softmax(z / tau, dim=1))).sum() / len(z)


def _from_entropies(z: Tensor, v: Tensor, tau: float) -> Tensor:
    p = (v / tau).softmax(dim=1)
    return tau**2 * (F.cross_entropy(z / tau, p) - torch.special.entr(p).sum(dim=1).mean())


def _from_kl_div(z: Tensor, v: Tensor, tau: float) -> Tensor:
    log_p, log_q = _logs(z, v, tau)
    return tau**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


_RIGHT: tuple[SoftLoss, ...] = (
    _from_kl_div,
    _from_entropies,
    lambda z, v, tau: tau**2 * _kl(*_logs(z, v, tau)) / len(z),
)
_WRONG: dict[str, SoftLoss] = {
    "averages over the classes as well": lambda z, v, tau: _from_kl_div(z, v, tau) / z.shape[1],
    "adds up the images and takes no mean": lambda z, v, tau: _from_kl_div(z, v, tau) * len(z),
    "has no τ²": lambda z, v, tau: _from_kl_div(z, v, tau) / tau**2,
    "has the two networks the wrong way round": lambda z, v, tau: _from_kl_div(v, z, tau),
    "takes the student's softmax over the images": lambda z, v, tau: (
        tau**2 * _kl(F.log_softmax(v / tau, dim=1), F.log_softmax(z / tau, dim=0)) / len(z)
    ),
    "asks the teacher at temperature 1": lambda z, v, tau: (
        tau**2 * _kl(F.log_softmax(v, dim=1), F.log_softmax(z / tau, dim=1)) / len(z)
    ),
    "puts the teacher through two softmaxes": lambda z, v, tau: _from_kl_div(
        z, v.softmax(dim=1), tau
    ),
    "is NaN where a probability is rounded to 0": _by_hand,
}


def check_soft_loss(student: Function) -> None:
    """Exercise 5: a test that passes right losses and fails wrong ones."""

    def accepts(loss: _Loss) -> bool:
        try:
            student(loss)
        except AssertionError:
            return False
        return True

    accepts.__name__ = getattr(student, "__name__", "your function")
    ways = ("with `kl_div`", "as a difference of cross-entropy and entropy", "as a plain sum")
    losses = {**_WRONG, **dict(zip(ways, _RIGHT, strict=True))}
    names = list(losses)
    order = np.random.default_rng().permutation(len(names))  # so that counting calls won't do
    accepted = {names[i]: attempt(accepts, _Loss(losses[names[i]])) for i in order}
    verdicts = {what: accepted[what] for what in _WRONG}
    right = [accepted[way] for way in ways]
    if not any(right) and not any(verdicts.values()):
        raise AssertionError(
            "Your test rejects every loss, the right ones too. Does it allow for rounding? Is its "
            "own value right?"
        )
    if all(right) and all(verdicts.values()):
        raise AssertionError(
            "Your test accepts every loss: does it `assert` anything? A result that is only "
            "computed, printed or returned tests nothing."
        )
    if not all(right):
        rejected = ways[right.index(False)]
        raise AssertionError(
            f"Your test rejects a right loss, one that is written {rejected}. Does it allow for "
            "rounding? Is its own value right?"
        )
    let_through = [what for what, passes in verdicts.items() if passes]
    if let_through:
        raise AssertionError(
            f"Caught {len(verdicts) - len(let_through)} of {len(verdicts)}. Your test lets through "
            f"a loss that {let_through[0]}. On which logits, and at which temperature, would that "
            "show?"
        )
    passed("check_soft_loss: three right losses pass, eight wrong ones fail")
