"""MNIST is what it says it is, bad files are named, and jitter shifts as the paper says."""

import gzip
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_lib.data import (
    Images,
    cache_dir,
    default_device,
    jitter,
    load,
    split,
    torchvision_root,
)
from distill_lib.mnist_files import BUNDLED as ROOT
from distill_lib.mnist_files import MNIST_MD5

BUNDLED = ROOT / "MNIST" / "raw"


@pytest.fixture
def copy_of_mnist(tmp_path):
    shutil.copytree(BUNDLED, tmp_path / "MNIST" / "raw")
    return tmp_path


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --- MNIST -------------------------------------------------------------------------------------


def test_mnist_has_its_published_size_and_normalisation():
    train, test = load("MNIST", "train", device="cpu"), load("MNIST", "test", device="cpu")
    assert train.x.shape == (60_000, 1, 28, 28)
    assert test.x.shape == (10_000, 1, 28, 28)
    assert train.classes == tuple("0123456789")
    # class counts as published; the 1,010 threes of the test set are Hinton et al.'s
    assert torch.bincount(train.y).tolist()[:3] == [5923, 6742, 5958]
    assert int((test.y == 3).sum()) == 1010
    pixels = train.x.double() / 255
    assert float(pixels.mean()) == pytest.approx(train.mean, abs=5e-5)
    assert float(pixels.std()) == pytest.approx(train.std, abs=5e-5)


def test_floats_normalises_by_mean_and_std():
    train = load("MNIST", "test", device="cpu")
    x = train.x[:100]
    np.testing.assert_allclose(
        train.floats(x).numpy(), (x.numpy() / 255 - train.mean) / train.std, atol=1e-6
    )
    assert x.dtype == torch.uint8  # not changed in place


def test_default_device_is_used():
    assert load("MNIST", "test").x.device.type == default_device().type


