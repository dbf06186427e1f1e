"""MNIST's four files: where they are bundled, their checksums, and what is wrong with a bad one."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

BUNDLED = Path(str(files("distill_lib") / "mnist"))
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def unpacked(raw: Path, name: str) -> bytes:
    """The checked content of MNIST's file `name`, stored in `raw` as it is or with gzip."""
    path = raw / name
    if not path.exists():
        path = raw / f"{name}.gz"
    cure = "reinstall distill_lib, or copy the file again from a good source"
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except FileNotFoundError as error:
        if not raw.is_relative_to(BUNDLED):
            cure = "leave root out for the files of distill_lib, or put torchvision's there"
        raise FileNotFoundError(f"MNIST file {path} is missing: {cure}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"MNIST file {path} is corrupt or cut short ({error}): {cure}") from error
    md5 = hashlib.md5(content).hexdigest()
    if md5 != MNIST_MD5[name]:
        raise ValueError(
            f"MNIST file {path} is corrupt (its MD5 sum is {md5}, not {MNIST_MD5[name]}): {cure}"
        )
    return content


def read_idx(raw: Path, name: str, *, header: int) -> Tensor:
    """The bytes behind the header of MNIST's file `name`, as one uint8 vector."""
    return torch.frombuffer(bytearray(unpacked(raw, name)), dtype=torch.uint8)[header:]
