"""Checkers for the exercises of the chapter on the teacher."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax

from distill_lib.checks import Function, attempt, compare, passed
from distill_lib.information import entropy

Array = NDArray[np.float64]


def n_parameters(student: Function) -> None:
    """Exercise 1: the parameters of the convolutional network, by a formula."""
    random = np.random.default_rng()
    afresh = [((int(a), int(b)), int(h)) for a, b, h in random.integers(2, 60, size=(3, 3))]
    cases = [((16, 32), 128), ((1, 1), 1), *afresh]

    def formula(
        channels: tuple[int, int],
        hidden: int,
        *,
        bias: int = 1,
        window: int = 25,
        places: int = 16,
        joined: bool = True,
    ) -> int:
        a, b = channels
        looks = window * a if joined else window
        return (
            a * (window + bias)
            + b * (looks + bias)
            + hidden * (places * b + bias)
            + 10 * (hidden + bias)
        )

    compare(
        student,
        formula,
        cases,
        {
            "The biases are missing: each output of a layer has one.": (
                lambda c, h: formula(c, h, bias=0)
            ),
            "An output of the second convolution looks at the windows of all maps before it, not "
            "at one of them.": lambda c, h: formula(c, h, joined=False),
            "fc1 gets a whole 4 × 4 square from each channel, not one number.": (
                lambda c, h: formula(c, h, places=1)
            ),
            "fc1 gets 4 × 4 numbers from each channel, not 8 × 8: there is a second pooling.": (
                lambda c, h: formula(c, h, places=64)
            ),
            "fc1 gets its 4 × 4 numbers from every channel of the second convolution.": (
                lambda c, h: formula(c, h) - 16 * h * (c[1] - 1)
            ),
            "The last layer is missing: ten logits have weights and biases too.": (
                lambda c, h: formula(c, h) - 10 * (h + 1)
            ),
            "The windows are 5 × 5, not 3 × 3.": lambda c, h: formula(c, h, window=9),
            "These are the multiplications of one image. A convolution uses the same parameters at "
            "each of its places: count them once.": (
                lambda c, h: c[0] * 576 * 25 + c[1] * 64 * 25 * c[0] + h * 16 * c[1] + 10 * h
            ),
            "This is the same for every network: use `channels` and `hidden`.": (
                lambda c, h: 80_202
            ),
        },
        hint="Each output of a layer has a weight for every number it looks at, and a bias: the "
        "table above, with letters for numbers.",
    )
    passed("n_parameters: counted without building")


def double_softmax_loss(student: Function) -> None:
    """Exercise 2: the loss of a perfect network with one softmax too many."""
    cases = [(10,), (2,), (1000,), (int(np.random.default_rng().integers(3, 500)),)]
    compare(
        student,
        lambda k: math.log(1 + (k - 1) / math.e),
        cases,
        {
            "That would be right with one softmax. The second one never sees more than a 1 and "
            "some 0s, and is far from certain.": lambda k: 0.0,
            "This is the loss of a network that knows nothing. Ours is perfect.": math.log,
            "This is the probability of the label. The loss is its surprise.": (
                lambda k: math.e / (math.e + k - 1)
            ),
            "The sign is wrong: a surprise is never negative.": (
                lambda k: -math.log(1 + (k - 1) / math.e)
            ),
            "One class too many: besides the one there are K - 1 zeros.": (
                lambda k: math.log(1 + k / math.e)
            ),
            "This is in bits: F.cross_entropy counts in nats.": (
                lambda k: math.log2(1 + (k - 1) / math.e)
            ),
            "This is the loss of a network that is certain of a wrong class.": (
                lambda k: math.log(math.e + k - 1)
            ),
            "This is right for ten classes alone: use `n_classes`.": (
                lambda k: math.log(1 + 9 / math.e)
            ),
        },
        hint="Which ten numbers does the second softmax take for logits, and what does it give to "
        "the label?",
    )
    passed("double_softmax_loss: a floor that training cannot go below")


def top_errors(student: Function) -> None:
    """Exercise 3: how many labels are outside the k best."""
    random = np.random.default_rng()
    logits, labels = random.normal(size=(400, 10)), random.integers(10, size=400)
    few, of_few = random.normal(size=(50, 4)), random.integers(4, size=50)
    cases = [(logits, labels, k) for k in (1, 2, 3, 10)] + [(few, of_few, 2), (few, of_few, 3)]

    def misses(z: Array, y: Array, k: int) -> Array:
        return np.asarray(np.argsort(z, axis=1)[:, ::-1][:, :k] != y[:, None])

    def right(z: Array, y: Array, k: int) -> int:
        return int(misses(z, y, k).all(axis=1).sum())

    compare(
        student,
        right,
        cases,
        {
            "These are the hits: count the images whose label is not among the k best.": (
                lambda z, y, k: len(z) - right(z, y, k)
            ),
            "This is a share of the images: return how many they are.": (
                lambda z, y, k: right(z, y, k) / len(z)
            ),
            "`k` is not used: these are the errors of the first answer alone.": (
                lambda z, y, k: right(z, y, 1)
            ),
            "Only the answer in place k is compared here. The label may be any of the first k.": (
                lambda z, y, k: int(misses(z, y, k)[:, -1].sum())
            ),
            "argsort puts the smallest first: these are the k *least* likely classes.": (
                lambda z, y, k: right(-z, y, k)
            ),
            "An image counts here if *any* of the k answers is wrong: it should if all are.": (
                lambda z, y, k: int(misses(z, y, k).any(axis=1).sum())
            ),
            "These are the wrong answers, up to k for an image: count images.": (
                lambda z, y, k: int(misses(z, y, k).sum())
            ),
            "This counts one class too many: the k best, no more.": (
                lambda z, y, k: right(z, y, k + 1)
            ),
            "This counts one class too few: the k best, no fewer.": (
                lambda z, y, k: right(z, y, k - 1) if k > 1 else 0
            ),
        },
        hint="Mark for each image and each of its k best classes whether it is the label; then ask "
        "for rows without a mark.",
    )
    passed("top_errors: the label is not among the first k")


def calibrating_temperature(student: Function) -> None:
    """Exercise 4: the temperature at which logits have the smallest NLL."""
    random = np.random.default_rng()
    cases = []
    for factor, n_classes, shift in ((1.0, 10, 0.0), (4.0, 10, 0.0), (0.3, 5, 0.0), (2.0, 7, 2e3)):
        true = 2 * random.normal(size=(1500, n_classes))
        labels = (true + random.gumbel(size=true.shape)).argmax(axis=1)  # drawn from its softmax
        cases.append((factor * true + shift, labels))
    found = []
    for logits, labels in cases:
        tau = attempt(student, logits.copy(), labels.copy())
        if tau is None:
            raise AssertionError("calibrating_temperature returns nothing: is there a `return`?")
        try:
            found.append(float(tau))
        except (TypeError, ValueError):
            raise AssertionError(
                f"calibrating_temperature returns a {type(tau).__name__}: a temperature is one "
                "number."
            ) from None
    expected = np.array([_temperature(logits, labels) for logits, labels in cases])
    taus = np.array(found)
    if np.allclose(taus, expected, rtol=2e-3):
        passed("calibrating_temperature: no answer changed, and the doubt made true")
        return
    if np.allclose(taus[:3], expected[:3], rtol=2e-3):
        raise AssertionError(
            "Right, but not for logits near 2000, where an exponential overflows. A constant added "
            "to all logits of an image must not matter: what computes ln Σ exp safely?"
        )
    possible = np.isfinite(taus) & (taus > 0)
    if not possible.all():
        raise AssertionError(
            f"calibrating_temperature returns {taus[~possible][0]:g}: a temperature is a number "
            "above zero."
        )
    if len(set(taus.round(6))) == 1:
        raise AssertionError(f"It always returns {taus[0]:.4g}, whatever the logits.")
    same = slice(3)  # the logits that are too large may have failed in a way of their own
    if np.allclose(1 / taus[same], expected[same], rtol=2e-3):
        raise AssertionError("This is 1/τ, by which logits are multiplied: return τ.")
    sure = np.array([_temperature_of_accuracy(logits, labels) for logits, labels in cases])
    if np.allclose(taus[same], sure[same], rtol=5e-3):
        raise AssertionError(
            "Here the mean certainty equals the accuracy. That is another rule: the temperature "
            "asked for has the smallest NLL."
        )
    if np.allclose(taus[same], expected[same], rtol=0.1):
        raise AssertionError(
            "Close, but not right to three digits: search more finely (the bounded method of "
            "minimize_scalar has the option xatol)."
        )
    raise AssertionError(
        f"For logits from whose softmax the labels were drawn it returns {taus[0]:.4g}, where the "
        f"NLL is {_nll(*cases[0], taus[0]):.4f} nats; at {expected[0]:.2f} it would be "
        f"{_nll(*cases[0], expected[0]):.4f}. Is it the NLL that you minimise, of the *label's* "
        "class, averaged over images?"
    )


def _nll(logits: Array, labels: Array, tau: float) -> float:
    z = logits / tau
    return float((logsumexp(z, axis=1) - z[np.arange(len(z)), labels]).mean())


def _temperature(logits: Array, labels: Array) -> float:
    """Where the mean logit, under the softmax, is the label's: there the NLL has slope 0."""
    z = logits - logits.max(axis=1, keepdims=True)
    of_label = z[np.arange(len(z)), labels].mean()
    return _bisect(lambda beta: (softmax(beta * z, axis=1) * z).sum(axis=1).mean() < of_label)


