"""What the chapters share: the split of MNIST, and the teacher trained on it."""

from __future__ import annotations

from functools import partial

import torch

from distill_lib import __version__
from distill_lib.data import Images, cache_dir, jitter, load, split
from distill_lib.models import CNN
from distill_lib.training import Supervised, fit


def mnist() -> tuple[Images, Images, Images]:
    """MNIST for the book: 50,000 images to train on, 10,000 to choose by, 10,000 to test once.

    Returns
    -------
    train, validation, test : Images
        The first two are a fixed random split of MNIST's training set.
    """
    train, validation = split(load("MNIST", "train"), 10_000, seed=0)
    return train, validation, load("MNIST", "test")


def mnist_teacher(train: Images, *, seed: int = 0) -> CNN:
    """The book's teacher, as the chapter *The teacher* trains it: found in the cache, else trained.

    A `CNN` with dropout on jittered images, 8 epochs of AdamW: half a minute on two CPU cores.

    Parameters
    ----------
    train : Images
        The training part of `mnist`.
    seed : int
        Of the initial weights, the order, the jitter and the dropout.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        teacher = CNN()
    fit(
        Supervised(teacher),
        train,
        epochs=8,
        optimizer=partial(torch.optim.AdamW, lr=3e-3, fused=True),
        augment=jitter,
        seed=seed,
        checkpoint=cache_dir() / f"mnist-teacher-{__version__}-{train.x.device.type}-{seed}.pt",
    )
    return teacher.eval()
