"""A question for each lab whose numbers depend on who is asked: for talks, quizzes and exams.

The checkers of the labs draw their cases afresh each time, so an answer in code has no variants.
Here is what varies: numbers that are drawn from a seed and a name, and a result to state. It is the
same on every machine. Whoever may use a computer can also look up how it is computed, below: what a
right number shows is that somebody did the computation for this name.
"""

import math
from collections.abc import Callable, Iterable
from random import Random

import numpy as np
from scipy import stats
from scipy.special import log_softmax, softmax

from distill_lib.analysis import paired_interval
from distill_lib.checks import passed
from distill_lib.information import (
    cross_entropy,
    entropy,
    js_divergence,
    kl_divergence,
    mutual_information,
)

Question = tuple[str, float]
SMALLEST = 0.02  # of all answers: nobody is to find a number out of rounding errors


def ask(lab: str, name: str, seed: int = 0) -> None:
    """Print the question of a lab, with the numbers of this name.

    Parameters
    ----------
    lab : str
        The name of the notebook, such as "01-entropy".
    name : str
        Whose question it is; capitals and outer blanks don't matter.
    seed : int
        Another seed is another variant: one for each course.
    """
    print(_question(lab, name, seed)[0])


def check(lab: str, name: str, answer: float, seed: int = 0) -> None:
    """Print a tick if the answer is right to three digits, or raise an `AssertionError`."""
    text, right = _question(lab, name, seed)
    third = 10.0 ** (math.floor(math.log10(abs(right))) - 2)  # one in the third digit

    def is_right(number: float) -> bool:
        return abs(number - right) <= 0.501 * third

    if not is_right(answer):
        for factor, asked, units in (
            (math.log(2), "nats", "bits"),
            (1 / math.log(2), "bits", "nats"),
        ):
            if asked in text and is_right(answer * factor):
                raise AssertionError(f"{answer:g} is right in {units}: which unit is asked for?")
        raise AssertionError(
            f"{answer:g} is not right yet. Are these the numbers of {name!r} for seed {seed}?"
        )
    passed(f"{lab}, the question of {name}")


def answers(lab: str, names: Iterable[str], seed: int = 0) -> dict[str, float]:
    """Return what each of the names should answer."""
    return {name: _question(lab, name, seed)[1] for name in names}


def _question(lab: str, name: str, seed: int) -> Question:
    if lab not in _QUESTIONS:
        raise ValueError(f"lab is {lab!r}: expected one of {', '.join(_QUESTIONS)}")
    # a string seeds Python's generator alike everywhere, and its integers stay what they were
    random = Random(f"{seed}/{lab}/{name.strip().casefold()}")
    text, answer = _QUESTIONS[lab](random)
    while abs(answer) < SMALLEST:
        text, answer = _QUESTIONS[lab](random)
    return text, float(answer)


def _counts(random: Random, n: int) -> list[int]:
    return random.sample(range(1, 20), n)


def _shares(counts: list[int]) -> str:
    return ", ".join(f"{c}/{sum(counts)}" for c in counts)


def _p(counts: list[int]) -> np.ndarray:
    return np.array(counts) / sum(counts)


def _entropy(random: Random) -> Question:
    a = _counts(random, 5)
    text = f"Five classes have the probabilities {_shares(a)}. How many equally likely classes"
    return f"{text} are as uncertain?", float(np.exp(entropy(_p(a))))


def _kl(random: Random) -> Question:
    a, b = _counts(random, 4), _counts(random, 4)
    text = f"The teacher says {_shares(a)}, the student {_shares(b)}. How large is KL(teacher ‖"
    return f"{text} student), in nats?", float(kl_divergence(_p(a), _p(b)))


def _information(random: Random) -> Question:
    table = [_counts(random, 3) for _ in range(3)]
    text = f"Label (rows) and answer (columns) came up together this often: {table}. With"
    text += " frequencies for probabilities, how many bits does the answer tell about the label?"
    return text, mutual_information(np.array(table) / np.sum(table), base=2)


def _estimate(random: Random) -> Question:
    table = np.array([_counts(random, 3) for _ in range(3)])
    n, seen = table.sum(), (3 - 1) + (3 - 1) - (9 - 1)
    text = f"Of {n} samples, x (rows) and y (columns) came up together this often:"
    text += f" {table.tolist()}. What is Miller and Madow's estimate of I(X;Y), in nats?"
    return text, mutual_information(table / n) + seen / (2 * n)


def _bound(random: Random) -> Question:
    p, q = ([_counts(random, 3) for _ in range(2)] for _ in range(2))
    text = f"Two images are equally likely. The teacher says {_shares(p[0])} of the first and"
    text += f" {_shares(p[1])} of the second; the student {_shares(q[0])} and {_shares(q[1])}."
    text += " What is the lower bound H(T) - CE on the information, in nats?"
    t, s = np.array([_p(row) for row in p]), np.array([_p(row) for row in q])
    return text, float(entropy(t.mean(axis=0)) - np.mean(cross_entropy(t, s)))


def _wilson(random: Random) -> Question:
    n, errors = 100 * random.randint(5, 40), random.randint(5, 60)
    text = f"A network errs on {errors} of {n} images. Where does Wilson's interval of 95 % for its"
    high = stats.binomtest(errors, n).proportion_ci(method="wilson").high
    return f"{text} error rate end, in per cent?", 100 * float(high)


def _parameters(random: Random) -> Question:
    a, b, hidden = random.randint(8, 40), random.randint(8, 40), random.randint(20, 90)
    text = f"The chapter's convolutional network is built with {a} and {b} channels and {hidden}"
    text += " hidden units. How many thousand parameters has it, to three digits or more?"
    return text, (26 * a + (25 * a + 1) * b + (16 * b + 1) * hidden + 10 * (hidden + 1)) / 1000


