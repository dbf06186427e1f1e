"""Checkers for the exercises of the chapter on the data."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill_lib.checks import Function, attempt, compare, passed


def normalise(student: Function) -> None:
    """Exercise 1: normalised floats from bytes."""
    ends = torch.tensor([[0, 255], [51, 204]], dtype=torch.uint8)
    cases = [
        (ends, 0.25, 0.5),
        (_random_bytes(3, 1, 4, 5), 0.1307, 0.3081),
        (_random_bytes(7), 0.4, 0.2),
    ]

    def scaled(x: Tensor) -> Tensor:
        return x.double() / 255

    result = attempt(student, ends.clone(), 0.25, 0.5)
    _compare(
        student,
        lambda x, mean, std: (scaled(x) - mean) / std,
        cases,
        {
            "The pixels are still between 0 and 255: `mean` and `std` are those of pixels between "
            "0 and 1.": lambda x, mean, std: (x.double() - mean) / std,
            "The pixels are scaled, but not yet normalised: use `mean` and `std`.": (
                lambda x, mean, std: scaled(x)
            ),
            "Only the mean is taken away: what is `std` for?": (
                lambda x, mean, std: scaled(x) - mean
            ),
            "Mind the brackets: the difference is divided, and not the mean alone.": (
                lambda x, mean, std: scaled(x) - mean / std
            ),
            "This divides by the variance: `std` is the standard deviation.": (
                lambda x, mean, std: (scaled(x) - mean) / std**2
            ),
            "This multiplies by `std`: which size should the numbers have in the end?": (
                lambda x, mean, std: (scaled(x) - mean) * std
            ),
            "A byte goes up to 255, not to 256.": (
                lambda x, mean, std: (x.double() / 256 - mean) / std
            ),
            "The pixels were rounded to whole numbers on the way: `//` and integer types lose the "
            "greys.": lambda x, mean, std: ((x // 255).double() - mean) / std,
            "This measures the mean of the images it is given. The training set's numbers, which "
            "are passed in, are to serve for every image.": (
                lambda x, mean, std: (scaled(x) - scaled(x).mean()) / scaled(x).std()
            ),
            "Here too the images' own mean is measured: use the numbers that are passed in.": (
                lambda x, mean, std: (scaled(x) - scaled(x).mean()) / std
            ),
            "These numbers lie between -1 and 1, whatever `mean` and `std` are.": (
                lambda x, mean, std: 2 * scaled(x) - 1
            ),
        },
        hint="Scale to [0, 1], subtract the mean, divide by the standard deviation.",
    )
    if not isinstance(result, Tensor) or result.dtype != torch.float32:
        kind = result.dtype if isinstance(result, Tensor) else type(result).__name__
        raise AssertionError(f"The numbers are right, but of type {kind}: return torch.float32.")
    passed("normalise: bytes in, numbers of size one out")


def epoch_order(student: Function) -> None:
    """Exercise 2: a shuffled order that depends on seed and epoch alone."""
    random = np.random.default_rng()
    n = int(random.integers(200, 400))
    seed, epoch = (int(i) for i in random.integers(3, 900, size=2))
    state = torch.random.get_rng_state()
    try:
        order = _order(student, n, seed, epoch)
        if not torch.equal(torch.random.get_rng_state(), state):
            raise AssertionError(
                "The global random state has changed: the network's dropout would now depend on "
                "how the images were shuffled. Draw from a `torch.Generator` of your own."
            )
        torch.rand(3)  # somebody else draws a number in between
        again = _order(student, n, seed, epoch)
    finally:
        torch.random.set_rng_state(state)
    if not torch.equal(order, again):
        raise AssertionError(
            f"Two calls with n={n}, seed={seed}, epoch={epoch} give two orders: what else does the "
            "order depend on?"
        )
    if torch.equal(order, torch.arange(n)):
        raise AssertionError("The positions come in the order of the file: shuffle them.")
    steps = (order[1:] - order[:-1]).abs()
    if (steps == 1).float().mean() > 0.3:
        raise AssertionError(
            "Neighbours in the file stay neighbours: shuffle the images one by one, not in blocks."
        )

    def same(a: tuple[int, int], b: tuple[int, int]) -> bool:
        return torch.equal(_order(student, n, *a), _order(student, n, *b))

    if same((seed, epoch), (seed, epoch + 1)):
        raise AssertionError("Two epochs have the same order: what is `epoch` for?")
    if same((seed, epoch), (seed + 1, epoch)):
        raise AssertionError("Two seeds have the same order: what is `seed` for?")
    if same((0, 1), (1, 0)):
        raise AssertionError(
            "`seed=0, epoch=1` and `seed=1, epoch=0` have the same order: combine the two so that "
            "no two pairs give the same number."
        )
    for a, b in (((0, 1), (1, 0)), ((2, 3), (3, 2)), ((2, 6), (3, 4)), ((0, 5), (0, 7))):
        if same(a, b):
            raise AssertionError(
                f"seed, epoch = {a[0]}, {a[1]} and {b[0]}, {b[1]} have the same order: combine the "
                "two so that no two pairs give the same number."
            )
    for a, b in (((0, 10), (1, 0)), ((0, 100), (1, 0)), ((1, 11), (11, 1)), ((0, 999), (1, 0))):
        if same(a, b):
            raise AssertionError(
                f"seed, epoch = {a[0]}, {a[1]} and {b[0]}, {b[1]} have the same order: epochs go "
                "up to 999, so how far apart must two seeds be?"
            )
    passed("epoch_order: shuffled, and the same tomorrow")


def _order(student: Function, n: int, seed: int, epoch: int) -> Tensor:
    """The student's order, if it is one."""
    result = attempt(student, n, seed, epoch)
    if result is None:
        raise AssertionError("epoch_order returns nothing: is there a `return`?")
    if not isinstance(result, Tensor) or result.is_floating_point() or result.ndim != 1:
        raise AssertionError(
            f"epoch_order returns {_describe(result)}: expected a vector of integers."
        )
    if len(result) != n:
        raise AssertionError(
            f"epoch_order returns {len(result)} positions, for n={n}: every image, once."
        )
    if not torch.equal(result.sort().values, torch.arange(n)):
        seen = int(torch.isin(torch.arange(n), result).sum())
        raise AssertionError(
            f"Of {n} images {seen} are visited: deal them out like cards, each once."
        )
    return result


