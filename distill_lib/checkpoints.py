"""Checkpoints: written whole or not at all, and refused when they are of another run."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from distill_lib.data import Images

History = list[dict[str, float]]


def save_checkpoint(
    path: Path,
    run: dict[str, Any],
    learner: nn.Module,
    opt: torch.optim.Optimizer,
    history: History,
) -> None:
    """Write a checkpoint under a temporary name, then rename it: never half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")  # another process may save, too
    content = {"run": run, "optimizer": opt.state_dict(), "history": history}
    content = tree_map(plain, content) | {"learner": learner.state_dict()}
    try:
        with open(unfinished, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)  # after an error: renamed, it is no longer there


def plain(value: Any) -> Any:
    """A number of NumPy as Python's own, since a checkpoint with one could not be read again."""
    return value.item() if isinstance(value, np.generic) else value


def describe(module: nn.Module) -> str:
    """How a module is printed, without places in memory, which the next process does not have."""
    return re.sub(" at 0x[0-9a-fA-F]+", "", repr(module))


def fingerprints(learner: nn.Module, train: Images, validation: Images | None) -> dict[str, Any]:
    """Numbers that tell images, labels and tables of a teacher's answers from others."""
    rows, columns = _sums(train.x)
    place = torch.arange(1, len(train) + 1, device=train.y.device)
    found = {
        "data": [rows, int((train.y * place).sum())],
        "images": [columns, train.mean, train.std],
    }
    if validation is not None:
        found["validation images"] = _sums(validation.x)
    stored = learner.state_dict()
    return found | {f"buffer {n}": _sums(b) for n, b in learner.named_buffers() if n not in stored}


def _sums(table: Tensor) -> list[int]:
    """Two sums of a table's bytes: one knows the order of its rows, one that of its columns."""
    as_bytes = torch.atleast_2d(table.detach()).flatten(1).contiguous().view(torch.uint8)
    sums = as_bytes.sum(dim=1), as_bytes.sum(dim=0)
    return [int((s * torch.arange(1, len(s) + 1, device=s.device)).sum()) for s in sums]


def resume(
    path: Path, run: dict[str, Any], learner: nn.Module, opt: torch.optim.Optimizer
) -> History:
    """Load a checkpoint into the learner and its optimizer; return the epochs it has done."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        learner_state, opt_state, history = saved["learner"], saved["optimizer"], saved["history"]
        saved_run = saved["run"]
    except (IsADirectoryError, PermissionError):  # which deleting does not cure
        raise
    except Exception as error:  # torch raises many kinds for one cause
        raise ValueError(
            f"checkpoint: {path} is no checkpoint of fit, or is cut short "
            f"({type(error).__name__}): delete it to train from the start"
        ) from error
    settings = zip(opt_state["param_groups"], opt.state_dict()["param_groups"], strict=False)
    for i, (old, new) in enumerate(settings):  # the rate is part of the run, and now scheduled
        for name in old.keys() & new.keys() - {"lr", "params", "foreach", "fused"}:
            saved_run[f"{name} {i}"], run = old[name], {**run, f"{name} {i}": new[name]}
    differing = [name for name in saved_run if saved_run[name] != run.get(name)]
    if differing:
        details = ", ".join(f"{name} {saved_run[name]!r}" for name in differing)
        raise ValueError(
            f"checkpoint: {path} is of another run: it has {details}, expected "
            f"{', '.join(repr(run.get(n)) for n in differing)}: give another path, or delete it"
        )
    fixed = {name: p for name, p in learner.named_parameters() if not p.requires_grad}
    for place, module in learner.named_modules():
        if not module.training:  # `fit` has just said train: batch norm that stays as it is
            fixed |= module.named_buffers(place, recurse=False)
    for name in fixed.keys() & learner_state.keys():  # they are the caller's: a teacher
        if not torch.equal(fixed[name].detach().cpu(), learner_state[name]):
            raise ValueError(
                f"checkpoint: {path} is of another run: its {name}, which is not trained, has "
                f"other values: is it another teacher? Give another path, or delete it"
            )
    learner.load_state_dict(learner_state)
    opt.load_state_dict(opt_state)
    return history