def test_torchvision_reads_the_bundled_files(tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    monkeypatch.setenv("DISTILL_LIB_CACHE", str(tmp_path))
    theirs = MNIST(torchvision_root(), train=False)
    ours = load("MNIST", "test", device="cpu")
    assert torch.equal(theirs.data, ours.x[:, 0])
    assert torch.equal(theirs.targets, ours.y)
    # a file that was damaged meanwhile is put right by the next call
    damaged = tmp_path / "datasets" / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    damaged.write_bytes(b"nonsense")
    assert torch.equal(MNIST(torchvision_root(), train=False).targets, ours.y)


def test_a_copy_in_torchvisions_layout_is_read_packed_or_not(copy_of_mnist):
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        packed = copy_of_mnist / "MNIST" / "raw" / f"{name}.gz"
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    assert len(load("MNIST", "test", root=copy_of_mnist)) == 10_000


def truncate(path):
    path.write_bytes(path.read_bytes()[:1000])


def flip_a_pixel(path):
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[5000] ^= 1
    path.write_bytes(gzip.compress(bytes(content)))


def not_gzip(path):
    path.write_bytes(b"<html>404 not found</html>")


@pytest.mark.parametrize("damage", [truncate, flip_a_pixel, not_gzip])
@pytest.mark.parametrize("name", ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_damaged_file_is_named_with_the_cure(copy_of_mnist, damage, name):
    damage(copy_of_mnist / "MNIST" / "raw" / f"{name}.gz")
    with pytest.raises(ValueError, match=rf"{name}\.gz is corrupt.*reinstall"):
        load("MNIST", "test", root=copy_of_mnist)


def test_a_missing_file_is_named_with_the_cure(copy_of_mnist):
    (copy_of_mnist / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"ubyte\.gz is missing: leave root out") as error:
        load("MNIST", "test", root=copy_of_mnist)
    assert "reinstall" not in str(error.value), "the package is not at fault"


def test_the_checksums_are_those_of_the_originals():
    assert MNIST_MD5["train-images-idx3-ubyte"] == "6bbc9ace898e44ae57da46a324031adb"
    assert len({path.name for path in BUNDLED.glob("*.gz")}) == 4


# --- other sets through torchvision ------------------------------------------------------------


def write_mnist_like(root, name):
    """FashionMNIST and KMNIST share MNIST's file names: a local copy of one, made of MNIST."""
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    for file in MNIST_MD5:
        (raw / file).write_bytes(gzip.decompress((BUNDLED / f"{file}.gz").read_bytes()))


def test_a_local_copy_of_another_set_is_read(tmp_path):
    write_mnist_like(tmp_path, "FashionMNIST")
    fashion = load("FashionMNIST", "test", root=tmp_path, device="cpu")
    assert torch.equal(fashion.x, load("MNIST", "test", device="cpu").x)
    assert fashion.classes[0] == "T-shirt/top"
    assert (fashion.mean, fashion.std) == (0.5, 0.5)
    assert load("FashionMNIST", "test", root=tmp_path, mean=0.3, std=0.4).std == 0.4


class _Set:
    """A stand-in with torchvision's interface for sets that take `split` and give colour."""

    sizes = ((4, 6),) * 3

    def __init__(self, root, split="train", transform=None, download=False):
        self.root, self.split = root, split

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, i):
        h, w = self.sizes[i]
        return np.full((h, w, 3), 10 * i, dtype=np.uint8), i


class _SetOfManySizes(_Set):
    sizes = ((4, 6), (5, 6))


def test_colour_sets_become_channels_first(tmp_path, monkeypatch):
    from torchvision import datasets

    monkeypatch.setattr(datasets, "SVHN", _Set)
    data = load("SVHN", "test", root=tmp_path, device="cpu")
    assert data.x.shape == (3, 3, 4, 6)
    assert data.classes == ("0", "1", "2")
    assert data.x[2].unique().tolist() == [20]


def test_images_of_many_sizes_are_refused(tmp_path, monkeypatch):
    from torchvision import datasets

    monkeypatch.setattr(datasets, "SVHN", _SetOfManySizes)
    with pytest.raises(ValueError, match=r"name: the images of SVHN come in 2 sizes"):
        load("SVHN", "test", root=tmp_path)


def test_emnists_own_split_goes_beside_the_subset(tmp_path, monkeypatch):
    """torchvision's EMNIST takes both, and hides one of them in its signature."""
    from torchvision import datasets

    def no_network(self):
        asked.append((self.split, self.train))
        raise OSError("no route to host")

    asked = []
    monkeypatch.setattr(datasets.EMNIST, "download", no_network)
    with pytest.raises(FileNotFoundError, match="EMNIST is not under"):
        load("EMNIST", "test", root=tmp_path, split="letters")
    assert asked == [("letters", False)]


def test_mnist_refuses_options_that_it_would_ignore():
    with pytest.raises(TypeError, match=r"MNIST has no options, got {'split': 'letters'}"):
        load("MNIST", "test", split="letters")


def test_floats_leaves_its_argument_alone():
    data = load("MNIST", "test", device="cpu")[:2]
    pixels = data.x.float()
    assert torch.equal(data.floats(pixels), data.floats(data.x))
    assert torch.equal(pixels, data.x.float())


def test_neither_network_nor_copy_says_what_to_do(tmp_path, monkeypatch):
    from torchvision import datasets

    def no_network(self):
        raise OSError("no route to host")

    monkeypatch.setattr(datasets.KMNIST, "download", no_network)
    with pytest.raises(FileNotFoundError, match=r"KMNIST is not under .* run this once"):
        load("KMNIST", "train", root=tmp_path)


@pytest.mark.parametrize(
    ("name", "subset", "message"),
    [
        ("MNIST", "validation", r"subset: expected 'train' or 'test', got 'validation'"),
        ("NoSuchSet", "train", r"name: 'NoSuchSet' is no data set"),
        ("ImageFolder2", "train", r"name: 'ImageFolder2' is no data set"),
    ],
)
def test_bad_names(name, subset, message):
    with pytest.raises(ValueError, match=message):
        load(name, subset)


def test_the_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_LIB_CACHE", str(tmp_path / "a" / "b"))
    assert cache_dir() == tmp_path / "a" / "b"
    assert cache_dir().is_dir()
    monkeypatch.setenv("DISTILL_LIB_CACHE", "")  # said, and left empty
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "distill_lib"
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DISTILL_LIB_CACHE", str(tmp_path / "file" / "c"))
    with pytest.raises(OSError, match=r"set DISTILL_LIB_CACHE"):
        cache_dir()


# --- Images, split, jitter ---------------------------------------------------------------------


def small(n=20):
    x = torch.arange(n * 16, dtype=torch.int64).remainder(256).to(torch.uint8).reshape(n, 1, 4, 4)
    return Images(x, torch.arange(n), tuple(map(str, range(n))), 0.5, 0.5)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64), r"x: expected uint8"),
        (torch.zeros(3, 2, 2, dtype=torch.uint8), torch.zeros(3).long(), r"x: expected uint8"),
        (torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(3), r"y: expected 3 int64"),
        (torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(2).long(), r"y: expected 3 int64"),
        (torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.arange(3), r"from 0 to 0, .*got 0 to 2"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.tensor([-1]), r"got -1 to -1"),
    ],
)
def test_images_refuses_other_shapes_and_types(x, y, message):
    with pytest.raises(ValueError, match=message):
        Images(x, y, ("0",), 0.5, 0.5)