def stratified_split(student: Function) -> None:
    """Exercise 3: a random split that keeps every class's share."""
    random = np.random.default_rng()
    counts = [int(c) for c in random.permutation([10, 30, 100, 160, 240])]
    y = torch.from_numpy(random.permutation(np.repeat(np.arange(5), counts)))
    share = float(random.choice([0.1, 0.2, 0.3]))
    for seed in (1, 2, 3):
        train, validation = _parts(student, y, share, seed)
        _check_partition(train, validation, len(y))
        _check_shares(y, train, validation, share)

    again, other = (_parts(student, y, share, seed)[1].sort().values for seed in (3, 4))
    if not torch.equal(again, validation.sort().values):
        raise AssertionError("Two calls with the same seed give two splits: use the seed.")
    place = torch.empty(len(y))  # of each image within its class: from 0, the first, to 1
    for k, c in enumerate(counts):
        place[y == k] = torch.arange(c) / c
    for part, name in ((place < share, "first"), (place >= 1 - share - 1e-6, "last")):
        if torch.equal(again, part.nonzero()[:, 0]):
            raise AssertionError(
                f"Validation has the {name} images of each class: draw them at random, since the "
                "order of a file may mean something."
            )
    if torch.equal(other, again):
        raise AssertionError("Another seed gives the same split: use the seed.")
    largest = again[y[again] == int(np.argmax(counts))]
    if (place[largest] < 0.5).all() or (place[largest] >= 0.5).all():
        raise AssertionError(
            "The validation images of a class all come from one half of the file: shuffle the "
            "whole class before you cut."
        )
    passed("stratified_split: every class in its share")


def _check_partition(train: Tensor, validation: Tensor, n: int) -> None:
    """Every position is in one of the two parts, once."""
    both = torch.cat([train, validation])
    if both.numel() and (both.min() < 0 or both.max() >= n):
        raise AssertionError("Some positions are outside the data set: return positions in `y`.")
    shared = len(np.intersect1d(train.numpy(), validation.numpy()))
    if shared:
        raise AssertionError(
            f"{shared} images are in both parts: what a network has been trained on can't judge it."
        )
    if len(both.unique()) < len(both):
        raise AssertionError("Some images are in one part more than once.")
    if len(both) < n:
        raise AssertionError(f"{n - len(both)} of {n} images are in neither part.")


def _check_shares(y: Tensor, train: Tensor, validation: Tensor, share: float) -> None:
    """Each class has its share of the validation images."""
    counts = torch.bincount(y).tolist()
    expected = [round(share * c) for c in counts]
    got = torch.bincount(y[validation], minlength=5).tolist()
    if got == expected:
        return
    if torch.bincount(y[train], minlength=5).tolist() == expected:
        raise AssertionError("The two parts are swapped: return the training part first.")
    if len(set(got)) == 1:
        raise AssertionError(
            f"Every class has {got[0]} validation images, whether it is frequent or rare: its "
            "share of its own images is asked for."
        )
    if sum(got) == sum(expected):
        raise AssertionError(
            f"The validation set has the right size, but its classes have {got} images and not "
            f"{expected}: split class by class."
        )
    raise AssertionError(
        f"The classes have {got} validation images; for a share of {share:g} of {counts} "
        f"expected {expected}."
    )


