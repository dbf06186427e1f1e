"""Time an epoch of `fit` against the usual DataLoader loop, on the same networks, side by side.

The usual loop is the one of most tutorials: a torchvision data set, its images turned into
normalised tensors one at a time, a DataLoader that shuffles and stacks them. Both train the same
network with the same optimizer, batch size and precision on the 60,000 images of MNIST. They take
turns, so that whatever else the machine does falls on both; what counts is the ratio.

    make bench            (or: python benchmarks/fit_speed.py --repeats 5)

writes distill_lib/records/fit-speed.json.
"""

import argparse
import statistics
import time
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms
from tqdm import tqdm

import distill_lib
from distill_lib.data import MNIST_MEAN, MNIST_STD, default_device, load, torchvision_root
from distill_lib.models import CNN, MLP
from distill_lib.records import save_record
from distill_lib.training import Supervised, constant, fit

BATCH_SIZE = 256
NETWORKS = {
    "CNN": CNN,
    "MLP 784-1200-1200-10": partial(MLP, 784, 1200, 1200, 10, dropout=0.4),
}
RECORD = Path(distill_lib.__file__).parent / "records" / "fit-speed.json"


def synchronise(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def usual_epoch(model, loader, device):
    """One epoch as the tutorials write it."""
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for x, y in loader:
        x, y = x.to(device), y.to(device)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()


def fit_epoch(model, train):
    """The same epoch by `fit`."""
    fit(
        Supervised(model),
        train,
        epochs=1,
        batch_size=BATCH_SIZE,
        schedule=constant,
        progress=False,
    )


def seconds(epoch, device):
    synchronise(device)
    started = time.perf_counter()
    epoch()
    synchronise(device)
    return time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="epochs of each, in turn")
    parser.add_argument("--images", type=int, default=60_000, help="fewer for a quick look")
    parser.add_argument("--record", type=Path, default=RECORD)
    arguments = parser.parse_args()

    device = default_device()
    train = load("MNIST", "train", device=device)[: arguments.images]
    to_floats = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((MNIST_MEAN,), (MNIST_STD,))]
    )
    stored = datasets.MNIST(torchvision_root(), train=True, transform=to_floats)
    loader = DataLoader(
        Subset(stored, range(arguments.images)),
        batch_size=BATCH_SIZE,
        shuffle=True,
    )
    results = []
    for name, network in NETWORKS.items():
        usual, ours = [], []
        for _ in tqdm(range(arguments.repeats), desc=name):
            usual.append(seconds(lambda: usual_epoch(network(), loader, device), device))  # noqa: B023
            ours.append(seconds(lambda: fit_epoch(network(), train), device))  # noqa: B023
        ratios = [u / o for u, o in zip(usual, ours, strict=True)]
        results.append(
            {
                "network": name,
                "device": device.type,
                "images": arguments.images,
                "batch_size": BATCH_SIZE,
                "precision": "float32",
                "usual_seconds": [round(s, 2) for s in usual],
                "fit_seconds": [round(s, 2) for s in ours],
                "ratio_median": round(statistics.median(ratios), 2),
                "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
            }
        )
        print(
            f"{name}: usual loop {statistics.median(usual):.1f} s an epoch, fit "
            f"{statistics.median(ours):.1f} s; ratio {statistics.median(ratios):.1f} "
            f"({min(ratios):.1f} to {max(ratios):.1f})"
        )
    command = f"benchmarks/fit_speed.py --repeats {arguments.repeats} --images {arguments.images}"
    save_record(arguments.record, f"python {command}", results)
    print(f"written to {arguments.record}")


if __name__ == "__main__":
    main()