def test_sub_sets_by_position_mask_and_slice():
    data = small()
    for index in (torch.tensor([0, 2]), torch.arange(20).remainder(2) == 0, slice(3)):
        assert torch.equal(data[index].x, data.x[index])
        assert torch.equal(data[index].y, data.y[index])


@given(n_validation=st.integers(1, 19), seed=st.integers(0, 2**40))
@settings(deadline=None, max_examples=30)
def test_split_parts_the_set(n_validation, seed):
    train, validation = split(small(), n_validation, seed=seed)
    assert len(validation) == n_validation
    assert sorted(train.y.tolist() + validation.y.tolist()) == list(range(20))
    again, _ = split(small(), n_validation, seed=seed)
    assert torch.equal(again.y, train.y)


def test_split_shuffles_and_depends_on_the_seed():
    splits = [split(small(), 10, seed=seed)[1].y.tolist() for seed in range(3)]
    assert len({tuple(s) for s in splits}) == 3


@pytest.mark.parametrize("n", [0, 20, -1, 0.1, 10.0])
def test_split_refuses_an_empty_part(n):
    with pytest.raises(ValueError, match=r"n_validation: expected 1 to 19"):
        split(small(), n)


def test_jitter_shifts_each_image_as_a_whole():
    x = torch.zeros(400, 2, 9, 9, dtype=torch.uint8)
    x[:, 0, 4, 4], x[:, 1, 4, 4] = 7, 9
    moved = jitter(x, generator(), max_shift=2)
    assert moved.shape == x.shape
    assert moved.dtype == torch.uint8
    where = (moved[:, 0] == 7).nonzero()[:, 1:] - 4
    assert len(where) == 400  # the pixel is in every image, once
    assert torch.equal((moved[:, 1] == 9).nonzero()[:, 1:] - 4, where)  # channels move together
    assert {tuple(s) for s in where.tolist()} == {
        (i, j) for i in range(-2, 3) for j in range(-2, 3)
    }


def test_jitter_fills_with_zeros_and_keeps_its_input():
    x = torch.full((200, 1, 4, 4), 255, dtype=torch.uint8)
    moved = jitter(x, generator(), max_shift=3)
    assert int(moved.min()) == 0
    assert int(x.min()) == 255


def test_jitter_of_zero_pixels_is_the_identity_and_negative_is_refused():
    x = small().x
    assert torch.equal(jitter(x, generator(), max_shift=0), x)
    with pytest.raises(ValueError, match=r"max_shift: expected 0 or more pixels, got -1"):
        jitter(x, generator(), max_shift=-1)
