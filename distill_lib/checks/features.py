"""Checkers for the exercises of the chapter on feature distillers."""

import math
from collections import OrderedDict
from functools import wraps

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill_lib.checks import Function, attempt, compare, compare_gradient, passed


class _Stopped(RuntimeError):
    """The error that the checker's own network stops with."""


def _somebody_else(module: nn.Module, inputs: object, output: Tensor) -> None:
    """Stand in for a hook that was there before."""


class _Stop(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise _Stopped("the last layer stopped")


def layer_output(student: Function) -> None:
    """Exercise 1: what a layer puts out, and no hook left behind."""
    random = np.random.default_rng()
    for name in ("first", "inner.second", "last"):
        network, x = _network(random), _numbers(random, 5, 4)
        with torch.no_grad():
            first = network.get_submodule("first")(x)
            second = network.get_submodule("inner.second")(first.tanh())
            last = network.get_submodule("last")(second.relu())
        right = {"first": first, "inner.second": second, "last": last}
        network.get_submodule(name).register_forward_hook(_somebody_else)
        found = attempt(student, network, name, x.clone())
        _check_layer(found, right, name)
        _check_hooks(network, 1)
    network = nn.Sequential(OrderedDict(first=nn.Linear(4, 3).double(), stop=_Stop()))
    try:
        attempt(student, network, "first", _numbers(random, 5, 4))
    except AssertionError as error:
        if not isinstance(error.__cause__, _Stopped):
            raise AssertionError(
                f"A network that stops with an error made layer_output stop with another one, "
                f"{error.__cause__!r}. Let the network's own error through."
            ) from error
    else:
        raise AssertionError(
            "A network stopped with an error, and layer_output kept quiet about it: let the error "
            "through, once the hook is gone."
        )
    if _count_hooks(network):
        raise AssertionError(
            "When the network stops with an error, the hook stays behind: what has to happen in "
            "any case?"
        )
    passed("layer_output: read, and no trace left")


def _network(random: np.random.Generator) -> nn.Module:
    inner = nn.Sequential(OrderedDict(second=nn.Linear(6, 5)))
    layers = {"first": nn.Linear(4, 6), "tanh": nn.Tanh(), "inner": inner, "relu": nn.ReLU()}
    network = nn.Sequential(OrderedDict(**layers, last=nn.Linear(5, 4))).double()
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(_numbers(random, *p.shape))
    return network


def _check_layer(found: object, layers: dict[str, Tensor], name: str) -> None:
    if found is None:
        raise AssertionError("layer_output returns nothing: is there a `return`?")
    if not isinstance(found, Tensor):
        raise AssertionError(
            f"layer_output returns a {type(found).__name__}: expected the tensor that the layer "
            "puts out."
        )
    for other, output in layers.items():
        if found.shape != output.shape or not torch.allclose(found, output):
            continue
        if other == name:
            return
        at_end = ", and what the network puts out at its end" if other == "last" else ""
        raise AssertionError(f"This is the output of {other!r}{at_end}. Asked for was {name!r}.")
    raise AssertionError(
        f"This is not what the layer {name!r} puts out while the network runs on x: it came with "
        f"shape {tuple(found.shape)}, expected was {tuple(layers[name].shape)}. A layer in the "
        "middle does not get x itself; let the whole network run."
    )


def _check_hooks(network: nn.Module, before: int) -> None:
    after = _count_hooks(network)
    if after > before:
        raise AssertionError(
            f"{after - before} hook of yours is still there afterwards: the next forward pass will "
            "call it again."
        )
    if after < before:
        raise AssertionError(
            "A hook that was there before is gone: it belonged to somebody else. Remove your own, "
            "by its handle."
        )


def _count_hooks(network: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


def attention_map(student: Function) -> None:
    """Exercise 2: attention maps of any power."""
    random = np.random.default_rng()
    cases = [
        (_numbers(random, *shape), p)
        for shape, p in (((4, 3, 5, 5), 2), ((3, 2, 4, 6), 1), ((2, 7, 3, 5), 4), ((3, 4, 6, 2), 3))
    ]

    def energy(a: Tensor, p: float) -> Tensor:
        return a.abs().pow(p).sum(dim=1).flatten(1)

    def right(a: Tensor, p: float) -> Tensor:
        return F.normalize(energy(a, p), dim=1)

    def by_sum(a: Tensor, p: float) -> Tensor:
        return energy(a, p) / energy(a, p).sum(dim=1, keepdim=True)

    def by_largest(a: Tensor, p: float) -> Tensor:
        return energy(a, p) / energy(a, p).amax(dim=1, keepdim=True)

    compare(
        student,
        right,
        cases,
        {
            "The length is not 1 yet: divide each image's map by its own norm.": energy,
            "This divides by the sum of the map. Its length as a vector is asked for: the root of "
            "the sum of squares.": by_sum,
            "This divides by the largest place. The length as a vector is asked for.": by_largest,
            "The map is right, but still a square: flatten the places to one vector an image.": (
                lambda a, p: right(a, p).view(len(a), *a.shape[2:])
            ),
            "The length is taken over the batch: each image has a length of its own.": (
                lambda a, p: F.normalize(energy(a, p), dim=0)
            ),
            "All images together were divided by one length: each has its own.": (
                lambda a, p: energy(a, p) / energy(a, p).norm()
            ),
            "Without the absolute value an odd power lets positive and negative channels cancel.": (
                lambda a, p: F.normalize(a.pow(p).sum(dim=1).flatten(1), dim=1)
            ),
            "The sum comes first here, then the power: channels of opposite sign cancel. Power "
            "first.": lambda a, p: F.normalize(a.sum(dim=1).abs().pow(p).flatten(1), dim=1),
            "The square, whatever `p` says.": lambda a, p: right(a, 2),
            "The places were added up, and the channels left: it should be the other way round.": (
                lambda a, p: F.normalize(a.abs().pow(p).sum(dim=(2, 3)), dim=1)
            ),
            "Each channel has a map of its own here: the channels are added up.": (
                lambda a, p: F.normalize(a.abs().pow(p).flatten(1), dim=1)
            ),
            "This takes the p-th root at the end: the sum of the powers is asked for.": (
                lambda a, p: F.normalize(energy(a, p) ** (1 / p), dim=1)
            ),
        },
        hint="Power of the absolute value; sum over the channels; flatten; divide by the length.",
    )
    passed("attention_map: where a layer looks")


def channel_nats(student: Function) -> None:
    """Exercise 3: what a Gaussian guess of each channel saves."""
    random = np.random.default_rng()
    cases = []
    for shape in ((6, 3, 4, 4), (9, 5, 2, 3), (4, 2, 5, 3)):
        t = _numbers(random, *shape) * _numbers(random, 1, shape[1], 1, 1).exp() + 2
        places = _numbers(random, 1, 1, *shape[2:])
        cases.append((t + places, 0.6 * t + 0.4 * _numbers(random, *shape) + 0.5))

    def residual(t: Tensor, guess: Tensor) -> Tensor:
        return (t - guess).square().mean(dim=(0, 2, 3))

    def variance(t: Tensor) -> Tensor:
        return t.var(dim=(0, 2, 3), correction=0)

    def right(t: Tensor, guess: Tensor) -> Tensor:
        return 0.5 * (variance(t) / residual(t, guess)).log()

    compare(
        student,
        right,
        cases,
        {
            "The half is missing: a standard deviation stands in the loss, and this is a ratio of "
            "variances.": lambda t, g: 2 * right(t, g),
            "The sign is wrong: a good guess should save something.": lambda t, g: -right(t, g),
            "One number came back: each channel has its own.": lambda t, g: right(t, g).mean(),
            "A sum came back: each channel has its own.": lambda t, g: right(t, g).sum(),
            "The variances of all channels were thrown together before the logarithm.": (
                lambda t, g: 0.5 * (t.var(correction=0) / (t - g).square().mean()).log()
            ),
            "The variance divides by n − 1 here: say `correction=0`.": (
                lambda t, g: 0.5 * (t.var(dim=(0, 2, 3)) / residual(t, g)).log()
            ),
            "The mean square of the channel stands where its variance belongs: the best constant "
            "guess is the mean, not 0.": (
                lambda t, g: 0.5 * (t.square().mean(dim=(0, 2, 3)) / residual(t, g)).log()
            ),
            "The variance of the *prediction* stands above: the teacher's is asked for.": (
                lambda t, g: 0.5 * (variance(g) / residual(t, g)).log()
            ),
            "The mean of the residual was taken off: `t - guess` is squared as it is. A guess that "
            "is wrong by a constant is wrong.": (
                lambda t, g: 0.5 * (variance(t) / variance(t - g)).log()
            ),
            "These are bits: nats are asked for.": lambda t, g: right(t, g) / math.log(2),
            "This is the share of the variance that is explained: nats take a logarithm.": (
                lambda t, g: 1 - residual(t, g) / variance(t)
            ),
            "The places were kept apart: one variance for a channel, over images and places.": (
                lambda t, g: (
                    0.5 * (t.var(dim=0, correction=0) / (t - g).square().mean(dim=0)).log()
                ).mean(dim=(1, 2))
            ),
        },
        hint="A variance and a mean square, each over the axes 0, 2 and 3; half the logarithm of "
        "their ratio.",
    )
    passed("channel_nats: a good guess saves half the logarithm")


def without_false_negatives(student: Function) -> None:
    """Exercise 4: a contrastive loss that leaves images of the same class out."""
    random = np.random.default_rng()
    cases = []
    for b, d, k, tau in ((8, 4, 3, 0.5), (6, 3, 2, 0.2), (5, 2, 20, 1.0), (4, 3, 1, 0.5)):
        y = torch.tensor(random.integers(k, size=b))
        if k == 20:
            y = torch.tensor(random.permutation(b))  # no two of one class
        if k in (2, 3):
            y[:4] = torch.tensor([0, 0, 1, 1])  # some of one class, some not
        cases.append((3 * _numbers(random, b, d), 2 * _numbers(random, b, d), y, tau))

    def cosines(s: Tensor, t: Tensor, tau: float) -> Tensor:
        return F.normalize(s, dim=1) @ F.normalize(t, dim=1).T / tau

    def false(y: Tensor) -> Tensor:
        same = y[:, None] == y
        return same & ~torch.eye(len(y), dtype=torch.bool)

    def pick(scores: Tensor, reduction: str = "mean") -> Tensor:
        return F.cross_entropy(scores, torch.arange(len(scores)), reduction=reduction)

    def masked(scores: Tensor, y: Tensor, value: float = -math.inf) -> Tensor:
        return scores.masked_fill(false(y), value)

    def right(s: Tensor, t: Tensor, y: Tensor, tau: float) -> Tensor:
        return pick(masked(cosines(s, t, tau), y))

    def without_diagonal(s: Tensor, t: Tensor, y: Tensor, tau: float) -> Tensor:
        return pick(cosines(s, t, tau).masked_fill(y[:, None] == y, -math.inf))

    def all_of_the_class(s: Tensor, t: Tensor, y: Tensor, tau: float) -> Tensor:
        log_q, same = cosines(s, t, tau).log_softmax(dim=1), y[:, None] == y
        return -((log_q * same).sum(dim=1) / same.sum(dim=1)).mean()

    def other_classes_out(s: Tensor, t: Tensor, y: Tensor, tau: float) -> Tensor:
        return pick(cosines(s, t, tau).masked_fill(y[:, None] != y, -math.inf))

    compare(
        student,
        right,
        cases,
        {
            "This is the plain contrastive loss: the false negatives are still in.": (
                lambda s, t, y, tau: pick(cosines(s, t, tau))
            ),
            "The right answer was left out with the others: the diagonal has to stay.": (
                without_diagonal
            ),
            "A score of 0 is not left out: it counts as e⁰ = 1.": (
                lambda s, t, y, tau: pick(masked(cosines(s, t, tau), y, 0.0))
            ),
            "It is the *other* classes that were left out. The images of the same class are the "
            "false negatives.": other_classes_out,
            "Here all images of the class count as right answers. There is one right answer; the "
            "others of its class only drop out.": all_of_the_class,
            "The vectors are not scaled to length 1: these are no cosines.": (
                lambda s, t, y, tau: pick(masked(s @ t.T / tau, y))
            ),
            "The temperature is missing.": lambda s, t, y, tau: pick(masked(cosines(s, t, 1.0), y)),
            "The scores are multiplied by the temperature: they are divided by it.": (
                lambda s, t, y, tau: pick(masked(cosines(s, t, 1 / tau), y))
            ),
            "This is the sum over the batch: take its mean.": (
                lambda s, t, y, tau: pick(masked(cosines(s, t, tau), y), "sum")
            ),
            "One number an image came back: take their mean.": (
                lambda s, t, y, tau: pick(masked(cosines(s, t, tau), y), "none")
            ),
            "The sign is wrong: a cross-entropy is not negative.": lambda *case: -right(*case),
            "Here each of the teacher's images looks for its student. The student's image asks: "
            "the softmax runs over the teacher's.": (
                lambda s, t, y, tau: pick(masked(cosines(t, s, tau), y))
            ),
        },
        hint="The plain loss, with the scores of other images of the same label at minus infinity.",
    )
    compare_gradient(student, right, cases[0])
    passed("without_false_negatives: another 7 is no mistake")


def best_regressor(student: Function) -> None:
    """Exercise 5: the best 1 × 1 convolution, by least squares."""
    random = np.random.default_rng()
    cases = []
    for b, c_s, c_t, h, w in ((6, 3, 5, 4, 4), (8, 4, 2, 3, 5), (5, 1, 3, 4, 3)):
        s = _numbers(random, b, c_s, h, w) + _numbers(random, 1, c_s, 1, 1)
        weights = _numbers(random, c_t, c_s, 1, 1)
        noise = 0.5 * _numbers(random, b, c_t, h, w)
        cases.append((s, F.conv2d(s, weights, _numbers(random, c_t)) + noise))

    def table(maps: Tensor) -> Tensor:
        return maps.movedim(1, -1).flatten(0, -2)

    def solve(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        solution = torch.linalg.lstsq(F.pad(s, (0, 1), value=1.0), t).solution
        return solution[:-1].T, solution[-1]

    def right(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return solve(table(s), table(t))

    def no_constant(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        weights = torch.linalg.lstsq(table(s), table(t)).solution.T
        return weights, torch.zeros(len(weights)).double()

    def centred(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        weights, _ = right(s, t)
        return weights, t.mean(dim=(0, 2, 3))

    def mixed(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return solve(s.reshape(-1, s.shape[1]), t.reshape(-1, t.shape[1]))

    def an_image(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return solve(s.mean(dim=(2, 3)), t.mean(dim=(2, 3)))

    def joined(function: Function) -> Function:
        """The two results side by side, as `compare` takes them."""

        @wraps(function)
        def side_by_side(s: Tensor, t: Tensor) -> Tensor:
            weights, constants = map(torch.as_tensor, function(s, t))
            return torch.cat([weights, constants[:, None]], dim=1)

        return side_by_side

    s, t = cases[0]
    _check_regressor(attempt(student, s.clone(), t.clone()), s.shape[1], t.shape[1])
    compare(
        joined(student),
        joined(right),
        cases,
        {
            "The constants are all 0: a regressor has a constant for each channel, and the weights "
            "change with it.": joined(no_constant),
            "The constants are the teacher's means: that would be right if the student's channels "
            "had the mean 0.": joined(centred),
            "Channels and places are mixed up: bring the channels to the end before the table is "
            "made.": joined(mixed),
            "This is fitted to the means of each image: each place of each image is a row.": (
                joined(an_image)
            ),
        },
        hint="A row for each place of each image, a column of ones beside the student's channels, "
        "and `torch.linalg.lstsq`.",
    )
    passed("best_regressor: a hint without a student")


def _check_regressor(found: object, c_s: int, c_t: int) -> None:
    if found is None:
        raise AssertionError("best_regressor returns nothing: is there a `return`?")
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise AssertionError(
            f"best_regressor returns a {type(found).__name__}: expected two tensors, the weights "
            "and the constants."
        )
    weights, constants = (tuple(np.shape(part)) for part in found)
    if (weights, constants) == ((c_s, c_t), (c_s,)):
        raise AssertionError(
            "This looks like the student as a regression on the teacher. Guess the teacher's "
            "channels from the student's."
        )
    if weights == (c_s, c_t):
        raise AssertionError(
            f"The weights have shape {weights}, with the student's channels first. A "
            f"convolution's weights have the channels that come out first: {(c_t, c_s)}."
        )
    if (weights, constants) != ((c_t, c_s), (c_t,)):
        raise AssertionError(
            f"The weights and constants have shapes {weights} and {constants}; expected are "
            f"{(c_t, c_s)} and {(c_t,)}, for {c_s} channels of the student and {c_t} of the "
            "teacher."
        )


def _numbers(random: np.random.Generator, *shape: int) -> Tensor:
    return torch.tensor(random.normal(size=shape))
