"""Each checker passes the solution, and tells a beginner which mistake it was."""

import numpy as np
import pytest
import torch
from checking import *  # noqa: F403
from lab_answers import answers
from torch.nn import functional as F

from distill_lib.checks import data as check

CHAPTER = "06-data"
EXERCISES = ("normalise", "epoch_order", "stratified_split", "shift", "wilson_interval")
FEWEST = 6  # messages for an exercise


# ---- typical mistakes: what a student wrote, and what the message says


def _order(number, *, touch=False, carried=None):
    """An order from a generator with the seed that `number` makes of seed and epoch."""

    def epoch_order(n, seed, epoch):
        if touch:
            torch.manual_seed(number(seed, epoch))
            return torch.randperm(n)
        generator = carried or torch.Generator().manual_seed(number(seed, epoch))
        return torch.randperm(n, generator=generator)

    return epoch_order


def _blocks(n, seed, epoch):
    generator = torch.Generator().manual_seed(1000 * seed + epoch)
    blocks = torch.arange(n).split(10)
    return torch.cat([blocks[i] for i in torch.randperm(len(blocks), generator=generator)])


def _with_replacement(n, seed, epoch):
    return torch.randint(n, (n,), generator=torch.Generator().manual_seed(1000 * seed + epoch))


def _split(
    *, shuffle=True, use_seed=True, swap=False, end=False, lose=False, n_of=None, half=False
):
    """A student's stratified split, right but for what is passed."""

    def stratified_split(y, share, seed):
        generator = torch.Generator().manual_seed(seed if use_seed else 0)
        train, validation = [], []
        for k in y.unique():
            places = (y == k).nonzero()[:, 0]
            n = round(share * len(places)) if n_of is None else n_of(y, share, len(places))
            if shuffle and not half:
                places = places[torch.randperm(len(places), generator=generator)]
            if half:
                front = torch.randperm(len(places) // 2, generator=generator)
                places = torch.cat([places[: len(places) // 2][front], places[len(places) // 2 :]])
            if end:
                places = places.flip(0)
            validation.append(places[:n])
            train.append(places[n + lose :])
        parts = torch.cat(train), torch.cat(validation)
        return parts[::-1] if swap else parts

    return stratified_split


def _plain_random(y, share, seed):
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    n = round(share * len(y))
    return order[n:], order[:n]


def _overlapping(y, share, seed):
    _, validation = _split()(y, share, seed)
    return torch.arange(len(y)), validation


def _unseeded(y, share, seed):
    return _split()(y, share, int(np.random.default_rng().integers(2**40)))


def _labels(y, share, seed):
    train, validation = _split()(y, share, seed)
    return y[train], y[validation]


def _each(move):
    def shift(x, down, right):
        pairs = zip(x, down.tolist(), right.tolist(), strict=True)
        return torch.stack([move(image, d, r) for image, d, r in pairs])

    return shift


def _windows(sign=-1, swap=False, first=False, mode="constant"):
    def shift(x, down, right):
        b, _, h, w = x.shape
        m = int(torch.stack([down.abs(), right.abs()]).max())
        if mode == "constant":
            padded = F.pad(x, (m,) * 4)
        else:
            padded = F.pad(x.float(), (m,) * 4, mode=mode).to(x.dtype)
        windows = padded.unfold(2, h, 1).unfold(3, w, 1)
        if swap:
            down, right = right, down
        if first:
            down, right = down[:1].expand(b), right[:1].expand(b)
        return windows[torch.arange(b), :, m + sign * down, m + sign * right]

    return shift


def _wilson(z=1.96, *, around=False, rate=lambda e, n: e / n):
    def wilson_interval(errors, n):
        p = rate(errors, n)
        centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
        centre = p if around else centre
        return centre - half, centre + half

    return wilson_interval


def _plain_interval(errors, n, clip=False):
    p = errors / n
    half = 1.96 * np.sqrt(p * (1 - p) / n)
    return (max(p - half, 0), min(p + half, 1)) if clip else (p - half, p + half)


MISTAKES = {
    "normalise": [
        (lambda x, mean, std: (x.float() - mean) / std, "still between 0 and 255"),
        (lambda x, mean, std: x.float() / 255, "not yet normalised"),
        (lambda x, mean, std: x.float() / 255 - mean, "what is `std` for"),
        (lambda x, mean, std: x.float() / 255 - mean / std, "Mind the brackets"),
        (lambda x, mean, std: (x.float() / 255 - mean) / std**2, "divides by the variance"),
        (lambda x, mean, std: (x.float() / 255 - mean) * std, "multiplies by `std`"),
        (lambda x, mean, std: (x.float() / 256 - mean) / std, "not to 256"),
        (lambda x, mean, std: (x // 255 - mean) / std, "rounded to whole numbers"),
        (
            lambda x, mean, std: (x / 255 - (x / 255).mean()) / (x / 255).std(),
            "measures the mean of the images",
        ),
        (lambda x, mean, std: 2 * (x / 255) - 1, "between -1 and 1"),
        (lambda x, mean, std: (x.double() / 255 - mean) / std, "of type torch.float64"),
        (lambda x, mean, std: ((x / 255 - mean) / std).numpy(), "of type ndarray"),
        (lambda x, mean, std: ((x / 255 - mean) / std).flatten()[:1], "shape .* is expected"),
        (lambda x, mean, std: None, "returns nothing"),
        (lambda x, mean, std: "floats", "expected numbers"),
        (lambda x, mean, std: torch.zeros(x.shape), "is not right yet"),
    ],
    "epoch_order": [
        (lambda n, seed, epoch: None, "returns nothing"),
        (lambda n, seed, epoch: list(range(n)), "returns a list: expected a vector"),
        (lambda n, seed, epoch: torch.rand(n), "expected a vector of integers"),
        (lambda n, seed, epoch: torch.arange(n), "in the order of the file"),
        (_blocks, "Neighbours in the file stay neighbours"),
        (_with_replacement, "deal them out like cards"),
        (lambda n, seed, epoch: torch.arange(1, n + 1), "deal them out like cards"),
        (lambda n, seed, epoch: torch.randperm(n - 1), "every image, once"),
        (_order(lambda s, e: 1000 * s + e, touch=True), "global random state"),
        (lambda n, seed, epoch: torch.randperm(n), "global random state"),
        (_order(None, carried=torch.Generator()), "give two orders"),
        (_order(lambda s, e: s), "what is `epoch` for"),
        (_order(lambda s, e: e), "what is `seed` for"),
        (_order(lambda s, e: s + e), "`seed=0, epoch=1` and `seed=1, epoch=0`"),
        (_order(lambda s, e: (s + 1) * (e + 1)), "`seed=0, epoch=1` and `seed=1, epoch=0`"),
        (_order(lambda s, e: 2 * s + e), "no two pairs give the same number"),
        (_order(lambda s, e: 10 * s + e), "how far apart must two seeds be"),
        (_order(lambda s, e: 100 * s + e), "how far apart must two seeds be"),
        (_order(lambda s, e: int(f"{s}{e}")), "no two pairs|how far apart"),
    ],
    "stratified_split": [
        (lambda y, share, seed: None, "returns nothing"),
        (lambda y, share, seed: torch.arange(len(y)), "expected two tensors of positions"),
        (lambda y, share, seed: (y > 2, y <= 2), "expected a vector of positions"),
        (_labels, "in both parts|more than once"),
        (_overlapping, "are in both parts"),
        (_plain_random, "split class by class"),
        (_split(swap=True), "swapped"),
        (_split(lose=1), "in neither part"),
        (_split(n_of=lambda y, share, c: 5), "whether it is frequent or rare"),
        (_split(n_of=lambda y, share, c: round(share * c) + 1), "for a share of"),
        (_split(shuffle=False), "the first images of each class"),
        (_split(shuffle=False, end=True), "the last images of each class"),
        (_split(use_seed=False), "Another seed gives the same split"),
        (_split(half=True), "from one half of the file"),
        (_unseeded, "Two calls with the same seed"),
    ],
    "shift": [
        (_each(lambda image, d, r: torch.roll(image, (d, r), (1, 2))), "comes back on the other"),
        (_windows(sign=1), "move the wrong way: when the window"),
        (_each(lambda image, d, r: torch.roll(image, (-d, -r), (1, 2))), "the wrong way, and"),
        (_windows(swap=True), "Down and right are mixed up"),
        (_windows(first=True), "move like the first"),
        (_windows(mode="replicate"), "copies of the last row"),
        (lambda x, down, right: x, "Nothing has moved"),
        (lambda x, down, right: _windows()(x, down, 0 * right), "what is `right` for"),
        (lambda x, down, right: _windows()(x, -down, right), "Up and down are mixed up"),
        (lambda x, down, right: _windows()(x, down, right).float(), "bytes should go out"),
        (lambda x, down, right: _windows()(x, down, right)[:, 0], "shape .* is expected"),
        (lambda x, down, right: torch.zeros_like(x), "is not right yet"),
        (lambda x, down, right: None, "returns nothing"),
    ],
    "wilson_interval": [
        (_plain_interval, "for 0 errors it has no width"),
        (lambda e, n: _plain_interval(e, n, clip=True), "cut off at 0 and 1"),
        (lambda e, n: _wilson()(e, n)[::-1], "ends are swapped"),
        (lambda e, n: 100 * np.array(_wilson()(e, n)), "per cent"),
        (lambda e, n: n * np.array(_wilson()(e, n)), "numbers of errors"),
        (_wilson(rate=lambda e, n: 1 - e / n), "the share that is right"),
        (_wilson(around=True), "centred on the measured rate"),
        (_wilson(z=1), "z is 1.96"),
        (_wilson(z=1.96**2), "wider interval"),
        (lambda e, n: np.array(_wilson()(e, n)) * (1 + 1.96**2 / n), "first bracket"),
        (lambda e, n: _wilson()(e, n)[1], "shape .* is expected"),
        (lambda e, n: (0.0, 0.0076), "is not right yet"),
        (lambda e, n: None, "returns nothing"),
    ],
}


def test_a_right_answer_by_another_way_passes():
    check.normalise(lambda x, mean, std: x.float().sub(255 * mean).div(255 * std))
    check.epoch_order(_order(lambda s, e: 100_000 * s + e))
    check.epoch_order(_order(lambda s, e: hash((s, e)) % 2**60))
    check.shift(_each(check._moved))
    check.wilson_interval(lambda e, n: np.roots(_quadratic(e, n))[::-1])


def _quadratic(errors, n, z=1.959964):
    p = errors / n
    return [1 + z**2 / n, -(2 * p + z**2 / n), p**2]


def test_hard_coded_answers_fail():
    """Inputs are drawn afresh: what was right for one call is not for the next."""
    seen = {}

    def remember(solution):
        def student(*inputs):
            return seen.setdefault(len(inputs), solution(*inputs))

        return student

    for name in ("normalise", "shift", "wilson_interval"):
        seen.clear()
        with pytest.raises(AssertionError):
            getattr(check, name)(remember(answers(CHAPTER, cut=False)[name]))


def test_a_student_cannot_spoil_the_inputs():
    def student(x, down, right):
        moved = _windows()(x, down, right)
        x.zero_()
        return moved

    check.shift(student)


def test_the_students_random_state_is_left_alone():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    for name in EXERCISES:
        getattr(check, name)(answers(CHAPTER, cut=False)[name])
    assert torch.equal(torch.random.get_rng_state(), before)
