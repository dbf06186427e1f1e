"""Each checker passes the solution, and tells a beginner which mistake it was."""

import math

import torch
from checking import *  # noqa: F403
from torch.nn import functional as F

from distill_lib.checks import features as check

CHAPTER = "13-feature-distillers"
EXERCISES = (
    "layer_output",
    "attention_map",
    "channel_nats",
    "without_false_negatives",
    "best_regressor",
)
FEWEST = 6  # messages for an exercise


# ---- typical mistakes: what a student wrote, and what the message says


def _reader(*, remove=True, always=False, layer=None, give=lambda found, logits: found[0]):
    """A student's way to read a layer, right but for what is passed."""

    def layer_output(network, name, x):
        found = []
        module = network.get_submodule(layer or name)
        handle = module.register_forward_hook(lambda m, i, output: found.append(output))
        try:
            logits = network(x)
        except Exception:
            if always:
                handle.remove()
            raise
        if remove:
            handle.remove()
        return give(found, logits)

    return layer_output


def _sweeps_all(network, name, x):
    found = []
    layer = network.get_submodule(name)
    layer.register_forward_hook(lambda m, i, output: found.append(output))
    try:
        network(x)
    finally:
        layer._forward_hooks.clear()
    return found[0]


def _swallows(network, name, x):
    found = []
    hook = network.get_submodule(name).register_forward_hook(lambda m, i, o: found.append(o))
    try:
        network(x)
    except Exception:
        pass
    finally:
        hook.remove()
    return found[0]


def _calls_it(network, name, x):
    layer = network.get_submodule(name)
    return layer(x if x.shape[1] == layer.in_features else x.repeat(1, 2)[:, : layer.in_features])


def _wraps_the_error(network, name, x):
    try:
        return _reader(always=True)(network, name, x)
    except RuntimeError:
        raise ValueError("something went wrong") from None


def _energy(a, p):
    return a.abs().pow(p).sum(1).flatten(1)


def _nats(t, g, *, axes=(0, 2, 3), correction=0):
    return ((t.var(axes, correction=correction) / (t - g).square().mean(axes)).log()) / 2


def _cosines(s, t, tau):
    return F.normalize(s, dim=1) @ F.normalize(t, dim=1).T / tau


def _masked(scores, y, value=-math.inf):
    return scores.masked_fill((y[:, None] == y).fill_diagonal_(False), value)


def _pick(scores, **options):
    return F.cross_entropy(scores, torch.arange(len(scores)), **options)


def _contrast(s, t, y, tau):
    return _pick(_masked(_cosines(s, t, tau), y))


def _denominator_detached(s, t, y, tau):
    scores = _masked(_cosines(s, t, tau), y)
    return (scores.logsumexp(1).detach() - scores.diag()).mean()


def _supervised(s, t, y, tau):
    same = (y[:, None] == y).double()
    return -(_cosines(s, t, tau).log_softmax(1) * same / same.sum(1, keepdim=True)).sum(1).mean()


def _table(maps):
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def _solve(s, t, *, table=_table, ones=True):
    s, t = table(s), table(t)
    if not ones:
        return torch.linalg.lstsq(s, t).solution.T, torch.zeros(t.shape[1]).double()
    found = torch.linalg.lstsq(torch.cat([s, torch.ones(len(s), 1).double()], 1), t).solution
    return found[:-1].T, found[-1]


