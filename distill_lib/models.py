"""The book's networks: ordinary modules that map images to logits.

Their layers have names (``conv1``, ``fc2``), so that a distiller can read any of them.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MLP(nn.Module):
    """A fully connected network with ReLU: ``MLP(784, 800, 800, 10)`` has two hidden layers.

    Parameters
    ----------
    *sizes : int
        Inputs, hidden units of each layer, classes.
    dropout : float
        The probability that a hidden unit is *dropped* in training (not that it is kept).

    Raises
    ------
    ValueError
        Fewer than two sizes.

    Notes
    -----
    ``forward``: images, shape (B, C, H, W) with C·H·W = ``sizes[0]`` → logits, shape (B, K).
    """

    def __init__(self, *sizes: int, dropout: float = 0.0) -> None:
        super().__init__()
        if len(sizes) < 2:
            raise ValueError(f"sizes: expected at least inputs and classes, got {sizes}")
        self.layers = nn.Sequential(nn.Flatten())
        for i, (n_in, n_out) in enumerate(pairwise(sizes), start=1):
            if i > 1:
                self.layers.add_module(f"relu{i - 1}", nn.ReLU())
                if dropout:
                    self.layers.add_module(f"dropout{i - 1}", nn.Dropout(dropout))
            self.layers.add_module(f"fc{i}", nn.Linear(n_in, n_out))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class PooledDropout(nn.Dropout):
    """Dropout whose masks are slices of one pool of random numbers, which is drawn once an epoch.

    `torch.nn.Dropout` draws a number for every unit of every image, which on a CPU is a good part
    of the time that a fully connected network takes. A slice that starts at a random place takes
    next to none. But within an epoch masks overlap, as they would not if each were drawn.

    Parameters
    ----------
    p : float
        The probability that a unit is dropped.
    pool_size : int
        How many numbers are drawn; more than a batch has units.
    """

    def __init__(self, p: float, *, pool_size: int = 2**24) -> None:
        super().__init__(p)
        if p == 1:
            raise ValueError("p: expected less than 1, got 1: nothing would be kept")
        self.pool_size = pool_size
        self._pool: Tensor | None = None

    def train(self, mode: bool = True) -> Self:
        """Set the mode; the next batch draws a new pool. `fit` calls this at each epoch's start."""
        self._pool = None
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        if self._pool is None:
            kept = torch.rand(self.pool_size, device=x.device) >= self.p
            self._pool = kept.to(x.dtype) / (1 - self.p)
        if x.numel() >= self.pool_size:
            raise ValueError(
                f"pool_size: expected more than the {x.numel()} units of a batch, "
                f"got {self.pool_size}"
            )
        start = int(torch.randint(self.pool_size - x.numel(), ()))
        return x * self._pool[start : start + x.numel()].view_as(x)


class CNN(nn.Module):
    """Two convolutions and two fully connected layers: the book's teacher, 80,202 parameters.

    Parameters
    ----------
    channels : (int, int)
        Of the two 5×5 convolutions; a 2×2 maximum and a ReLU follow each.
    hidden : int
        Units between the convolutions and the logits.
    dropout : float
        The probability that an input of either fully connected layer is dropped in training.
    in_channels, image_size, n_classes : int
        1, 28 and 10 for MNIST; 3, 32 and 10 for CIFAR-10.

    Raises
    ------
    ValueError
        Images smaller than 16 by 16.

    Notes
    -----
    ``forward``: images, shape (B, in_channels, H, W) → logits, shape (B, n_classes). The maximum
    is taken before the ReLU, which gives the same numbers from a quarter of the work.
    """

    def __init__(
        self,
        channels: tuple[int, int] = (16, 32),
        hidden: int = 128,
        *,
        dropout: float = 0.4,
        in_channels: int = 1,
        image_size: int = 28,
        n_classes: int = 10,
    ) -> None:
        super().__init__()
        side = ((image_size - 4) // 2 - 4) // 2
        if side < 1:
            raise ValueError(f"image_size: expected 16 or more, got {image_size}")
        self.conv1 = nn.Conv2d(in_channels, channels[0], kernel_size=5)
        self.conv2 = nn.Conv2d(channels[0], channels[1], kernel_size=5)
        self.fc1 = nn.Linear(channels[1] * side * side, hidden)
        self.fc2 = nn.Linear(hidden, n_classes)
        self.dropout = nn.Dropout(dropout)
        self.to(memory_format=torch.channels_last)  # twice as fast on a CPU, and no slower on a GPU

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        x = self.dropout(x.flatten(1))
        x = self.dropout(F.relu(self.fc1(x)))
        return self.fc2(x)


def count_parameters(model: nn.Module) -> int:
    """How many parameters the model has, frozen ones too."""
    return sum(p.numel() for p in model.parameters())
