"""Compare the distillers: one teacher, one student, one budget, one effort of tuning for each.

On each data set a teacher is trained, the book's CNN. Then every method trains the same small
student (a CNN of 4 and 8 channels and 16 hidden units) with the same images, steps, batches and
optimizer. No student sees jittered images, so that the answers of a teacher may be cached.

Every method keeps the labels, with weight 1, and adds its own loss; soft targets are also tried
without labels. Every method may try three settings of one number: the one with the smallest
negative log-likelihood on the 10,000 validation images is kept, of one seed that is not used again.
The control, plain labels, tunes its learning rate, and all others use the same. After that the test
images are read once, for the students of the other seeds.

Data sets: *full*, MNIST's 50,000 training images; *small*, 1,000 of them; *crowded*, 20,000 images
on which a fainter second digit lies on top of the first, whose label it is.

    make compare          (or: python benchmarks/compare.py --seeds 5)

writes distill_lib/records/comparison.json. It takes most of an hour on two CPU cores. Finished
students are kept in the file that `--resume` names, so that a run that was cut off goes on; a
change of this script begins anew.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import statistics
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

import distill_lib
from distill_lib.analysis import agreement, error_count, kl_to_teacher, negative_log_likelihood
from distill_lib.data import Batch, cache_dir, default_device, jitter
from distill_lib.distiller import Distiller
from distill_lib.efficiency import peak_step_bytes
from distill_lib.features import (
    AttentionTransfer,
    Contrastive,
    Hint,
    VariationalInformation,
    attention_transfer_loss,
)
from distill_lib.models import CNN, count_parameters
from distill_lib.objectives import DecoupledTargets, HardLabels, LogitMatching, SoftTargets
from distill_lib.peers import Peers
from distill_lib.recipes import mnist
from distill_lib.records import save_record
from distill_lib.relations import (
    Flow,
    ProbabilisticTransfer,
    RelationalAngle,
    RelationalDistance,
    SimilarityPreserving,
)
from distill_lib.training import Supervised, adamw, fit, predict

RECORD = Path(distill_lib.__file__).parent / "records" / "comparison.json"
EPOCHS = {"full": 4, "small": 60, "crowded": 6}
LEARNING_RATES = (0.003, 0.01, 0.02)
TUNING_SEED = 1000


def student(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CNN((4, 8), 16, dropout=0.0)


class SmoothedLabels(nn.Module):
    """A cross-entropy with labels of which every class gets a share of `smoothing`."""

    def __init__(self, smoothing):
        super().__init__()
        self.smoothing = smoothing

    def forward(self, step):
        return F.cross_entropy(step.student_logits, step.batch.y, label_smoothing=self.smoothing)


class AttentionAfterReLU(AttentionTransfer):
    """Attention to what passes the ReLU, which our networks compute after the named layer."""

    def compare(self, student, teacher):
        return attention_transfer_loss(student.relu(), teacher.relu())


class AdaptedFlow(Flow):
    """FSP between networks of different widths: 1×1 convolutions first make them agree."""

    def __init__(self, layers, student_channels, teacher_channels, *, weight):
        super().__init__(layers, layers, weight=weight)
        pairs = zip(layers, student_channels, teacher_channels, strict=True)
        self.adapters = nn.ModuleDict({layer: nn.Conv2d(s, t, 1) for layer, s, t in pairs})

    def forward(self, step):
        features = step.student_features
        adapted = {layer: conv(features[layer]) for layer, conv in self.adapters.items()}
        return super().forward(replace(step, student_features=adapted))


# What each method minimises, as a function of the one number that it tunes; and what it may try.
LOSSES = {
    "smoothed labels": (lambda e: {"smoothed": SmoothedLabels(e)}, (0.03, 0.1, 0.2)),
    "soft targets": (lambda tau: {"soft": SoftTargets(tau)}, (1, 3, 8)),
    "labels + soft targets": (
        lambda tau: {"labels": HardLabels(), "soft": SoftTargets(tau)},
        (1, 3, 8),
    ),
    "logits": (
        lambda w: {"labels": HardLabels(), "logits": LogitMatching(w)},
        (0.01, 0.1, 1),
    ),
    "decoupled": (
        lambda w: {"labels": HardLabels(), "decoupled": DecoupledTargets(4, others=w)},
        (1, 4, 8),
    ),
    "hints": (
        lambda w: {
            "labels": HardLabels(),
            "hint": Hint("conv2", "conv2", nn.Conv2d(8, 32, 1), weight=w),
        },
        (1e-6, 1e-5, 1e-4),
    ),
    "attention": (
        lambda w: {
            "labels": HardLabels(),
            "attention": AttentionAfterReLU("conv2", "conv2", weight=w),
        },
        (0.01, 0.1, 1),
    ),
    "variational information": (
        lambda w: {
            "labels": HardLabels(),
            "vid": VariationalInformation("conv2", "conv2", nn.Conv2d(8, 32, 1), 32, weight=w),
        },
        (1e-5, 1e-4, 1e-3),
    ),
    "contrastive": (
        lambda w: {
            "labels": HardLabels(),
            "crd": Contrastive("fc1", "fc1", nn.Linear(16, 32), nn.Linear(128, 32), weight=w),
        },
        (0.01, 0.1, 1),
    ),
    "similarity": (
        lambda w: {"labels": HardLabels(), "sp": SimilarityPreserving("fc1", "fc1", weight=w)},
        (10, 100, 1000),
    ),
    "distances": (
        lambda w: {"labels": HardLabels(), "rkd": RelationalDistance("fc1", "fc1", weight=w)},
        (0.1, 1, 10),
    ),
    "angles": (
        lambda w: {"labels": HardLabels(), "rkd": RelationalAngle("fc1", "fc1", weight=w)},
        (0.1, 1, 10),
    ),
    "neighbours": (
        lambda w: {"labels": HardLabels(), "pkt": ProbabilisticTransfer("fc1", "fc1", weight=w)},
        (1, 10, 100),
    ),
    "flow": (
        lambda w: {
            "labels": HardLabels(),
            "fsp": AdaptedFlow(("conv1", "conv2"), (4, 8), (16, 32), weight=w),
        },
        (1e-5, 1e-4, 1e-3),
    ),
    "soft targets + attention": (
        lambda w: {
            "labels": HardLabels(),
            "soft": SoftTargets(3),
            "attention": AttentionAfterReLU("conv2", "conv2", weight=w),
        },
        (0.01, 0.1, 1),
    ),
}


SETTINGS = {
    "labels": LEARNING_RATES,
    "peers": (1, 3, 8),
    "born again": (1, 3, 8),
    **{method: settings for method, (_, settings) in LOSSES.items()},
}


class Job(NamedTuple):
    """One student to train."""

    data: str
    method: str
    setting: float
    seed: int
    learning_rate: float


def crowd(images, generator):
    """Each image with a fainter one over it, which keeps its label out of the way."""
    other = images.x[torch.randperm(len(images), generator=generator).to(images.x.device)]
    return replace(images, x=torch.maximum(images.x, (0.8 * other.float()).byte()))


class Task:
    """A data set and its teacher, which is trained once and found in `folder` from then on."""

    def __init__(self, name, folder, device):
        train, validation, test = (part.to(device) for part in mnist())
        if name == "crowded":
            generator = torch.Generator().manual_seed(0)
            train, validation, test = (
                crowd(part, generator) for part in (train[:20_000], validation, test)
            )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.teacher = CNN()
        fit(
            Supervised(self.teacher),
            train,  # all of it: a teacher may have seen more than its student
            epochs=8,
            optimizer=partial(adamw, lr=3e-3),
            augment=jitter,
            checkpoint=folder / f"comparison-{distill_lib.__version__}-{len(train)}-{name}.pt",
            progress=False,
        )
        self.train = train[:1000] if name == "small" else train
        self.validation, self.test = validation, test
        self.logits = predict(self.teacher, self.train)


@cache
def task_of(name, folder, device):
    return Task(name, folder, device)


@cache
def twin_of(name, folder, device, learning_rate):
    """The teacher of the born-again student, one like it that learned from labels; its logits."""
    task, twin = task_of(name, folder, device), student(2000)
    optimizer = partial(adamw, lr=learning_rate)
    settings = {"epochs": EPOCHS[name], "optimizer": optimizer, "seed": 2000, "progress": False}
    fit(Supervised(twin), task.train, **settings)
    return twin, predict(twin, task.train)


def learner_of(job, folder, device):
    """What `fit` is to train; its `student` is the one that counts."""
    task, network = task_of(job.data, folder, device), student(job.seed)
    if job.method == "labels":
        return Supervised(network)
    if job.method == "peers":
        losses = {"labels": HardLabels(), "peers": SoftTargets(job.setting)}
        return Peers([network, student(job.seed + 500)], losses)
    if job.method == "born again":
        losses = {"labels": HardLabels(), "soft": SoftTargets(job.setting)}
        twin, twin_logits = twin_of(job.data, folder, device, job.learning_rate)
        return Distiller(twin, network, losses, teacher_logits=twin_logits)
    losses = LOSSES[job.method][0](job.setting)
    reads_layers = any(hasattr(loss, "teacher_layers") for loss in losses.values())
    logits = None if reads_layers else task.logits  # a cache of logits holds no layers
    return Distiller(task.teacher, network, losses, teacher_logits=logits)


def train_student(job, folder, device, threads):
    """Train one student. Its measures: on validation images while tuning, then on test images."""
    torch.set_num_threads(threads)
    torch.manual_seed(job.seed)  # regressors and embeddings start from it
    task = task_of(job.data, folder, device)
    settings = {"epochs": EPOCHS[job.data], "seed": job.seed, "progress": False}
    learner = learner_of(job, folder, device)
    fit(learner, task.train, optimizer=partial(adamw, lr=job.learning_rate), **settings)
    images = task.validation if job.seed == TUNING_SEED else task.test
    z, z_teacher = predict(learner.student, images), predict(task.teacher, images)
    return {
        "errors": error_count(z, images.y),
        "nll": round(negative_log_likelihood(z, images.y), 5),
        "agreement": round(agreement(z, z_teacher), 5),
        "kl_to_teacher": round(kl_to_teacher(z, z_teacher), 5),
    }


def run(jobs, setup):
    """The result of every job; those not in `setup.done` are trained, some at a time."""
    new = [job for job in jobs if job not in setup.done]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(setup.workers, context) as pool, setup.resume.open("a") as file:
        work = partial(train_student, folder=setup.folder, device=setup.device)
        running = {pool.submit(work, job, threads=setup.threads): job for job in new}
        for future in tqdm(as_completed(running), total=len(new), desc="students"):
            job = running[future]
            setup.done[job] = future.result()
            print(json.dumps([job, future.result()]), file=file, flush=True)
    return {job: setup.done[job] for job in jobs}


def tune(methods, rates, setup):
    """Validation NLL of each setting: {(data, method): {setting: nats}}."""
    jobs = [
        Job(data, method, s, TUNING_SEED, s if method == "labels" else rates[data])
        for data in setup.data
        for method in methods
        for s in SETTINGS[method]
    ]
    tried = {(job.data, job.method): {} for job in jobs}
    for job, result in run(jobs, setup).items():
        tried[job.data, job.method][job.setting] = result["nll"]
    return tried


def costs(jobs, repeats, setup):
    """What each method costs: seconds an epoch in turn with plain labels, memory, parameters."""
    images = task_of(jobs[0].data, setup.folder, setup.device).train
    batch = Batch(
        images.floats(images.x[:256]),
        images.y[:256],
        torch.arange(256, device=images.x.device),
        epoch=0,
        n_samples=len(images),
        augmented=False,
    )

    def seconds(job):
        learner = learner_of(job, setup.folder, setup.device)
        return fit(learner, images, epochs=1, progress=False)[0]["seconds"]

    found = {}
    for job in tqdm(jobs, desc="costs"):
        turns = [(seconds(job), seconds(jobs[0])) for _ in range(repeats)]
        learner = learner_of(job, setup.folder, setup.device).to(setup.device)
        learned = sum(p.numel() for p in learner.parameters() if p.requires_grad)
        found[job.method] = {
            "seconds": [round(ours, 3) for ours, _ in turns],
            "ratio_to_labels": [round(ours / labels, 2) for ours, labels in turns],
            "step_megabytes": round(peak_step_bytes(learner, batch) / 2**20, 2),
            "extra_parameters": learned - count_parameters(learner.student),
        }
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="students of each method")
    parser.add_argument("--data", nargs="+", choices=EPOCHS, default=list(EPOCHS))
    parser.add_argument("--repeats", type=int, default=5, help="epochs that are timed")
    parser.add_argument("--workers", type=int, help="students that train side by side")
    script = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    parser.add_argument("--resume", type=Path, default=cache_dir() / f"comparison-{script}.jsonl")
    parser.add_argument("--record", type=Path, default=RECORD)
    setup = parser.parse_args()

    setup.device, setup.folder = default_device(), cache_dir()
    on_cpu = setup.device.type == "cpu"
    setup.workers = setup.workers or (os.cpu_count() if on_cpu else 1)
    setup.threads = max(1, torch.get_num_threads() // setup.workers)
    setup.done = {}
    if setup.resume.exists():
        lines = map(json.loads, setup.resume.read_text("utf-8").splitlines())
        setup.done = {Job(*job): result for job, result in lines}
    teachers = {}
    for data in setup.data:
        task = task_of(data, setup.folder, setup.device)  # trained before the workers look for it
        z = predict(task.teacher, task.test)
        teachers[data] = {
            "errors": error_count(z, task.test.y),
            "nll": round(negative_log_likelihood(z, task.test.y), 5),
        }

    tried = tune(["labels"], {}, setup)
    rates = {data: min(nll, key=nll.__getitem__) for (data, _), nll in tried.items()}
    tried |= tune([method for method in SETTINGS if method != "labels"], rates, setup)
    best = {key: min(nll, key=nll.__getitem__) for key, nll in tried.items()}
    final = {
        (data, method): [
            Job(data, method, best[data, method], seed, rates[data]) for seed in range(setup.seeds)
        ]
        for data in setup.data
        for method in SETTINGS
    }
    results = run([job for jobs in final.values() for job in jobs], setup)
    rows = [
        {
            "data": data,
            "method": method,
            "tried": {str(s): round(nll, 4) for s, nll in tried[data, method].items()},
            "setting": best[data, method],
            **{
                measure: [results[job][measure] for job in jobs]
                for measure in ("errors", "nll", "agreement", "kl_to_teacher")
            },
        }
        for (data, method), jobs in final.items()
    ]
    first = setup.data[0]
    cost = costs([final[first, method][0] for method in SETTINGS], setup.repeats, setup)
    found = {
        "epochs": EPOCHS,
        "learning_rates": rates,
        "seeds": list(range(setup.seeds)),
        "device": setup.device.type,
        "teachers": teachers,
        "rows": rows,
        "costs": cost,
    }
    save_record(setup.record, f"python benchmarks/compare.py --seeds {setup.seeds}", found)
    for row in rows:
        errors, nll = statistics.mean(row["errors"]), statistics.mean(row["nll"])
        print(f"{row['data']:8} {row['method']:25} {errors:7.1f} errors, NLL {nll:.4f}")
    print(f"written to {setup.record}")


if __name__ == "__main__":
    main()
