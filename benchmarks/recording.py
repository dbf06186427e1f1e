"""What the benchmarks leave behind: records, which `distill_lib.records` reads."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

import distill_lib


def record_path(name):
    """Where this machine's benchmarks leave the record `name`: on a GPU, ``name-gpu``."""
    suffix = "-gpu" if torch.cuda.is_available() else ""
    return Path(distill_lib.__file__).parent / "records" / f"{name}{suffix}.json"


def save_record(path, command, results):
    """Write `results` with the command that made them, the date, the versions and the hardware."""
    record = {
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("distillation-book", "torch", "torchvision")},
        },
        "hardware": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "results": results,
    }
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def cpu_name():
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