MISTAKES = {
    "layer_output": [
        (lambda network, name, x: None, "returns nothing: is there a `return`"),
        (_reader(always=True, give=lambda found, logits: found), "returns a list: expected"),
        (_reader(always=True, give=lambda found, logits: logits), "at its end"),
        (_reader(always=True, layer="last"), "output of 'last'|at its end"),
        (_reader(remove=False), "1 hook of yours is still there"),
        (_reader(), "the hook stays behind"),
        (_sweeps_all, "belonged to somebody else"),
        (_swallows, "kept quiet about it"),
        (_calls_it, "does not get x itself"),
        (_wraps_the_error, "stop with another one, ValueError"),
    ],
    "attention_map": [
        (_energy, "length is not 1 yet"),
        (lambda a, p: _energy(a, p) / _energy(a, p).sum(1, keepdim=True), "sum of the map"),
        (lambda a, p: _energy(a, p) / _energy(a, p).max(1, keepdim=True)[0], "largest place"),
        (lambda a, p: F.normalize(_energy(a, p)).view(len(a), *a.shape[2:]), "still a square"),
        (lambda a, p: F.normalize(_energy(a, p), dim=0), "over the batch"),
        (lambda a, p: _energy(a, p) / _energy(a, p).norm(), "divided by one length"),
        (lambda a, p: F.normalize(a.pow(p).sum(1).flatten(1)), "absolute value"),
        (lambda a, p: F.normalize(a.sum(1).abs().pow(p).flatten(1)), "sum comes first"),
        (lambda a, p: F.normalize(_energy(a, 2)), "whatever `p` says"),
        (lambda a, p: F.normalize(a.abs().pow(p).sum((2, 3))), "places were added up"),
        (lambda a, p: F.normalize(a.abs().pow(p).flatten(1)), "map of its own"),
        (lambda a, p: F.normalize(_energy(a, p).pow(1 / p)), "p-th root"),
        (lambda a, p: torch.ones(len(a), a[0, 0].numel()), "is not right yet"),
    ],
    "channel_nats": [
        (lambda t, g: 2 * _nats(t, g), "half is missing"),
        (lambda t, g: -_nats(t, g), "sign is wrong"),
        (lambda t, g: _nats(t, g).mean(), "One number came back: each"),
        (lambda t, g: _nats(t, g).sum(), "A sum came back"),
        (lambda t, g: (t.var(correction=0) / (t - g).square().mean()).log() / 2, "thrown together"),
        (lambda t, g: _nats(t, g, correction=1), "divides by n − 1"),
        (
            lambda t, g: (t.square().mean((0, 2, 3)) / (t - g).square().mean((0, 2, 3))).log() / 2,
            "constant guess is the mean",
        ),
        (
            lambda t, g: _nats(t, g) + (g.var((0, 2, 3)) / t.var((0, 2, 3))).log() / 2,
            "variance of the .prediction. stands above",
        ),
        (
            lambda t, g: (
                (t.var((0, 2, 3), correction=0) / (t - g).var((0, 2, 3), correction=0)).log() / 2
            ),
            "mean of the residual was taken off",
        ),
        (lambda t, g: _nats(t, g) / math.log(2), "These are bits"),
        (lambda t, g: 1 - (-2 * _nats(t, g)).exp(), "share of the variance"),
        (lambda t, g: _nats(t, g, axes=0).mean((1, 2)), "places were kept apart"),
        (lambda t, g: torch.zeros(t.shape[1]), "is not right yet"),
    ],
    "without_false_negatives": [
        (lambda s, t, y, tau: _pick(_cosines(s, t, tau)), "plain contrastive loss"),
        (
            lambda s, t, y, tau: _pick(_cosines(s, t, tau).masked_fill(y[:, None] == y, -math.inf)),
            "right answer was left out",
        ),
        (lambda s, t, y, tau: _pick(_masked(_cosines(s, t, tau), y, 0)), "score of 0"),
        (
            lambda s, t, y, tau: _pick(_cosines(s, t, tau).masked_fill(y[:, None] != y, -math.inf)),
            "classes that were left out",
        ),
        (_supervised, "count as right answers"),
        (lambda s, t, y, tau: _pick(_masked(s @ t.T / tau, y)), "no cosines"),
        (lambda s, t, y, tau: _contrast(s, t, y, 1.0), "temperature is missing"),
        (lambda s, t, y, tau: _contrast(s, t, y, 1 / tau), "multiplied by the temperature"),
        (
            lambda s, t, y, tau: _pick(_masked(_cosines(s, t, tau), y), reduction="sum"),
            "sum over the batch",
        ),
        (
            lambda s, t, y, tau: _pick(_masked(_cosines(s, t, tau), y), reduction="none"),
            "One number an image",
        ),
        (lambda s, t, y, tau: -_contrast(s, t, y, tau), "sign is wrong"),
        (lambda s, t, y, tau: _contrast(t, s, y, tau), "looks for its student"),
        (lambda s, t, y, tau: _contrast(s, t, y, tau).detach(), "no gradient reaches"),
        (lambda s, t, y, tau: _contrast(s.detach(), t, y, tau), "no gradient reaches"),
        (_denominator_detached, "its gradient is not"),
        (lambda s, t, y, tau: 1.0, "is not right yet.* It returns 1.0"),
    ],
    "best_regressor": [
        (lambda s, t: None, "returns nothing: is there a `return`"),
        (lambda s, t: _solve(s, t)[0], "returns a Tensor: expected two tensors"),
        (lambda s, t: (_solve(s, t)[0].T, _solve(s, t)[1]), "student's channels first"),
        (lambda s, t: _solve(t, s), "the student as a regression on the teacher"),
        (lambda s, t: (_solve(s, t)[0], torch.zeros(1)), r"have shapes .* and \(1,\)"),
        (lambda s, t: _solve(s, t, ones=False), "constants are all 0"),
        (lambda s, t: (_solve(s, t)[0], t.mean((0, 2, 3))), "the teacher's means"),
        (lambda s, t: _solve(s, t, table=lambda m: m.reshape(-1, m.shape[1])), "mixed up"),
        (lambda s, t: _solve(s, t, table=lambda m: m.mean((2, 3))), "means of each image"),
        (
            lambda s, t: (torch.zeros(t.shape[1], s.shape[1]), torch.zeros(t.shape[1])),
            "is not right yet",
        ),
    ],
}


