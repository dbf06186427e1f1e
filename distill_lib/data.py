"""Image sets as tensors that live on the device: loading, splitting, jitter, mini-batches.

MNIST travels with the package, so the first lesson needs no network. The pixels stay ``uint8``
on the device (47 MB for all of MNIST) and become normalised floats one mini-batch at a time.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from distill_lib._validate import whole_number
from distill_lib.mnist_files import BUNDLED, MNIST_MD5, read_idx, unpacked

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081

Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Batch:
    """One mini-batch as `distill_lib.training.fit` hands it to a learner.

    Attributes
    ----------
    x : Tensor, float, shape (B, C, H, W)
        Normalised images, augmented if `augmented` is true.
    y : Tensor, int64, shape (B,)
        Labels.
    index : Tensor, int64, shape (B,)
        Each sample's position in the data set: what cached teacher logits are looked up by.
    epoch : int
        Counted from 0.
    n_samples : int
        The size of the data set that `index` points into.
    augmented : bool
        Whether `x` differs from the images stored at `index`.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    epoch: int
    n_samples: int
    augmented: bool


@dataclass(frozen=True)
class Images:
    """A labelled image set, all of it on one device.

    Attributes
    ----------
    x : Tensor, uint8, shape (N, C, H, W)
    y : Tensor, int64, shape (N,)
    classes : tuple of str
        The name of each class.
    mean, std : float
        What `floats` subtracts and divides by, for pixels scaled to [0, 1].
    """

    x: Tensor
    y: Tensor
    classes: tuple[str, ...]
    mean: float
    std: float

    def __post_init__(self) -> None:
        if self.x.dtype != torch.uint8 or self.x.ndim != 4:
            raise ValueError(
                f"x: expected uint8 images of shape (N, C, H, W), "
                f"got {self.x.dtype} of shape {tuple(self.x.shape)}"
            )
        if self.y.dtype != torch.int64 or self.y.shape != self.x.shape[:1]:
            raise ValueError(
                f"y: expected {len(self.x)} int64 labels, one an image, "
                f"got {self.y.dtype} of shape {tuple(self.y.shape)}"
            )
        if len(self.y) and not 0 <= int(self.y.min()) <= int(self.y.max()) < len(self.classes):
            raise ValueError(
                f"y: expected labels from 0 to {len(self.classes) - 1}, one a class, got "
                f"{int(self.y.min())} to {int(self.y.max())}"
            )

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: Tensor | slice) -> Images:
        """The sub-set at `index`: positions, a boolean mask, or a slice."""
        return replace(self, x=self.x[index], y=self.y[index])

    def to(self, device: torch.device | str) -> Images:
        """The same set on another device."""
        return replace(self, x=self.x.to(device), y=self.y.to(device))

    def floats(self, x: Tensor) -> Tensor:
        """Normalise images of this set with values from 0 to 255, of any shape, to float32."""
        return x.to(torch.float32, copy=True).sub_(255 * self.mean).div_(255 * self.std)


