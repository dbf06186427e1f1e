"""What the chapter *Did it work?* writes out, and the library has under the same names."""

import nbformat
import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import minimize_scalar
from set_address import ROOT
from torch.nn import functional as F

from distill_lib import analysis, calibration

CHAPTER = ROOT / "chapters" / "10-did-it-work.ipynb"
DEFINING = [
    f"define-{name}" for name in ("mcnemar", "crossed", "power", "reliability", "temperature")
]


@pytest.fixture(scope="module")
def chapter():
    """The names that the chapter's defining cells make."""
    cells = {cell.id: cell.source for cell in nbformat.read(CHAPTER, as_version=4).cells}
    names = {"np": np, "stats": stats, "F": F, "minimize_scalar": minimize_scalar}
    for name in DEFINING:
        exec(cells[name], names)
    return names


def network(seed, n=600, k=10):
    """Logits that lean towards the labels, and the labels, which are the same for every seed."""
    y = torch.randint(0, k, (n,), generator=torch.Generator().manual_seed(0))
    noise = torch.randn(n, k, generator=torch.Generator().manual_seed(seed))
    return 3 * noise + 4 * F.one_hot(y, k), y


@pytest.mark.parametrize("seed", range(1, 6))
def test_mcnemar(chapter, seed):
    (a, y), (b, _) = network(seed), network(seed + 100)
    assert chapter["mcnemar"](a, b, y) == tuple(analysis.mcnemar(a, b, y))
    assert chapter["mcnemar"](a, a, y) == tuple(analysis.mcnemar(a, a, y)) == (0, 0, 1.0)


@pytest.mark.parametrize("seed", range(5))
def test_crossed_interval(chapter, seed):
    a, b = np.random.default_rng(seed).random((2, 6, 50)) < 0.2
    mean, half = chapter["crossed_interval"](a.astype(float) - b)
    assert np.allclose((mean, mean - half, mean + half), analysis.crossed_interval(a, b))


@pytest.mark.parametrize(("effect", "spread", "n"), [(10, 16, 12), (20, 16, 3), (5, 1, 40)])
def test_power(chapter, effect, spread, n):
    ours = chapter["paired_power"](effect, spread, n)
    assert np.isclose(ours, analysis.paired_power(effect, spread, n))
    pairs = chapter["pairs_needed"](effect, spread)
    assert analysis.paired_power(effect, spread, pairs) >= 0.8
    assert pairs == 2 or analysis.paired_power(effect, spread, pairs - 1) < 0.8


@pytest.mark.parametrize("n_bins", [1, 7, 15, 200])
def test_calibration(chapter, n_bins):
    logits, y = network(1)
    logits[0, 3] = 1000  # as sure as can be: the last bin has its upper end
    filled = calibration.reliability(logits, y, n_bins=n_bins)
    kept = filled.samples > 0
    for ours, library in zip(chapter["reliability"](logits, y, n_bins), filled, strict=True):
        assert np.allclose(ours, library[kept], atol=1e-6)
    library = calibration.expected_calibration_error(logits, y, n_bins=n_bins)
    assert np.isclose(chapter["ece"](logits, y, n_bins), library, atol=1e-6)


@pytest.mark.parametrize("scale", [0.3, 1, 4])
def test_temperature(chapter, scale):
    logits, y = network(2)
    ours = chapter["fit_temperature"](scale * logits, y)
    assert np.isclose(ours, calibration.fit_temperature(scale * logits, y), rtol=1e-4)
