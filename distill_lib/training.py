"""One training loop for the teacher, the student and the distiller; checkpoints; evaluation."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from distill_lib import analysis
from distill_lib._validate import whole_number
from distill_lib.checkpoints import History, describe, fingerprints, plain, resume, save_checkpoint
from distill_lib.data import Augment, Batch, Images
from distill_lib.objectives import check_logits, full_precision

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
Schedule = Callable[[float], float]

adamw: MakeOptimizer = partial(torch.optim.AdamW, lr=1e-3, fused=True)  # one kernel for all weights


class Learner(nn.Module):
    """What `fit` trains: a module that turns a batch into named losses.

    Its ``forward`` takes a `distill_lib.data.Batch` and returns the parts of the loss, each a
    scalar, weights included; `fit` minimises their sum over all parameters that require a
    gradient. `Supervised` and `distill_lib.distiller.Distiller` are learners; another one is
    another subclass.

    Attributes
    ----------
    student : nn.Module
        The network that learns, whoever teaches it. `fit` evaluates it on validation data.
    """

    student: nn.Module
    _checked: frozenset[str] = frozenset()

    def check_once(self, y: Tensor, **logits: Tensor) -> None:
        """`check_logits` for each name the first time it comes, since that waits for the device."""
        for name, z in logits.items():
            if name not in self._checked:
                check_logits(name, z, y)
                self._checked |= {name}


class Supervised(Learner):
    """Learns from the labels alone, by cross-entropy: a future teacher, or a student without one.

    Parameters
    ----------
    student : nn.Module
        From images to logits.
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The cross-entropy of one batch, under its name."""
        logits = full_precision(self.student(batch.x))
        self.check_once(batch.y, student=logits)
        return {"labels": F.cross_entropy(logits, batch.y)}


def one_cycle(progress: float, *, peak: float = 0.2) -> float:
    """Learning-rate factor: from 0 up to 1 at `peak`, then down to 0, both in straight lines.

    Parameters
    ----------
    progress : float
        The fraction of all steps that is done at the middle of this one, in (0, 1).

    References
    ----------
    Smith & Topin (2019), https://arxiv.org/abs/1708.07120
    """
    return progress / peak if progress < peak else (1 - progress) / (1 - peak)


def constant(progress: float) -> float:
    """Learning-rate factor 1 throughout."""
    return 1.0


def fit(
    learner: Learner,
    train: Images,
    *,
    epochs: int,
    batch_size: int = 256,
    optimizer: MakeOptimizer = adamw,
    schedule: Schedule = one_cycle,
    augment: Augment | None = None,
    validation: Images | None = None,
    precision: torch.dtype = torch.float32,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> History:
    """Train a learner: the one loop for teacher, student and distiller.

    The learner moves to the device of `train`. Order, augmentation and dropout of epoch e follow
    from `seed` and e alone, so a run that was cut off continues exactly as if it had not been;
    the caller's random state, of the CPU and of a CUDA device that trains, is left as it was. The
    device is not waited for from step to step, but once an epoch, and in the first step.

    Each epoch puts every module of the learner into training mode, and so it is left. To fine-tune
    with a batch norm at rest, give the network a ``train`` that puts that module back: after
    ``super().train(mode)``, ``self.norm.eval()``, and return ``self``.

    Parameters
    ----------
    learner : Learner
        `Supervised(network)`, a `Distiller`, or another one.
    train : Images
    epochs, batch_size : int
        The last batch of an epoch may be smaller.
    optimizer : callable
        From parameters to an optimizer: ``partial(torch.optim.SGD, lr=0.2, momentum=0.9)``.
    schedule : callable
        From the fraction of steps done to a factor on the learning rate.
    augment : callable, optional
        From uint8 images and a generator to uint8 images, such as `distill_lib.data.jitter`.
    validation : Images, optional
        `learner.student` is evaluated on it after each epoch; it has to be one network, not many.
    precision : torch.dtype
        ``torch.bfloat16`` runs the networks' matrix products in half precision (autocast), which
        many CPUs and GPUs do several times faster. Weights, losses and updates stay float32.
    seed : int
    checkpoint : path, optional
        Saved after each epoch, and kept whole whatever stops the run: an error, Ctrl-C, a kill.
        If the file is there, training continues from it; if it is complete, `fit` returns at once.
        It is refused by a run of other arguments, images, networks or losses; but what a function
        (`augment`, or one that a loss keeps) does inside, it can't know.
    progress : bool
        Show a progress bar.

    Returns
    -------
    list of dict, one an epoch
        ``loss`` and its named parts (means over the epoch, in their own units), ``seconds``, and
        with `validation` also ``validation_accuracy`` and ``validation_nll`` (nats).

    Raises
    ------
    FloatingPointError
        The loss is no longer finite: in which step, at which learning rate; or the weights are not,
        after an epoch. The checkpoint of the last good epoch is kept.
    OSError
        `checkpoint` can't be read or written.
    TypeError
        `learner` is a network; `optimizer` is not a callable but an optimizer; `augment` returns
        other than uint8 images.
    torch.OutOfMemoryError
        A batch does not fit; the message names a smaller one to try.
    ValueError
        A bad argument; a checkpoint that is unreadable, or of another run.
    """
    if not isinstance(learner, Learner):
        raise TypeError(
            f"learner: expected Supervised(network), a Distiller or another Learner, "
            f"got {type(learner).__name__}"
        )
    if isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError("optimizer: expected what makes one, like partial(torch.optim.SGD, lr=0.1)")
    _check_positive(epochs=epochs, batch_size=batch_size)
    epochs, batch_size, seed = int(epochs), int(batch_size), int(seed)  # NumPy's become Python's
    for name, images in (("train", train), ("validation", validation)):
        if images is not None and len(images) == 0:
            raise ValueError(f"{name}: expected at least one image, got none")
    if precision not in (torch.float32, torch.bfloat16):
        raise ValueError(
            f"precision: expected torch.float32 or torch.bfloat16 (float16 would need its losses "
            f"scaled), got {precision}"
        )
    half = precision is torch.bfloat16
    device = train.x.device
    learner.to(device)
    if validation is not None:
        try:  # an error now, not after the first epoch
            evaluate(learner.student, validation[:1])
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"validation: one student can't be evaluated on it: {error}"
            ) from error
    learner.train()
    parameters = [p for p in learner.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("learner: expected parameters that require a gradient, got none")
    opt = optimizer(parameters)
    base_lrs = [plain(group["lr"]) for group in opt.param_groups]
    steps_an_epoch = math.ceil(len(train) / batch_size)

    def factor(epoch: int, step: int) -> float:
        return schedule((epoch * steps_an_epoch + step + 0.5) / (epochs * steps_an_epoch))

    history: History = []
    run = {
        "learner": describe(learner),
        "optimizer": f"{type(opt).__name__}, lr {base_lrs}",
        "epochs": epochs,
        "batch_size": batch_size,
        "schedule": [schedule(fraction) for fraction in (0.1, 0.5, 0.9)],
        "augmented": augment is not None,
        "validated": validation is not None,
        "precision": str(precision),
        "n_train": len(train),
        "seed": seed,
    }
    if checkpoint is not None:
        run |= fingerprints(learner, train, validation)
        checkpoint = Path(checkpoint)
        if checkpoint.exists():
            history = resume(checkpoint, run, learner, opt)
        if len(history) < epochs:  # an error now, not after the first epoch
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=checkpoint.parent).close()

    bar = tqdm(
        total=epochs * steps_an_epoch,
        initial=len(history) * steps_an_epoch,
        desc="fit",
        unit="step",
        leave=False,
        disable=not progress,
    )
    cuda_devices = [device] if device.type == "cuda" else []
    with bar, torch.random.fork_rng(cuda_devices):
        for epoch in range(len(history), epochs):
            started = time.perf_counter()
            generator = torch.Generator(device).manual_seed(100_000 * seed + epoch)
            torch.manual_seed(100_000 * seed + epoch)  # dropout
            order = torch.randperm(len(train), generator=generator, device=device)
            names: list[str] = []
            parts_of_step: list[Tensor] = []  # stay on the device until the epoch ends
            learner.train()
            for step, index in enumerate(order.split(batch_size)):
                for group, lr in zip(opt.param_groups, base_lrs, strict=True):
                    group["lr"] = lr * factor(epoch, step)
                x, y = train.x.index_select(0, index), train.y.index_select(0, index)
                if augment is not None:
                    x = augment(x, generator)
                    if x.dtype != torch.uint8:
                        raise TypeError(
                            f"augment: expected it to return uint8 images, got {x.dtype}"
                        )
                batch = Batch(train.floats(x), y, index, epoch, len(train), augment is not None)
                try:
                    with torch.autocast(device.type, precision, enabled=half):
                        named = learner(batch)
                    parts = torch.stack(list(named.values()))
                    if parts.ndim != 1 or (step and list(named) != names):
                        raise ValueError(
                            f"learner: expected the same scalars at each step of an epoch, got "
                            f"{list(named)} of shape {tuple(parts.shape[1:])} after {names}"
                        )
                    names = list(named)
                    if names != ["loss"] and (taken := _NOT_PARTS & named.keys()):
                        raise ValueError(
                            f"losses: {taken} is what fit reports itself: rename the loss"
                        )
                    opt.zero_grad()
                    parts.sum().backward()
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    raise torch.OutOfMemoryError(
                        f"batch_size: {batch_size} images at once do not fit into the memory of "
                        f"{device}: try {max(1, batch_size // 2)}"
                    ) from error
                opt.step()
                parts_of_step.append(parts.detach())
                bar.update()

            finite = torch.stack([p.detach().isfinite().all() for p in parameters]).all()
            losses = torch.stack(parts_of_step).cpu()  # (steps, parts): the one synchronisation
            good = losses.isfinite().all(dim=1)
            kept = f"; {checkpoint} holds the epoch before" if epoch and checkpoint else ""
            if not bool(good.all()):
                step = int(good.int().argmin())
                found = dict(zip(names, losses[step].tolist(), strict=True))
                lr = base_lrs[0] * factor(epoch, step)
                raise FloatingPointError(
                    f"loss is not finite in epoch {epoch}, step {step} of {steps_an_epoch}, at "
                    f"learning rate {lr:.3g} ({found}): lower the learning rate, or look for "
                    f"log(0) or a division by 0 in the part that is not finite{kept}"
                )
            if not bool(finite):
                raise FloatingPointError(
                    f"weights are not finite after epoch {epoch}: lower the learning rate{kept}"
                )
            sizes = torch.tensor([len(index) for index in order.split(batch_size)])
            means = (sizes.double() / len(train) @ losses.double()).tolist()
            entry = {"loss": sum(means), **dict(zip(names, means, strict=True))}
            if validation is not None:
                scores = evaluate(learner.student, validation)
                entry["validation_accuracy"] = scores["accuracy"]
                entry["validation_nll"] = scores["nll"]
            entry["seconds"] = time.perf_counter() - started
            history.append(entry)
            bar.set_postfix({k: f"{v:.4g}" for k, v in entry.items() if k != "seconds"})
            if checkpoint is not None:
                save_checkpoint(checkpoint, run, learner, opt, history)
    opt.zero_grad()  # the memory of the last gradients
    return history


_NOT_PARTS = {"loss", "seconds", "validation_accuracy", "validation_nll"}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the ``with`` block; every module goes back to the mode it had."""
    was_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in was_training:
            module.training = True


