"""Time the teacher and its students: one image, a large batch, and a step of training.

What a step of training costs is measured three ways: from the labels, from the teacher's cached
logits, and from a teacher that is asked again for each batch. The three take turns, so that
whatever else the machine does falls on all.

    python benchmarks/efficiency.py

writes distill_lib/records/efficiency.json. The networks have random weights: time and memory do
not depend on what was learnt.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
from recording import record_path, save_record
from tqdm import tqdm

from distill_lib.data import default_device, load
from distill_lib.distiller import Distiller
from distill_lib.efficiency import (
    count_flops,
    latency,
    peak_activation_bytes,
    weight_bytes,
)
from distill_lib.models import CNN, MLP, count_parameters
from distill_lib.objectives import SoftTargets
from distill_lib.training import Supervised, fit, predict

BATCH_SIZE = 256
LARGE_BATCH = 1000
NETWORKS = {
    "teacher": CNN,
    "student": partial(MLP, 784, 32, 10),
    "MLP 784-128-10": partial(MLP, 784, 128, 10),
    "MLP 784-1200-1200-10": partial(MLP, 784, 1200, 1200, 10),
}
RECORD = record_path("efficiency")


def quartiles(found):
    """Seconds, to three digits, as plain numbers."""
    return {name: float(f"{getattr(found, name):.3g}") for name in ("median", "low", "high")}


def measure(name, network, x, repeats):
    """What one network costs to store and to run."""
    model = network().to(x.device)
    return {
        "network": name,
        "parameters": count_parameters(model),
        "flops_one_image": count_flops(model, x[:1]),
        "weight_bytes": weight_bytes(model),
        "peak_activation_bytes_large_batch": peak_activation_bytes(model, x),
        "seconds_one_image": quartiles(latency(model, x[:1], repeats=10 * repeats)),
        "seconds_large_batch": quartiles(latency(model, x, repeats=repeats, warmup=3)),
    }


def training_step(train, repeats):
    """Seconds a step of training the student: from labels, cached logits, a teacher that runs."""
    teacher = CNN()
    logits = predict(teacher, train)
    make = {
        "labels": lambda s: Supervised(s),
        "teacher, cached": lambda s: Distiller(
            teacher, s, {"soft": SoftTargets(2.0)}, teacher_logits=logits
        ),
        "teacher, asked": lambda s: Distiller(teacher, s, {"soft": SoftTargets(2.0)}),
    }
    steps = -(-len(train) // BATCH_SIZE)
    seconds = {name: [] for name in make}
    for _ in tqdm(range(repeats), desc="training"):
        for name, learner in make.items():
            history = fit(
                learner(MLP(784, 32, 10)), train, epochs=1, batch_size=BATCH_SIZE, progress=False
            )
            seconds[name].append(history[0]["seconds"] / steps)
    return {
        name: {
            q: float(f"{np.quantile(values, p):.3g}")
            for q, p in (("median", 0.5), ("low", 0.25), ("high", 0.75))
        }
        for name, values in seconds.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=100, help="calls of a large batch, timed")
    parser.add_argument("--images", type=int, default=12_800, help="of an epoch of training")
    parser.add_argument("--record", type=Path, default=RECORD)
    arguments = parser.parse_args()

    device = default_device()
    train = load("MNIST", "train", device=device)[: arguments.images]
    x = train.floats(train.x[:LARGE_BATCH])
    results = {
        "device": device.type,
        "large_batch": len(x),
        "batch_size": BATCH_SIZE,
        "networks": [
            measure(name, network, x, arguments.repeats)
            for name, network in tqdm(NETWORKS.items(), desc="networks")
        ],
        "training_step": training_step(train, min(arguments.repeats, 7)),
    }
    for row in results["networks"]:
        rate = len(x) / row["seconds_large_batch"]["median"]
        print(
            f"{row['network']}: {row['seconds_one_image']['median']:.2g} s for one image, "
            f"{rate:,.0f} images a second"
        )
    command = f"benchmarks/efficiency.py --repeats {arguments.repeats}"
    save_record(arguments.record, f"python {command} --images {arguments.images}", results)
    print(f"written to {arguments.record}")


if __name__ == "__main__":
    main()
