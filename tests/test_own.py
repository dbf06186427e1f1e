"""The questions whose numbers come from a name: each text asks for what is computed."""

import re
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from lab_answers import answers
from scipy import stats
from scipy.special import rel_entr, xlogy
from set_address import ROOT
from torch.nn import functional as F

from distill_lib.checks import own
from distill_lib.models import CNN
from distill_lib.objectives import soft_target_loss

LABS = sorted(path.stem for path in (ROOT / "labs").glob("*.ipynb"))
NAMES = [f"student {i}" for i in range(8)]


def shares(text, k):
    """The probabilities in a text, in rows of k."""
    return np.array([float(Fraction(f)) for f in re.findall(r"\d+/\d+", text)]).reshape(-1, k)


def lists(text):
    return [np.array(eval(found)) for found in re.findall(r"\[\[.*?\]\]|\[[^\[\]]+\]", text)]


def numbers(text):
    return [float(n) for n in re.findall(r"(?<![\w(])\d+(?:\.\d+)?(?![\w)])", text)]


def solution(stem, name):
    return answers(stem, cut=False)[name]


def h(p):
    return -xlogy(p, p).sum(axis=-1)


def samples(table):
    return (np.repeat(index.ravel(), table.ravel()) for index in np.indices(table.shape))


def bound(text):
    p, q = shares(text, 3)[:2], shares(text, 3)[2:]
    return h(p.mean(axis=0)) + (p * np.log(q)).sum(axis=1).mean()


def parameters(text):
    a, b, hidden = map(int, re.findall(r"\d+", text))
    return sum(p.numel() for p in CNN(channels=(a, b), hidden=hidden).parameters()) / 1000


def loss(text):
    v, z = (torch.tensor(row)[None].double() for row in lists(text))
    tau, alpha = (float(n) for n in re.findall(r"[τα] = ([\d.]+\d|\d)", text))
    hard = F.cross_entropy(z, torch.tensor([0]))
    return float((1 - alpha) * hard + alpha * soft_target_loss(z, v, tau))


def width(text):
    a, b = lists(text)
    low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
    return high - low