def _temperature_of_accuracy(logits: Array, labels: Array) -> float:
    accuracy = (logits.argmax(axis=1) == labels).mean()
    z = logits - logits.max(axis=1, keepdims=True)
    return _bisect(lambda beta: softmax(beta * z, axis=1).max(axis=1).mean() < accuracy)


def _bisect(too_hot: Function) -> float:
    low, high = 0.01, 100.0  # of the inverse temperature
    for _ in range(30):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if too_hot(middle) else (low, middle)
    return 1 / middle


def doubt_kept(student: Function) -> None:
    """Exercise 5: doubt on learned images, as a share of that on fresh ones."""
    random = np.random.default_rng()
    cases: list[tuple[Any, ...]] = [
        (5 * random.normal(size=(60, 10)), 3 * random.normal(size=(90, 10)), tau)
        for tau in (1.0, 4.0, 0.5)
    ]
    cases.append((np.array([[800.0, 0, 0], [2, 1, 0]]), np.array([[1.0, 0, 0]]), 1.0))

    def doubts(z: Array, tau: float) -> Array:
        return np.asarray(entropy(softmax(z / tau, axis=1)))

    def right(a: Array, b: Array, tau: float) -> Any:
        return doubts(a, tau).mean() / doubts(b, tau).mean()

    def of_mean(z: Array, tau: float) -> Any:
        return entropy(softmax(z / tau, axis=1).mean(axis=0))

    def naive(z: Array, tau: float) -> Any:
        p = softmax(z / tau, axis=1)
        return -(p * np.log(p)).sum(axis=1).mean()

    def certainty(z: Array, tau: float) -> Any:
        return softmax(z / tau, axis=1).max(axis=1).mean()

    compare(
        student,
        right,
        cases,
        {
            "It is the other way round: learned images in the numerator.": (
                lambda a, b, tau: 1 / right(a, b, tau)
            ),
            "The temperature is not used.": lambda a, b, tau: right(a, b, 1.0),
            "The logits are multiplied by `tau`: a temperature divides them.": (
                lambda a, b, tau: right(a, b, 1 / tau)
            ),
            "This is a difference: a share is asked for.": (
                lambda a, b, tau: doubts(a, tau).mean() - doubts(b, tau).mean()
            ),
            "This takes the entropy of the mean target. Take the entropy of each, and then the "
            "mean.": lambda a, b, tau: of_mean(a, tau) / of_mean(b, tau),
            "These are sums: a larger set has the larger sum. Take means.": (
                lambda a, b, tau: doubts(a, tau).sum() / doubts(b, tau).sum()
            ),
            "This compares how sure the network is, and not its entropy.": (
                lambda a, b, tau: certainty(a, tau) / certainty(b, tau)
            ),
            "The softmax runs over the images: it belongs over the classes, the last axis.": (
                lambda a, b, tau: (
                    np.mean(entropy(softmax(a / tau, axis=0), axis=0))
                    / np.mean(entropy(softmax(b / tau, axis=0), axis=0))
                )
            ),
            "NaN came back where a probability is 0: remember what 0 log 0 counts as.": (
                lambda a, b, tau: naive(a, tau) / naive(b, tau)
            ),
        },
        hint="The mean entropy of the soft targets, once for each set; then their ratio.",
    )
    passed("doubt_kept: how much doubt is left to teach with")
