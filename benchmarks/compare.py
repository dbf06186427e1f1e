"""Compare the distillers: one teacher, one student, one budget, one effort of tuning for each.

On each data set a teacher is trained, the book's CNN. Then every method trains the same small
student (a CNN of 4 and 8 channels and 16 hidden units) with the same images, steps, batches and
optimizer. No student sees jittered images, so that the answers of a teacher may be cached.

Every method keeps the labels, with weight 1, and adds its own loss; soft targets are also tried
without labels. Every method tunes its learning rate, and then one number of its own, in the same
way: a climb from the middle of a grid to neighbours with a smaller negative log-likelihood on the
10,000 validation images, the mean of two seeds that are not used again, in at most five tries each.
Plain labels, the control, have no number of their own. After that the test images are read once,
for the students of the other seeds. The grid of rates has a history, and it is one of runs that
had read the test images: 0.2 was in it at first. With it eight of then eighteen methods did not
learn at all on *full* or *crowded* while they were tuned, and the one that was read at it lost a
seed of its five; it was taken out for all. With 0.06 as its largest rate, and one tuning seed, 33
of the 54 climbs then ended there; 0.1 and the second seed were added for all. The hint on fc1
joined last, when the chapter on feature distillers had shown that the layer matters. After that
the distances were trained anew, since the library had begun to centre features before it takes
their distances.

Data sets: *full*, MNIST's 50,000 training images; *small*, 1,000 of them; *crowded*, 20,000 images
on which a fainter second digit lies on top of the first, whose label it is. `--data` also takes
any set that `distill_lib.data.load` knows and whose images are square, such as FashionMNIST or
CIFAR10. torchvision downloads it once. The last 10,000 of its shuffled training images choose.

    make compare          (or: python benchmarks/compare.py --seeds 5)

writes distill_lib/records/comparison.json. It takes some two hours on two CPU cores. Finished
students are kept in the file that `--resume` names, so that a run that was cut off goes on; a
change of this script begins anew.
"""

import argparse
import hashlib
import json
import math
import os
import statistics
from concurrent.futures import as_completed
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
from recording import record_path, save_record
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm
from workers import pool_of

import distill_lib
from distill_lib.analysis import agreement, error_count, kl_to_teacher, negative_log_likelihood
from distill_lib.data import Batch, cache_dir, default_device, jitter, load, split
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
from distill_lib.relations import (
    Flow,
    ProbabilisticTransfer,
    RelationalAngle,
    RelationalDistance,
    SimilarityPreserving,
)
from distill_lib.training import Supervised, adamw, fit, predict

RECORD = record_path("comparison")
EPOCHS = {"full": 4, "small": 60, "crowded": 6}
RATES = (0.0007, 0.002, 0.006, 0.02, 0.06, 0.1)
TEACHER_RATES = (0.003, 0.01, 0.03)
TUNING_SEEDS = (1000, 1001)
TRIES = 5


def epochs_of(data):
    return EPOCHS.get(data, EPOCHS["full"])


def fitting(images):
    """What a `CNN` must be told of the images that it is to read."""
    _, channels, size, _ = images.x.shape
    return {"in_channels": channels, "image_size": size, "n_classes": len(images.classes)}


def student(seed, images):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CNN((4, 8), 16, dropout=0.0, **fitting(images))


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


def decades(middle):
    """Five powers of ten."""
    return tuple(10.0**k for k in range(middle - 2, middle + 3))