def test_a_right_answer_by_another_way_passes():
    check.layer_output(_reader(always=True))
    check.attention_map(lambda a, p: (lambda q: q / q.norm(dim=1, keepdim=True))(_energy(a, p)))

    def by_deviations(t, g):
        deviations = (t.movedim(1, 0).flatten(1).std(1, correction=0), (t - g).movedim(1, 0))
        return (deviations[0] / deviations[1].flatten(1).square().mean(1).sqrt()).log()

    def by_sums(s, t, y, tau):
        e = _cosines(s, t, tau).exp()
        losses = []
        for i in range(len(y)):
            others = sum(e[i, j] for j in range(len(y)) if y[j] != y[i])
            losses.append((1 + others / e[i, i]).log())
        return torch.stack(losses).mean()

    def by_covariance(s, t):
        s, t = _table(s), _table(t)
        a, b = s - s.mean(0), t - t.mean(0)
        weights = torch.linalg.solve(a.T @ a, a.T @ b).T
        return weights, t.mean(0) - weights @ s.mean(0)

    check.channel_nats(by_deviations)
    check.without_false_negatives(by_sums)
    check.best_regressor(by_covariance)
    check.best_regressor(lambda s, t: list(_solve(s, t)))


def test_inputs_are_drawn_afresh():
    """So that answers learnt by heart fail."""
    seen = []

    def student(t, g):
        seen.append(t.clone())
        return _nats(t, g)

    check.channel_nats(student)
    check.channel_nats(student)
    half = len(seen) // 2
    assert not any(torch.equal(a, b) for a, b in zip(seen[:half], seen[half:], strict=True))


def test_a_student_cannot_spoil_the_inputs():
    def spoils(solution):
        def student(*inputs):
            right = solution(*inputs)
            inputs[0].detach().zero_()
            return right

        return student

    check.attention_map(spoils(lambda a, p: F.normalize(_energy(a, p))))
    check.best_regressor(spoils(_solve))
