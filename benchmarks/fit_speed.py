"""Time an epoch of `fit` against three others, on the same networks, side by side.

- *usual*: the loop of most tutorials. A torchvision data set, its images shifted and turned into
  normalised tensors one at a time, a DataLoader that shuffles and stacks them.
- *fixed batch*: nothing but forward pass, backward pass and update, again and again on one batch
  that is ready: no loop can be faster.
- *distilled*: `fit` once more, with soft targets from a teacher whose logits are cached.

All train the same network with the same optimizer, batch size and precision on the 60,000 images
of MNIST. They take turns, so that whatever else the machine does falls on all; what counts are the
ratios. *usual* and *fit* jitter their images; *distilled* has *fit without jitter* to compare with,
since cached logits belong to the images as they are.

    make bench            (or: python benchmarks/fit_speed.py --repeats 5)

writes distill_lib/records/fit-speed.json.
"""

import argparse
import resource
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import torch
from recording import record_path, save_record
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms
from tqdm import tqdm

from distill_lib.data import MNIST_MEAN, MNIST_STD, default_device, jitter, load, torchvision_root
from distill_lib.distiller import Distiller
from distill_lib.models import CNN, MLP
from distill_lib.objectives import SoftTargets
from distill_lib.training import Supervised, adamw, constant, fit

BATCH_SIZE = 256
NETWORKS = {
    "CNN": CNN,
    "MLP 784-1200-1200-10": partial(MLP, 784, 1200, 1200, 10, dropout=0.4),
}
RECORD = record_path("fit-speed")


def synchronise(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def usual_epoch(model, loader, device, precision):
    """One epoch as the tutorials write it."""
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for x, y in loader:
        x, y = x.to(device), y.to(device)
        optimizer.zero_grad()
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()


def fixed_batch_epoch(model, train, precision):
    """As many updates as an epoch has, all on one batch, cut for the last."""
    device = train.x.device
    model.to(device).train()
    optimizer = adamw(model.parameters())
    x, y = train.floats(train.x[:BATCH_SIZE]), train.y[:BATCH_SIZE]
    whole, rest = divmod(len(train), BATCH_SIZE)
    for size in [BATCH_SIZE] * whole + [rest] * (rest > 0):
        optimizer.zero_grad()
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            loss = F.cross_entropy(model(x[:size]), y[:size])
        loss.backward()
        optimizer.step()


def fit_epoch(learner, train, precision, augment=None):
    """The same epoch by `fit`."""
    settings = {"batch_size": BATCH_SIZE, "schedule": constant, "progress": False}
    fit(learner, train, epochs=1, augment=augment, precision=precision, **settings)


def seconds(epoch, device):
    synchronise(device)
    started = time.perf_counter()
    epoch()
    synchronise(device)
    return time.perf_counter() - started


def loops(network, train, loader, precision):
    """Each loop by its name, ready to run one epoch of a fresh network."""
    logits = torch.randn(len(train), 10, device=train.x.device)

    def distilled():
        losses = {"soft": SoftTargets(tau=4.0)}
        learner = Distiller(network(), network(), losses, teacher_logits=logits)
        fit_epoch(learner, train, precision)

    return {
        "usual": lambda: usual_epoch(network(), loader, train.x.device, precision),
        "fixed batch": lambda: fixed_batch_epoch(network(), train, precision),
        "fit": lambda: fit_epoch(Supervised(network()), train, precision, jitter),
        "fit without jitter": lambda: fit_epoch(Supervised(network()), train, precision),
        "distilled": distilled,
    }


def ratio(above, below):
    """The median ratio of epochs that were timed side by side, and its range."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return {
        "median": round(statistics.median(ratios), 2),
        "range": [round(min(ratios), 2), round(max(ratios), 2)],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="epochs of each, in turn")
    parser.add_argument("--images", type=int, default=60_000, help="fewer for a quick look")
    parser.add_argument("--record", type=Path, default=RECORD)
    arguments = parser.parse_args()

    device = default_device()
    train = load("MNIST", "train", device=device)[: arguments.images]
    to_floats = transforms.Compose(
        [
            transforms.RandomCrop(28, padding=2),
            transforms.ToTensor(),
            transforms.Normalize((MNIST_MEAN,), (MNIST_STD,)),
        ]
    )
    stored = datasets.MNIST(torchvision_root(), train=True, transform=to_floats)
    part = Subset(stored, range(arguments.images))
    loader = DataLoader(part, batch_size=BATCH_SIZE, shuffle=True)

    results = []
    for name, network in NETWORKS.items():
        for precision in (torch.float32, torch.bfloat16):
            timed = loops(network, train, loader, precision)
            fit_epoch(Supervised(network()), train[: 2 * BATCH_SIZE], precision, jitter)  # warm up
            taken = {loop: [] for loop in timed}
            for _ in tqdm(range(arguments.repeats), desc=f"{name}, {precision}"):
                for loop, epoch in timed.items():
                    taken[loop].append(seconds(epoch, device))
            ratios = {
                "usual to fit": ratio(taken["usual"], taken["fit"]),
                "fit to fixed batch": ratio(taken["fit without jitter"], taken["fixed batch"]),
                "distilled to fit": ratio(taken["distilled"], taken["fit without jitter"]),
            }
            results.append(
                {
                    "network": name,
                    "device": device.type,
                    "images": arguments.images,
                    "batch_size": BATCH_SIZE,
                    "precision": str(precision).removeprefix("torch."),
                    "seconds": {k: [float(f"{s:.3g}") for s in v] for k, v in taken.items()},
                    "ratios": ratios,
                }
            )
            shown = ", ".join(f"{loop} {statistics.median(s):.2f} s" for loop, s in taken.items())
            print(f"{name}, {results[-1]['precision']}: {shown}")
            for what, value in ratios.items():
                low, high = value["range"]
                print(f"    {what}: {value['median']:.2f} ({low:.2f} to {high:.2f})")
    if device.type == "cuda":
        peak = {"device_megabytes": torch.cuda.max_memory_allocated() // 2**20}
    else:
        unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, kilobytes elsewhere
        peak = {"process_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit}
    command = f"benchmarks/fit_speed.py --repeats {arguments.repeats} --images {arguments.images}"
    save_record(arguments.record, f"python {command}", {"peak_memory": peak, "epochs": results})
    print(f"written to {arguments.record}; peak memory {peak}")


if __name__ == "__main__":
    main()
