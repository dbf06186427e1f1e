"""Checkpoints: written whole or not at all, and refused when they are of another run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

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
    with open(unfinished, "wb") as file:
        torch.save(
            {
                "run": run,
                "learner": learner.state_dict(),
                "optimizer": opt.state_dict(),
                "history": history,
            },
            file,
        )
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def resume(
    path: Path, run: dict[str, Any], learner: nn.Module, opt: torch.optim.Optimizer
) -> History:
    """Load a checkpoint into the learner and its optimizer; return the epochs it has done."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        learner_state, opt_state, history = saved["learner"], saved["optimizer"], saved["history"]
        saved_run = saved["run"]
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
    for name, p in learner.named_parameters():  # what is frozen is the caller's: a teacher
        if not p.requires_grad and not torch.equal(p.detach().cpu(), learner_state[name]):
            raise ValueError(
                f"checkpoint: {path} is of another run: its {name}, which is not trained, has "
                f"other values: is it another teacher? Give another path, or delete it"
            )
    learner.load_state_dict(learner_state)
    opt.load_state_dict(opt_state)
    return history
