"""What a network costs to run: operations, memory and time."""

from __future__ import annotations

import time
import weakref
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from distill_lib.data import Batch
from distill_lib.training import Learner, evaluating


@torch.no_grad()
def count_flops(model: nn.Module, x: Tensor) -> int:
    """The floating-point operations of one forward pass on `x`, by torch's own counter.

    A multiply-add counts as two. Matrix products and convolutions are counted; biases, ReLU and
    pooling, which cost little beside them, are not.

    Parameters
    ----------
    model : nn.Module
        It runs in evaluation mode, and is left in the mode it was found in.
    x : Tensor, shape (B, ...)
        A batch on the model's device.
    """
    with FlopCounterMode(display=False) as counter, evaluating(model):
        model(x)
    return int(counter.get_total_flops())


def weight_bytes(model: nn.Module) -> int:
    """The bytes of all parameters and buffers: what has to be stored and loaded."""
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))


@torch.no_grad()
def peak_activation_bytes(model: nn.Module, x: Tensor) -> int:
    """The most bytes that one forward pass on `x` holds at once beside the weights and `x`.

    Every tensor that is made counts until it is freed, as Python runs the model: the same number
    on every device. Scratch space within an operation does not count; on CUDA,
    ``torch.cuda.max_memory_allocated()`` has that too.
    """
    with _LiveBytes() as live, evaluating(model):
        model(x)
    return live.peak


def peak_step_bytes(learner: Learner, batch: Batch) -> int:
    """The most bytes that a training step holds at once beside the weights and the batch.

    Forward and backward pass, the gradients included; counted as `peak_activation_bytes` counts.
    The gradients of `learner` are set to None before and after.
    """
    learner.zero_grad(set_to_none=True)
    with _LiveBytes() as live:
        torch.stack(list(learner(batch).values())).sum().backward()
    learner.zero_grad(set_to_none=True)
    return live.peak


class Latency(NamedTuple):
    """Seconds a call: the median, the quartiles, and the CPU threads that torch was given."""

    median: float
    low: float
    high: float
    threads: int


@torch.no_grad()
def latency(model: nn.Module, x: Tensor, *, repeats: int = 50, warmup: int = 10) -> Latency:
    """How long a forward pass on `x` takes; ``len(x) / median`` is the throughput.

    The device is waited for before the clock starts and before it stops. The first calls, which
    choose algorithms and fill caches, are not timed.

    Parameters
    ----------
    x : Tensor, shape (B, ...)
        On the model's device: the way there is not timed.
    repeats, warmup : int
        Calls that are timed, and calls before them.

    Raises
    ------
    ValueError
        `repeats` below 1 or `warmup` below 0.
    """
    if repeats < 1 or warmup < 0:
        raise ValueError(f"repeats and warmup: expected ≥ 1 and ≥ 0, got {repeats} and {warmup}")

    def run() -> list[float]:
        for _ in range(warmup):
            model(x)
        seconds = []
        for _ in range(repeats):
            _synchronise(x.device)
            started = time.perf_counter()
            model(x)
            _synchronise(x.device)
            seconds.append(time.perf_counter() - started)
        return seconds

    with evaluating(model):
        low, median, high = np.percentile(run(), (25, 50, 75))
    return Latency(float(median), float(low), float(high), torch.get_num_threads())


class _LiveBytes(TorchDispatchMode):
    """Adds up the storages that operations make, until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if _is_tensor(t)}
        made = func(*args, **(kwargs or {}))
        for tensor in filter(_is_tensor, tree_leaves(made)):
            storage = tensor.untyped_storage()
            if id(storage) not in given and storage not in self._known:
                self._known.add(storage)
                weakref.finalize(storage, self._freed, storage.nbytes())
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
        return made

    def _freed(self, nbytes: int) -> None:
        self.live -= nbytes


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
