"""Results of long runs that travel with the package: what was run, where, what came out.

`benchmarks/` writes them, chapters show them, and each names the command that repeats it. A record
is JSON; the weights of a network are safetensors.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor


def load_record(name: str) -> dict[str, Any]:
    """The record `name`, as `save_record` wrote it.

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


def record_path(name: str) -> Path:
    """Where this machine's benchmarks leave the record `name`: on a GPU, ``name-gpu``."""
    suffix = "-gpu" if torch.cuda.is_available() else ""
    return Path(__file__).parent / "records" / f"{name}{suffix}.json"


def save_record(path: Path, command: str, results: Any) -> None:
    """Write `results` with the command that made them, the date, the versions and the hardware."""
    record = {
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("distillation-book", "torch", "torchvision")},
        },
        "hardware": {
            "cpu": _cpu_name(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "results": results,
    }
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _cpu_name() -> str:
    """What the system calls its processor."""
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