def _loss(random: Random) -> Question:
    v, z = (random.sample(range(-4, 7), 3) for _ in range(2))
    tau, alpha = random.choice([2, 3, 4, 5]), random.choice([0.3, 0.5, 0.7, 0.9])
    text = f"Teacher's logits {v}, student's logits {z}, the label is the first class, τ = {tau},"
    text += f" α = {alpha} (of the teacher). How large is the loss of distillation, in nats?"
    soft = kl_divergence(softmax(np.array(v) / tau), softmax(np.array(z) / tau))
    hard = -log_softmax(z)[0]
    return text, float((1 - alpha) * hard + alpha * tau**2 * soft)


def _pairs(random: Random) -> Question:
    a = [random.randint(180, 240) for _ in range(5)]
    b = [n + random.randint(5, 40) for n in a]
    text = f"With five seeds a distilled student makes {a} errors, its twin without a teacher {b}."
    text += " How wide is the 95 % interval of the mean paired difference, end to end, in errors?"
    interval = paired_interval(a, b)
    return text, float(interval.high - interval.low)


def _mcnemar(random: Random) -> Question:
    a, b, both = random.randint(10, 20), random.randint(21, 34), random.randint(30, 90)
    text = f"{both} images are wrong by both networks, {a} by the first alone, {b} by the second"
    return f"{text} alone. What is McNemar's exact p-value?", float(
        stats.binomtest(a, a + b).pvalue
    )


def _reduction(random: Random) -> Question:
    b, t, k = (random.randint(3, 30) for _ in range(3))
    value, mean = random.randint(20, 90) / 100, random.random() < 0.5
    name = "mean" if mean else "batchmean"
    text = f"For logits of shape ({b}, {t}, {k}), the last axis the classes,"
    text += f" `F.kl_div(…, reduction='{name}')` is {value}. How many nats is it a prediction?"
    return text, value * k if mean else value / t


def _ensemble(random: Random) -> Question:
    a, b = _counts(random, 4), _counts(random, 4)
    text = f"Two teachers say {_shares(a)} and {_shares(b)}. By how many nats is the entropy of"
    return f"{text} their mean above their mean entropy?", float(js_divergence(_p(a), _p(b)))


def _channels(random: Random) -> Question:
    left = [random.randint(1, 30) / 10 for _ in range(3)]
    whole = [round(r + random.randint(1, 40) / 10, 1) for r in left]
    text = f"Three channels have the variances {whole}; a Gaussian guess from the student leaves"
    text += f" mean squares of {left}. How many nats does it save in all three together?"
    return text, float(np.log(np.divide(whole, left)).sum() / 2)


def _cosines(random: Random) -> Question:
    s, t = ([random.sample(range(1, 9), 2) for _ in range(3)] for _ in range(2))
    text = f"Three samples have the features {s} in the student and {t} in the teacher. What is the"
    text += " mean squared difference of their cosines over the three pairs, times 1000?"

    def cosines(rows: list[list[int]]) -> np.ndarray:
        unit = np.array(rows) / np.linalg.norm(rows, axis=1, keepdims=True)
        return (unit @ unit.T)[np.triu_indices(3, 1)]

    return text, float(1000 * np.mean((cosines(s) - cosines(t)) ** 2))


def _smoothing(random: Random) -> Question:
    k, epsilon = random.randint(5, 200), random.randint(2, 40) / 100
    text = f"A teacher of {k} classes gives the right one 1 - ε and shares ε = {epsilon} evenly"
    text += " among the wrong ones. By how much is the right class's logit above the others?"
    return text, math.log((1 - epsilon) * (k - 1) / epsilon)


def _label(random: Random) -> Question:
    a, losses = _counts(random, 3), [n / 10 for n in random.sample(range(1, 50), 3)]
    text = f"Of an image the true probabilities are {_shares(a)}, and the losses of the answers"
    text += f" {losses}. What variance does it add to draw a label instead?"
    mean = _p(a) @ np.array(losses)
    return text, float(_p(a) @ (np.array(losses) - mean) ** 2)


def _holm(random: Random) -> Question:
    p = [n / 1000 for n in random.sample(range(2, 60), 5)]
    adjusted = np.maximum.accumulate(np.sort(p) * np.arange(5, 0, -1))
    text = f"Five comparisons have the p-values {p}. What is Holm's adjusted p-value of the one"
    return f"{text} with the third smallest, in per cent?", 100 * min(float(adjusted[2]), 1.0)


def _sixth(random: Random) -> Question:
    errors = random.sample(range(65, 110), 5)
    text = f"Five seeds make {errors} test errors. In which interval of 95 % would a sixth run"
    text += " fall, if errors are normal? Where does it end above?"
    spread = np.std(errors, ddof=1) * math.sqrt(1 + 1 / 5)
    return text, float(np.mean(errors) + stats.t.ppf(0.975, 4) * spread)


_QUESTIONS: dict[str, Callable[[Random], Question]] = {
    "01-entropy": _entropy,
    "02-kl-divergence": _kl,
    "03-mutual-information": _information,
    "04-estimating-mutual-information": _estimate,
    "05-what-distillation-maximises": _bound,
    "06-data": _wilson,
    "07-teacher": _parameters,
    "08-distiller": _loss,
    "09-student": _pairs,
    "10-did-it-work": _mcnemar,
    "11-common-mistakes": _reduction,
    "12-three-objectives": _ensemble,
    "13-feature-distillers": _channels,
    "14-structural-distillers": _cosines,
    "15-students-teaching-students": _smoothing,
    "16-why-it-works": _label,
    "17-comparison": _holm,
    "18-hinton-2015": _sixth,
}