@torch.no_grad()
def predict(model: nn.Module, data: Images, *, batch_size: int = 2000) -> Tensor:
    """The model's logits on a whole set, in its order, in evaluation mode.

    The model moves to the device of `data`, and stays there; every module is left in the mode it
    was found in.

    Returns
    -------
    Tensor, shape (N, K)
        On the device of `data`.

    Raises
    ------
    ValueError
        `batch_size` is not a whole number, 1 or more.
    """
    _check_positive(batch_size=batch_size)
    with evaluating(model.to(data.x.device)):
        return torch.cat([model(data.floats(x)) for x in data.x.split(batch_size)])


def evaluate(model: nn.Module, data: Images, *, teacher: nn.Module | None = None) -> dict[str, Any]:
    """How good the model is on a set and, given a teacher, how faithful.

    Both networks move to the device of `data`, and stay there.

    Returns
    -------
    dict
        ``errors`` (a count), ``accuracy`` (a fraction), ``nll`` (nats a sample); with `teacher`
        also ``agreement`` (the fraction of equal top answers) and ``kl_to_teacher`` (nats).

    Raises
    ------
    ValueError
        An empty set; a network that returns NaN, or too few logits for the labels; with `teacher`,
        one that returns probabilities.
    """
    logits = predict(model, data)
    scores: dict[str, Any] = {
        "errors": analysis.error_count(logits, data.y),
        "accuracy": analysis.accuracy(logits, data.y),
        "nll": analysis.negative_log_likelihood(logits, data.y),
    }
    if teacher is not None:
        teacher_logits = predict(teacher, data)
        scores["agreement"] = analysis.agreement(logits, teacher_logits)
        scores["kl_to_teacher"] = analysis.kl_to_teacher(logits, teacher_logits)
    return scores


def is_out_of_memory(error: Exception) -> bool:
    """The CPU and MPS have no error of their own for it, only words."""
    words = ("out of memory", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(w in str(error) for w in words)


def _check_positive(**arguments: int) -> None:
    for name, value in arguments.items():
        whole_number(value, name, "1 or more" if value < 1 else "a whole number", 1)