TEMPERATURES = (1, 2, 4, 8, 16)
# What each method minimises, as a function of the one number that it tunes; and the number's grid.
LOSSES = {
    "smoothed labels": (lambda e: {"smoothed": SmoothedLabels(e)}, (0.01, 0.03, 0.1, 0.2, 0.3)),
    "soft targets": (lambda tau: {"soft": SoftTargets(tau)}, TEMPERATURES),
    "labels + soft targets": (
        lambda tau: {"labels": HardLabels(), "soft": SoftTargets(tau)},
        TEMPERATURES,
    ),
    "logits": (
        lambda w: {"labels": HardLabels(), "logits": LogitMatching(w)},
        decades(-1),
    ),
    "decoupled": (
        lambda w: {"labels": HardLabels(), "decoupled": DecoupledTargets(4, others=w)},
        (0.125, 0.5, 2, 8, 32),
    ),
    "hint on conv2": (
        lambda w: {
            "labels": HardLabels(),
            "hint": Hint("conv2", "conv2", nn.Conv2d(8, 32, 1), weight=w),
        },
        decades(-5),
    ),
    "hint on fc1": (
        lambda w: {
            "labels": HardLabels(),
            "hint": Hint("fc1", "fc1", nn.Linear(16, 128), weight=w),
        },
        decades(-3),
    ),
    "attention": (
        lambda w: {
            "labels": HardLabels(),
            "attention": AttentionAfterReLU("conv2", "conv2", weight=w),
        },
        decades(-1),
    ),
    "variational information": (
        lambda w: {
            "labels": HardLabels(),
            "vid": VariationalInformation("conv2", "conv2", nn.Conv2d(8, 32, 1), 32, weight=w),
        },
        decades(-4),
    ),
    "contrastive": (
        lambda w: {
            "labels": HardLabels(),
            "crd": Contrastive("fc1", "fc1", nn.Linear(16, 32), nn.Linear(128, 32), weight=w),
        },
        decades(-1),
    ),
    "similarity": (
        lambda w: {"labels": HardLabels(), "sp": SimilarityPreserving("fc1", "fc1", weight=w)},
        decades(2),
    ),
    "distances": (
        lambda w: {"labels": HardLabels(), "rkd": RelationalDistance("fc1", "fc1", weight=w)},
        decades(0),
    ),
    "angles": (
        lambda w: {"labels": HardLabels(), "rkd": RelationalAngle("fc1", "fc1", weight=w)},
        decades(0),
    ),
    "neighbours": (
        lambda w: {"labels": HardLabels(), "pkt": ProbabilisticTransfer("fc1", "fc1", weight=w)},
        decades(1),
    ),
    "flow": (
        lambda w: {
            "labels": HardLabels(),
            "fsp": AdaptedFlow(("conv1", "conv2"), (4, 8), (16, 32), weight=w),
        },
        decades(-4),
    ),
    "soft targets + attention": (
        lambda w: {
            "labels": HardLabels(),
            "soft": SoftTargets(4),
            "attention": AttentionAfterReLU("conv2", "conv2", weight=w),
        },
        decades(-1),
    ),
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


def teacher_of(images, source, rate, folder):
    """The teacher of this learning rate, trained once and found in `folder` from then on."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = CNN(**fitting(images))
    name = f"comparison-{distill_lib.__version__}-{source}-{len(images)}-{rate}.pt"
    how = {
        "epochs": 8,
        "optimizer": partial(adamw, lr=rate),
        "augment": jitter,
        "checkpoint": folder / name,
    }
    fit(Supervised(teacher), images, **how, progress=False)
    return teacher


class Task:
    """A data set and its teacher, the one with the smallest validation NLL of three rates."""

    def __init__(self, name, folder, device):
        source = "MNIST" if name in EPOCHS else name
        parts = *split(load(source, "train"), 10_000), load(source, "test")
        train, validation, test = (part.to(device) for part in parts)
        if name == "crowded":
            generator = torch.Generator().manual_seed(0)
            train, validation, test = (
                crowd(part, generator) for part in (train[:20_000], validation, test)
            )
        # all of the images: a teacher may have seen more than its student
        teachers = [teacher_of(train, source, rate, folder) for rate in TEACHER_RATES]
        nll = [negative_log_likelihood(predict(t, validation), validation.y) for t in teachers]
        self.teacher_nll = dict(zip(TEACHER_RATES, nll, strict=True))
        self.teacher = teachers[nll.index(min(nll))]
        self.train = train[:1000] if name == "small" else train
        self.validation, self.test = validation, test
        self.logits = predict(self.teacher, self.train)


@cache
def task_of(name, folder, device):
    return Task(name, folder, device)


@cache
def twin_of(name, folder, device, learning_rate):
    """The teacher of the born-again student, one like it that learned from labels; its logits."""
    task = task_of(name, folder, device)
    twin = student(2000, task.train)
    optimizer = partial(adamw, lr=learning_rate)
    settings = {"epochs": epochs_of(name), "optimizer": optimizer, "seed": 2000, "progress": False}
    fit(Supervised(twin), task.train, **settings)
    return twin, predict(twin, task.train)


def from_labels(job, network, folder, device):
    """The control: nothing but labels."""
    return Supervised(network)


def beside_a_peer(job, network, folder, device):
    """Two students, each of which learns from labels and from the other."""
    losses = {"labels": HardLabels(), "peers": SoftTargets(job.setting)}
    other = student(job.seed + 500, task_of(job.data, folder, device).train)
    return Peers([network, other], losses)


def from_a_twin(job, network, folder, device):
    """A student of one that has its size, and has learned from labels."""
    losses = {"labels": HardLabels(), "soft": SoftTargets(job.setting)}
    twin, twin_logits = twin_of(job.data, folder, device, job.learning_rate)
    return Distiller(twin, network, losses, teacher_logits=twin_logits)


def from_the_teacher(job, network, folder, device):
    """A student of the large teacher, by the losses of the job's method."""
    task, losses = task_of(job.data, folder, device), LOSSES[job.method][0](job.setting)
    reads_layers = any(hasattr(loss, "teacher_layers") for loss in losses.values())
    logits = None if reads_layers else task.logits  # a cache of logits holds no layers
    return Distiller(task.teacher, network, losses, teacher_logits=logits)


# How each method learns, and the grid of the one number that it tunes.
METHODS = {
    "labels": (from_labels, (0,)),  # nothing but the learning rate
    "peers": (beside_a_peer, TEMPERATURES),
    "born again": (from_a_twin, TEMPERATURES),
    **{method: (from_the_teacher, grid) for method, (_, grid) in LOSSES.items()},
}
SETTINGS = {method: grid for method, (_, grid) in METHODS.items()}


def learner_of(job, folder, device):
    """What `fit` is to train; its `student` is the one that counts."""
    learn, _ = METHODS[job.method]
    network = student(job.seed, task_of(job.data, folder, device).train)
    return learn(job, network, folder, device)


def train_student(job, folder, device, threads):
    """Train one student. Its measures: on validation images while tuning, then on test images."""
    torch.set_num_threads(threads)
    torch.manual_seed(job.seed)  # regressors and embeddings start from it
    task = task_of(job.data, folder, device)
    settings = {"epochs": epochs_of(job.data), "seed": job.seed, "progress": False}
    learner = learner_of(job, folder, device)
    try:
        fit(learner, task.train, optimizer=partial(adamw, lr=job.learning_rate), **settings)
    except FloatingPointError:  # too large a rate, or weight
        return {"nll": math.inf}
    images = task.validation if job.seed in TUNING_SEEDS else task.test
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
    work = partial(train_student, folder=setup.folder, device=setup.device, threads=setup.threads)
    with setup.resume.open("a") as file:
        running = {setup.pool.submit(work, job): job for job in new}
        for future in tqdm(as_completed(running), total=len(new), desc="students", disable=not new):
            job = running[future]
            setup.done[job] = future.result()
            print(json.dumps([job, future.result()]), file=file, flush=True)
    return {job: setup.done[job] for job in jobs}


def climb(grids, start, jobs_of, setup):
    """Validation NLL of what was tried: {key: {value: nats, one a job}}, a climb for each key.

    `start` has what each key begins with, perhaps with NLL that are known. Each climb tries the
    neighbours of its best value so far until both are known, or until it has had its tries.
    """
    tried = {key: dict(values) for key, values in start.items()}
    while new := [
        (key, value) for key in grids for value in beside_best(grids[key], tried[key], TRIES)
    ]:
        results = run([job for key, value in new for job in jobs_of(key, value)], setup)
        for key, value in new:
            tried[key][value] = [results[job]["nll"] for job in jobs_of(key, value)]
    return tried


def beside_best(grid, tried, most):
    """What a climb tries next: the middle and one more, then the neighbours of the best."""
    middle = len(grid) // 2
    wanted = grid[middle : middle + 2]
    if tried:
        i = grid.index(best(tried))
        wanted = grid[max(0, i - 1) : i + 2]
    return [value for value in wanted if value not in tried][: most - len(tried)]


def tune(setup):
    """For each (data, method): the rates tried and then the settings tried, with validation NLL."""
    keys = [(data, method) for data in setup.data for method in SETTINGS]
    grids = {key: SETTINGS[key[1]] for key in keys}
    middle = {key: grid[len(grid) // 2] for key, grid in grids.items()}

    def with_rate(key, rate):
        return [Job(*key, middle[key], seed, rate) for seed in TUNING_SEEDS]

    rates = climb(dict.fromkeys(keys, RATES), {key: {} for key in keys}, with_rate, setup)
    rate = {key: best(nll) for key, nll in rates.items()}

    def with_setting(key, setting):
        return [Job(*key, setting, seed, rate[key]) for seed in TUNING_SEEDS]

    known = {key: {middle[key]: rates[key][rate[key]]} for key in keys}
    return rates, climb(grids, known, with_setting, setup)


def best(nll):
    """The value with the smallest NLL, in the mean over its tuning seeds."""
    return min(nll, key=lambda value: statistics.mean(nll[value]))


def written(nll):
    """What was tried, in order, as the record has it: for each value a number a tuning seed."""
    return {
        str(value): [round(x, 5) if math.isfinite(x) else "diverged" for x in nll[value]]
        for value in sorted(nll)
    }


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
    parser.add_argument(
        "--data",
        nargs="+",
        default=list(EPOCHS),
        help=f"{', '.join(EPOCHS)}, or any set of square images that torchvision has",
    )
    parser.add_argument("--repeats", type=int, default=3, help="epochs that are timed")
    parser.add_argument("--workers", type=int, help="students that train side by side")
    script = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    parser.add_argument("--resume", type=Path, default=cache_dir() / f"comparison-{script}.jsonl")
    parser.add_argument("--record", type=Path, default=RECORD)
    setup = parser.parse_args()
    command = f"python benchmarks/compare.py --seeds {setup.seeds}"
    if setup.data != list(EPOCHS):
        command += f" --data {' '.join(setup.data)}"
        if setup.record == RECORD:
            parser.error(f"--record: the book's record has {', '.join(EPOCHS)}; name another file")

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
            "tried_rates": {str(rate): round(x, 4) for rate, x in task.teacher_nll.items()},
        }

    with pool_of(setup.workers) as setup.pool:
        rates, settings = tune(setup)
        final = {
            key: [
                Job(*key, best(settings[key]), seed, best(rates[key]))
                for seed in range(setup.seeds)
            ]
            for key in rates
        }
        results = run([job for jobs in final.values() for job in jobs], setup)
    rows = [
        {
            "data": data,
            "method": method,
            "tried_rates": written(rates[data, method]),
            "learning_rate": best(rates[data, method]),
            "tried": written(settings[data, method]),
            "setting": best(settings[data, method]),
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
        "epochs": {data: epochs_of(data) for data in setup.data},
        "rates": RATES,
        "settings": SETTINGS,
        "tuning_seeds": TUNING_SEEDS,
        "seeds": list(range(setup.seeds)),
        "device": setup.device.type,
        "teachers": teachers,
        "rows": rows,
        "costs": cost,
    }
    save_record(setup.record, command, found)
    for row in rows:
        errors, nll = statistics.mean(row["errors"]), statistics.mean(row["nll"])
        print(f"{row['data']:8} {row['method']:25} {errors:7.1f} errors, NLL {nll:.4f}")
    print(f"written to {setup.record}")


if __name__ == "__main__":
    main()