def default_device() -> torch.device:
    """CUDA if there is one, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def cache_dir() -> Path:
    """Where downloads, checkpoints and trained networks are kept between runs.

    ``~/.cache/distill_lib``, or what the environment variable ``DISTILL_LIB_CACHE`` says.
    """
    path = Path(os.environ.get("DISTILL_LIB_CACHE") or "~/.cache/distill_lib").expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"cannot make the cache folder {path} ({error}): "
            f"set DISTILL_LIB_CACHE to a folder that you can write to"
        ) from error
    return path


def load(
    name: str,
    subset: str,
    *,
    root: str | Path | None = None,
    device: torch.device | str | None = None,
    mean: float | None = None,
    std: float | None = None,
    **options: Any,
) -> Images:
    """Load an image set onto the device.

    Parameters
    ----------
    name : str
        ``"MNIST"``, which is bundled, or any image data set of `torchvision.datasets` whose
        images have one size: ``"FashionMNIST"``, ``"KMNIST"``, ``"CIFAR10"``, ``"SVHN"``, …
    subset : {"train", "test"}
    root : path, optional
        Where torchvision finds, or puts, the files; by default a folder in `cache_dir`. For
        MNIST: a folder in torchvision's layout to read instead of the bundled files.
    device : optional
        By default `default_device`.
    mean, std : float, optional
        The normalisation of pixels scaled to [0, 1]. MNIST has its own; others map to [-1, 1].
    **options
        Passed on to torchvision, such as ``split="letters"`` for ``"EMNIST"``.

    Raises
    ------
    ValueError
        An unknown `name` or `subset`; a data file that is corrupt or cut short.
    FileNotFoundError
        A bundled file is missing; or the set is neither under `root` nor downloadable.
    """
    if subset not in ("train", "test"):
        raise ValueError(f"subset: expected 'train' or 'test', got {subset!r}")
    if name == "MNIST":
        if options:
            raise TypeError(f"load: MNIST has no options, got {options}")
        raw = (BUNDLED if root is None else Path(root)) / "MNIST" / "raw"
        prefix = "train" if subset == "train" else "t10k"
        x = read_idx(raw, f"{prefix}-images-idx3-ubyte", header=16).reshape(-1, 1, 28, 28)
        y = read_idx(raw, f"{prefix}-labels-idx1-ubyte", header=8).long()
        classes: tuple[str, ...] = tuple("0123456789")
        default_mean, default_std = MNIST_MEAN, MNIST_STD
    else:
        x, y, classes = _from_torchvision(name, subset, root, options)
        default_mean, default_std = 0.5, 0.5
    return Images(
        x,
        y,
        classes,
        mean=default_mean if mean is None else mean,
        std=default_std if std is None else std,
    ).to(default_device() if device is None else device)


def split(data: Images, n_validation: int, *, seed: int = 0) -> tuple[Images, Images]:
    """Split a training set at random into a smaller training set and a validation set.

    Every choice (temperature, weights, epochs) is made on the validation set, so that the test
    set can be read once.

    Returns
    -------
    train, validation : Images
        `len(data) - n_validation` and `n_validation` images. The same `seed` gives the same
        split on every device.

    Raises
    ------
    ValueError
        `n_validation` is not a whole number, or would leave one part empty.
    """
    last = len(data) - 1
    whole_number(n_validation, "n_validation", f"1 to {last} of {len(data)} images", 1, last)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    order = order.to(data.y.device)
    return data[order[n_validation:]], data[order[:n_validation]]


def jitter(x: Tensor, generator: torch.Generator, *, max_shift: int = 2) -> Tensor:
    """Shift each image at random by up to `max_shift` pixels along each axis, filling with zeros.

    The jitter of Hinton, Vinyals & Dean (2015), section 3, for a whole batch in one indexing step.

    Parameters
    ----------
    x : Tensor, shape (B, C, H, W)
    generator : torch.Generator
        On the device of `x`.

    Raises
    ------
    ValueError
        A negative `max_shift`.
    """
    if max_shift < 0:
        raise ValueError(f"max_shift: expected 0 or more pixels, got {max_shift}")
    b, _, h, w = x.shape
    # Every placement of the image in its padded self, as a view: (B, C, down, right, H, W).
    placements = F.pad(x, (max_shift,) * 4).unfold(2, h, 1).unfold(3, w, 1)
    down, right = torch.randint(0, 2 * max_shift + 1, (2, b), generator=generator, device=x.device)
    return placements[torch.arange(b, device=x.device), :, down, right]


def torchvision_root() -> Path:
    """A folder from which `torchvision.datasets.MNIST` reads the bundled files.

    Unpacks them into `cache_dir` once, since torchvision does not read them compressed.
    """
    root = cache_dir() / "datasets"
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name, md5 in MNIST_MD5.items():
        path = raw / name
        if not path.exists() or hashlib.md5(path.read_bytes()).hexdigest() != md5:
            unfinished = path.with_suffix(f".{os.getpid()}.part")
            unfinished.write_bytes(unpacked(BUNDLED / "MNIST" / "raw", name))
            os.replace(unfinished, path)
    return root


def _from_torchvision(
    name: str, subset: str, root: str | Path | None, options: dict[str, Any]
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Any torchvision image set as (uint8 images, labels, class names); local copies come first."""
    from torchvision import datasets  # takes a second to import, and MNIST does without

    make = getattr(datasets, name, None)
    if make is None or name not in datasets.__all__:
        raise ValueError(
            f"name: {name!r} is no data set of torchvision.datasets; "
            f"expected 'MNIST', 'FashionMNIST', 'KMNIST', 'CIFAR10', …"
        )
    folder = cache_dir() / "datasets" if root is None else Path(root)
    parameters = inspect.signature(make).parameters
    by_name = "split" in parameters and "split" not in options  # EMNIST has a split besides
    which = {"split": subset} if by_name else {"train": subset == "train"}
    try:
        try:
            dataset = make(folder, download=False, **which, **options)
        except RuntimeError:  # torchvision's word for "not found"
            dataset = make(folder, download=True, **which, **options)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"{name} is not under {folder} and could not be downloaded ({error}): run this once "
            f"with a network, or copy torchvision's files of {name} there, or pass root="
        ) from error

    samples = [dataset[i] for i in tqdm(range(len(dataset)), desc=f"reading {name}", leave=False)]
    shapes = {np.asarray(image).shape for image, _ in samples}
    if len(shapes) > 1:
        raise ValueError(
            f"name: the images of {name} come in {len(shapes)} sizes, expected one: "
            f"pass transform= to torchvision through load(…, transform=…) to resize them"
        )
    x = torch.from_numpy(np.stack([np.asarray(image) for image, _ in samples]))
    x = x.unsqueeze(1) if x.ndim == 3 else x.permute(0, 3, 1, 2).contiguous()
    y = torch.tensor([int(label) for _, label in samples])
    names = getattr(dataset, "classes", None) or [str(k) for k in range(int(y.max()) + 1)]
    return x, y, tuple(map(str, names))