def per_prediction(text):
    b, t, k = (int(n) for n in re.search(r"\((\d+), (\d+), (\d+)\)", text).groups())
    z, v = torch.randn(2, b, t, k).log_softmax(dim=-1)
    reduction = re.search(r"reduction='(\w+)'", text)[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch, too, warns of 'mean'
        value = F.kl_div(z, v, reduction=reduction, log_target=True)
    factor = (v.exp() * (v - z)).sum(dim=-1).mean() / value
    return float(re.search(r"is ([\d.]+\d)\.", text)[1]) * float(factor)


def js(text):
    p, q = shares(text, 4)
    m = (p + q) / 2
    return (rel_entr(p, m).sum() + rel_entr(q, m).sum()) / 2


def cosines(text):
    s, t = (
        F.cosine_similarity(x[[0, 0, 1]], x[[1, 2, 2]]) for x in map(torch.tensor, floats(text))
    )
    return 1000 * float((s - t).square().mean())


def floats(text):
    return [row.astype(float) for row in lists(text)]


def gap(text):
    k, epsilon = (
        int(re.search(r"(\d+) classes", text)[1]),
        float(re.search(r"ε = ([\d.]+)", text)[1]),
    )
    return np.log(1 - epsilon) - np.log(epsilon / (k - 1))


def drawn(text):
    p, losses = shares(text, 3)[0], lists(text)[0]
    return p @ losses**2 - (p @ losses) ** 2


def sixth(text):
    """The mean of five, and how far a sixth lies from it: variances of independent runs add up."""
    errors = lists(text)[0]
    variance = np.var(errors, ddof=1) / 5 + np.var(errors, ddof=1)
    return stats.t.interval(0.95, df=4, loc=errors.mean(), scale=variance**0.5)[1]


RIGHT = {  # computed from the text alone, and where there is one with the chapter's solution
    "01-entropy": lambda t: solution("01-entropy", "perplexity")(shares(t, 5)[0]),
    "02-kl-divergence": lambda t: rel_entr(*shares(t, 4)).sum(),
    "03-mutual-information": lambda t: solution("03-mutual-information", "information_in_bits")(
        lists(t)[0]
    ),
    "04-estimating-mutual-information": lambda t: solution(
        "04-estimating-mutual-information", "corrected"
    )(*samples(lists(t)[0])),
    "05-what-distillation-maximises": bound,
    "06-data": lambda t: (
        100 * solution("06-data", "wilson_interval")(*map(int, re.findall(r"\d+", t)[:2]))[1]
    ),
    "07-teacher": parameters,
    "08-distiller": loss,
    "09-student": width,
    "10-did-it-work": lambda t: stats.binomtest(*_discordant(t)).pvalue,
    "11-common-mistakes": per_prediction,
    "12-three-objectives": js,
    "13-feature-distillers": lambda t: np.log(np.sqrt(lists(t)[0] / lists(t)[1])).sum(),
    "14-structural-distillers": cosines,
    "15-students-teaching-students": gap,
    "16-why-it-works": drawn,
    "17-comparison": lambda t: 100 * np.sort(solution("17-comparison", "adjusted")(lists(t)[0]))[2],
    "18-hinton-2015": sixth,
}


def _discordant(text):
    _, a, b = (int(n) for n in re.findall(r"\d+", text)[:3])
    return a, a + b


def test_every_lab_has_a_question():
    assert set(LABS) <= set(own._QUESTIONS) == set(RIGHT)


@pytest.mark.parametrize("lab", RIGHT)
def test_the_text_asks_for_what_is_computed(lab, capsys):
    for name in NAMES:
        own.ask(lab, name, seed=3)
        text = capsys.readouterr().out
        right = own.answers(lab, [name], seed=3)[name]
        assert right == pytest.approx(float(RIGHT[lab](text)), rel=1e-4), text


@pytest.mark.parametrize("lab", RIGHT)
def test_name_and_seed_change_the_numbers_and_nothing_else(lab, capsys):
    def ask(name, seed):
        own.ask(lab, name, seed)
        return capsys.readouterr().out

    assert ask("Student 1 ", 3) == ask("student 1", 3)
    texts = {ask(name, seed) for name in NAMES for seed in (3, 4)}
    assert len(texts) == 2 * len(NAMES)
    assert len({len(text.split()) for text in texts}) == 1, "the wording is the same"
    first, second = (own.answers(lab, NAMES, seed) for seed in (3, 4))
    assert first != second and len({round(answer, 3) for answer in first.values()}) >= 6


@pytest.mark.parametrize("lab", RIGHT)
def test_a_right_number_passes_and_others_do_not(lab, capsys):
    answers_ = own.answers(lab, NAMES, seed=3)
    own.check(lab, NAMES[0], float(f"{answers_[NAMES[0]]:.4g}"), seed=3)
    assert capsys.readouterr().out == f"✓ {lab}, the question of {NAMES[0]}\n"
    other = max(answers_.values(), key=lambda answer: abs(answer - answers_[NAMES[0]]))
    with pytest.raises(AssertionError, match="not right yet"):
        own.check(lab, NAMES[0], other + 0.1, seed=3)
    with pytest.raises(AssertionError, match="seed 4"):
        own.check(lab, NAMES[0], answers_[NAMES[0]] * 1.1 + 0.1, seed=4)


@pytest.mark.parametrize("lab", RIGHT)
def test_right_to_three_digits_and_no_less(lab):
    names = [f"student {i}" for i in range(40)]
    for name, right in own.answers(lab, names).items():
        assert abs(right) >= own.SMALLEST
        own.check(lab, name, float(f"{right:.3g}"))
        with pytest.raises(AssertionError, match="not right yet"):
            own.check(lab, name, 1.02 * right)


def test_a_unit_is_named_only_where_one_is_asked_for():
    right = own.answers("18-hinton-2015", ["student 1"])["student 1"]
    with pytest.raises(AssertionError, match="not right yet"):
        own.check("18-hinton-2015", "student 1", right * np.log(2))


def test_a_wrong_unit_is_named():
    right = own.answers("03-mutual-information", ["student 1"])["student 1"]
    with pytest.raises(AssertionError, match="right in nats"):
        own.check("03-mutual-information", "student 1", right * np.log(2))
    right = own.answers("02-kl-divergence", ["student 1"])["student 1"]
    with pytest.raises(AssertionError, match="right in bits"):
        own.check("02-kl-divergence", "student 1", right / np.log(2))


def test_the_numbers_are_the_same_on_every_machine():
    assert own.answers("01-entropy", ["student 17"], 2027)["student 17"] == pytest.approx(4.60005)


def test_the_guides_example_runs(capsys):
    guide = (ROOT / "chapters" / "for-instructors.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", guide, re.S)
    exec(example, {})
    assert "✓ 02-kl-divergence" in capsys.readouterr().out


def test_an_unknown_lab_is_named():
    with pytest.raises(ValueError, match=r"lab is '1'.*01-entropy"):
        own.ask("1", "student 1")