def _parts(student: Function, y: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """The student's two parts, if they are tensors of integers."""
    result = attempt(student, y.clone(), share, seed)
    if result is None:
        raise AssertionError("stratified_split returns nothing: is there a `return`?")
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise AssertionError(
            f"stratified_split returns {_describe(result)}: expected two tensors of positions."
        )
    for part in result:
        if not isinstance(part, Tensor) or part.ndim != 1 or part.dtype != torch.int64:
            raise AssertionError(
                f"stratified_split returns {_describe(part)} as one of its parts: expected a "
                "vector of positions (int64)."
            )
    return result[0], result[1]


def shift(student: Function) -> None:
    """Exercise 4: each image moved by its own number of pixels."""
    random = np.random.default_rng()
    dot = torch.zeros(2, 1, 5, 5, dtype=torch.uint8)
    dot[:, :, 2, 2] = 200
    cases = [(dot, torch.tensor([1, -1]), torch.tensor([2, 0]))]
    for shape, m in (((6, 1, 8, 8), 3), ((5, 2, 6, 9), 4)):
        moves = torch.from_numpy(random.integers(-m, m + 1, size=(2, shape[0])))
        moves[:, 0] = torch.tensor([m, -m])
        moves[:, 1] = torch.tensor([1, 2])
        cases.append((_random_bytes(*shape), moves[0], moves[1]))

    def every(move: Any) -> Function:
        def moved(x: Tensor, down: Tensor, right: Tensor) -> Tensor:
            pairs = zip(x, down.tolist(), right.tolist(), strict=True)
            return torch.stack([move(image, d, r) for image, d, r in pairs])

        return moved

    def first_for_all(x: Tensor, down: Tensor, right: Tensor) -> Tensor:
        return torch.stack([_moved(image, int(down[0]), int(right[0])) for image in x])

    def smeared(image: Tensor, d: int, r: int) -> Tensor:
        h, w = image.shape[-2:]
        i = (torch.arange(h) - d).clamp(0, h - 1)
        j = (torch.arange(w) - r).clamp(0, w - 1)
        return image[:, i][:, :, j]

    result = attempt(student, *(tensor.clone() for tensor in cases[0]))
    _compare(
        student,
        every(_moved),
        cases,
        {
            "What leaves on one side comes back on the other: fill with zeros.": every(
                lambda image, d, r: torch.roll(image, (d, r), (1, 2))
            ),
            "The images move the wrong way: when the window moves down, what is seen in it moves "
            "up.": every(lambda image, d, r: _moved(image, -d, -r)),
            "The images move the wrong way, and what leaves on one side comes back on the other.": (
                every(lambda image, d, r: torch.roll(image, (-d, -r), (1, 2)))
            ),
            "Down and right are mixed up: the third axis is the rows, the fourth the columns.": (
                every(lambda image, d, r: _moved(image, r, d))
            ),
            "Up and down are mixed up; right and left are right.": every(
                lambda image, d, r: _moved(image, -d, r)
            ),
            "Right and left are mixed up; up and down are right.": every(
                lambda image, d, r: _moved(image, d, -r)
            ),
            "All images move like the first: each has its own entry in `down` and `right`.": (
                first_for_all
            ),
            "The images move only down or up: what is `right` for?": every(
                lambda image, d, r: _moved(image, d, 0)
            ),
            "The images move only to the side: what is `down` for?": every(
                lambda image, d, r: _moved(image, 0, r)
            ),
            "The rim is filled with copies of the last row or column: fill with zeros.": every(
                smeared
            ),
            "Nothing has moved.": lambda x, down, right: x,
        },
        hint="In which window of the padded image does a digit stand `down` rows lower?",
    )
    if not isinstance(result, Tensor) or result.dtype != torch.uint8:
        kind = result.dtype if isinstance(result, Tensor) else type(result).__name__
        raise AssertionError(
            f"The images are right, but of type {kind}: bytes came in, and bytes should go out."
        )
    passed("shift: each image on its own way")


def _moved(image: Tensor, down: int, right: int) -> Tensor:
    """One image, (C, H, W), moved by copying what stays in the picture."""
    h, w = image.shape[-2:]
    out = torch.zeros_like(image)
    to_rows, to_columns = (
        slice(max(down, 0), h + min(down, 0)),
        slice(max(right, 0), w + min(right, 0)),
    )
    rows, columns = slice(max(-down, 0), h - max(down, 0)), slice(max(-right, 0), w - max(right, 0))
    out[:, to_rows, to_columns] = image[:, rows, columns]
    return out


def wilson_interval(student: Function) -> None:
    """Exercise 5: Wilson's interval for an error rate."""
    random = np.random.default_rng()
    n = int(random.integers(300, 3000))
    cases = [(0, 500), (2, 400), (100, 10_000), (int(random.integers(3, 60)), n), (n, n)]
    z = 1.96

    def wilson(errors: int, n: int, z: float = z) -> Any:
        p = errors / n
        centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
        return np.array([centre - half, centre + half])

    def plain(errors: int, n: int) -> Any:
        p = errors / n
        return p + np.array([-1, 1]) * z * np.sqrt(p * (1 - p) / n)

    def undivided(errors: int, n: int) -> Any:
        return wilson(errors, n) * (1 + z**2 / n)

    def around_rate(errors: int, n: int) -> Any:
        low, high = wilson(errors, n)
        return errors / n + np.array([-1, 1]) * (high - low) / 2

    def without_square(errors: int, n: int) -> Any:
        p = errors / n
        half = z * np.sqrt(p * (1 - p) / n) / (1 + z**2 / n)
        return (p + z**2 / (2 * n)) / (1 + z**2 / n) + np.array([-1, 1]) * half

    _compare(
        student,
        wilson,
        cases,
        {
            "This is the chapter's interval: for 0 errors it has no width. The true rate belongs "
            "under the root.": plain,
            "This is the chapter's interval, cut off at 0 and 1: for 0 errors it still has no "
            "width.": lambda errors, n: plain(errors, n).clip(0, 1),
            "The ends are swapped: the lower one comes first.": (
                lambda errors, n: wilson(errors, n)[::-1]
            ),
            "These are per cent: return rates between 0 and 1.": (
                lambda errors, n: 100 * wilson(errors, n)
            ),
            "These are numbers of errors: return rates between 0 and 1.": (
                lambda errors, n: n * wilson(errors, n)
            ),
            "This is the interval for the share that is right: the errors are asked for.": (
                lambda errors, n: wilson(n - errors, n)
            ),
            "The first bracket of the quadratic is missing in the division: see the second hint.": (
                undivided
            ),
            "The width is right, but the interval is centred on the measured rate: the centre of "
            "the two solutions is elsewhere.": around_rate,
            "One term is missing under the root: for 0 errors the lower end should come out as "
            "0.": without_square,
            "One standard error to each side covers only two thirds of the cases: z is 1.96.": (
                lambda errors, n: wilson(errors, n, 1.0)
            ),
            "This is a wider interval than asked for: z is 1.96.": (
                lambda errors, n: wilson(errors, n, 1.96**2)
            ),
        },
        hint="Bring everything to one side: which two values of p make both sides equal?",
    )
    passed("wilson_interval: no errors seen is not no errors made")


def _compare(
    student: Function,
    reference: Function,
    cases: Sequence[tuple[Any, ...]],
    mistakes: Mapping[str, Function],
    *,
    hint: str,
) -> None:
    """`compare`, for results in float32: they match within a part in 10,000."""
    results = [_as_numpy(attempt(student, *copy.deepcopy(case))) for case in cases]
    for function in (reference, *mistakes.values()):
        with np.errstate(all="ignore"):
            exact = [_as_numpy(function(*case)) for case in cases]
        if all(_close(result, right) for result, right in zip(results, exact, strict=True)):
            results = exact
            break
    remaining = iter(results)

    def replay(*case: Any) -> Any:
        return next(remaining)

    replay.__name__ = getattr(student, "__name__", "your function")
    compare(replay, reference, cases, mistakes, hint=hint)


def _close(result: Any, right: Any) -> bool:
    try:
        numbers = np.asarray(result, dtype=np.float64)
    except (TypeError, ValueError):
        return False
    return numbers.shape == np.shape(right) and np.allclose(
        numbers, right, rtol=1e-4, atol=1e-6 * np.abs(right).max(), equal_nan=True
    )


def _random_bytes(*shape: int) -> Tensor:
    """Random bytes with every value possible."""
    return torch.from_numpy(np.random.default_rng().integers(0, 256, size=shape, dtype=np.uint8))


def _as_numpy(result: Any) -> Any:
    return result.detach().cpu().numpy() if isinstance(result, Tensor) else result


def _describe(result: Any) -> str:
    if isinstance(result, Tensor):
        return f"a tensor of {result.dtype} and shape {tuple(result.shape)}"
    return f"a {type(result).__name__}"
