"""Results of long runs that travel with the package: what was run, where, what came out.

`benchmarks/recording.py` writes them, chapters show them, and each names the command that repeats
it. A record is JSON; the weights of a network are safetensors.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import safetensors.torch
from torch import Tensor


def load_record(name: str) -> dict[str, Any]:
    """The record `name`: its command, date, versions and hardware, and its results.

    Raises
    ------
    FileNotFoundError
        No such record; the message lists those there are.
    """
    record: dict[str, Any] = json.loads(_read(name, ".json"))
    return record


def load_weights(name: str) -> dict[str, Tensor]:
    """The weights `name`, in single precision, for ``network.load_state_dict``.

    They are stored in half precision: about three digits, which costs no accuracy worth mention.

    Raises
    ------
    FileNotFoundError
        No such weights; the message lists those there are.
    """
    return {
        key: p.float() for key, p in safetensors.torch.load(_read(name, ".safetensors")).items()
    }


def _read(name: str, suffix: str) -> bytes:
    folder = files("distill_lib") / "records"
    try:
        return (folder / f"{name}{suffix}").read_bytes()
    except FileNotFoundError as error:
        there = sorted(path.name for path in folder.iterdir())
        there = [path.removesuffix(suffix) for path in there if path.endswith(suffix)]
        raise FileNotFoundError(f"name: no record {name!r}; there are {there}") from error
