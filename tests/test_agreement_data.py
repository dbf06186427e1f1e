"""What the chapter on the data writes out is what the library does."""

import gzip

import matplotlib as mpl
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from lab_answers import answers, cells
from scipy.stats import binomtest

from distill_lib import data
from distill_lib.data import Images
from distill_lib.mnist_files import BUNDLED, MNIST_MD5
from distill_lib.mnist_files import read_idx as library_read_idx

CHAPTER = "06-data"
DEFINING = ("define-read-idx", "define-jitter-loop", "define-jitter", "define-split")
IMPORTS = "import numpy as np\nimport torch\nfrom torch.nn import functional as F\n"


@pytest.fixture(scope="module")
def chapter():
    namespace = {}
    exec(IMPORTS, namespace)
    for name in DEFINING:
        source = cells(CHAPTER)[name].source.partition("\n\n\ndef accuracy_of_means")[0]
        exec(compile(source, name, "exec"), namespace)
    source = cells(CHAPTER)["normalisation"].source  # the definition alone
    exec(source[source.index("def floats") : source.index("ends = ")], namespace)
    return namespace


def images(n, h=28, w=28, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (n, 1, h, w), generator=g, dtype=torch.uint8)
    return Images(x, torch.arange(n) % 10, tuple("0123456789"), mean=0.1307, std=0.3081)


@pytest.mark.parametrize("name", MNIST_MD5)
def test_read_idx_reads_mnist(chapter, name):
    raw = BUNDLED / "MNIST" / "raw"
    array = chapter["read_idx"](gzip.decompress((raw / f"{name}.gz").read_bytes()))
    header = 4 + 4 * array.ndim
    assert np.array_equal(array.ravel(), library_read_idx(raw, name, header=header).numpy())


@given(arrays.arrays(np.uint8, arrays.array_shapes(max_dims=4, max_side=6)))
@settings(deadline=None, max_examples=40)
def test_read_idx_reads_any_array(array):
    namespace = {"np": np}
    exec(cells(CHAPTER)["define-read-idx"].source, namespace)
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">i4").tobytes()
    assert np.array_equal(namespace["read_idx"](header + array.tobytes()), array)


def test_read_idx_refuses_another_file(chapter):
    with pytest.raises(AssertionError, match="not an IDX file"):
        chapter["read_idx"](b"\x89PNG and so on")


def test_floats(chapter):
    sample = images(50)
    torch.testing.assert_close(
        chapter["floats"](sample.x), sample.floats(sample.x), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("max_shift", [0, 1, 2, 5])
def test_jitter_is_the_librarys_and_the_loops(chapter, seed, max_shift):
    x = images(40, 9, 7, seed).x.expand(-1, 3, -1, -1)

    def fresh():
        return torch.Generator().manual_seed(seed)

    ours = chapter["jitter"](x, fresh(), max_shift=max_shift)
    assert torch.equal(ours, data.jitter(x, fresh(), max_shift=max_shift))
    down, right = torch.randint(0, 2 * max_shift + 1, (2, len(x)), generator=fresh())
    assert torch.equal(ours, chapter["jitter_one_by_one"](x, down, right, max_shift))
    assert torch.equal(ours, x) is (max_shift == 0)


@given(n_validation=st.integers(1, 39), seed=st.integers(0, 2**40))
@settings(deadline=None, max_examples=25)
def test_split_is_the_librarys(chapter, n_validation, seed):
    sample = images(40)
    ours = chapter["split"](sample, n_validation, seed=seed)
    theirs = data.split(sample, n_validation, seed=seed)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.x, b.x) and torch.equal(a.y, b.y)


@given(n=st.integers(1, 5000), share=st.floats(0, 1))
@settings(deadline=None, max_examples=50)
def test_the_solutions_interval_is_wilsons(n, share):
    with mpl.rc_context():
        interval = answers(CHAPTER, cut=False)["wilson_interval"]
    errors = round(share * n)
    theirs = binomtest(errors, n).proportion_ci(method="wilson")
    np.testing.assert_allclose(interval(errors, n), theirs, atol=2e-5)
