"""Is it the teacher? Students of several teachers that differ in nothing but their seed.

Each teacher follows the book's recipe and teaches the twelve students of *Did it work?*: 32 hidden
units, with the same initial weights and the same order of images for every teacher. Beside them
stand their twins that learn from the labels, trained once. The settings are that chapter's, chosen
there on validation images with the teacher of seed 0; nothing is chosen here.

    python benchmarks/teacher_luck.py

writes distill_lib/records/teacher-luck.json (a quarter of an hour on one core). A run that is cut
off finds its teachers again, in the cache.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import torch
from recording import record_path, save_record
from tqdm import tqdm

from distill_lib.analysis import crossed_interval, error_count, negative_log_likelihood
from distill_lib.calibration import fit_temperature
from distill_lib.data import default_device
from distill_lib.distiller import Distiller
from distill_lib.models import MLP
from distill_lib.objectives import SoftTargets
from distill_lib.recipes import mnist, mnist_teacher
from distill_lib.training import Supervised, adamw, fit, predict

TAU, LR, UNITS, EPOCHS = 2, 12e-3, 32, 6
FIRST_SEED = 100  # of the students
RECORD = record_path("teacher-luck")


def train_student(seed, train, teacher=None, teacher_logits=None):
    """As the chapter's: from the labels, or from a teacher's soft targets alone."""
    torch.manual_seed(seed)
    student = MLP(784, UNITS, 10)
    if teacher is None:
        learner = Supervised(student)
    else:
        soft = {"soft": SoftTargets(TAU)}
        learner = Distiller(teacher, student, soft, teacher_logits=teacher_logits)
    optimizer = partial(adamw, lr=LR)
    fit(learner, train, epochs=EPOCHS, optimizer=optimizer, seed=seed, progress=False)
    return student


def score(network, validation, test):
    """Test errors, and NLL (nats) before and after a temperature found on validation images.

    Returns the scores and the answers, shape (N,).
    """
    logits = predict(network, test)
    tau = fit_temperature(predict(network, validation), validation.y)
    scores = {
        "errors": error_count(logits, test.y),
        "nll": round(negative_log_likelihood(logits, test.y), 5),
        "nll_own_temperature": round(negative_log_likelihood(logits / tau, test.y), 5),
    }
    return scores, logits.argmax(dim=1)


def score_all(students, validation, test):
    """The scores, a list each, and the answers, shape (n_students, N)."""
    scores, answers = zip(*(score(student, validation, test) for student in students), strict=True)
    return {name: [one[name] for one in scores] for name in scores[0]}, torch.stack(answers)


def made_again(answers, of_teacher, y):
    """How many of the teacher's mistakes each student makes, with the same wrong answer."""
    return ((answers == of_teacher) & (of_teacher != y)).sum(dim=1).tolist()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teachers", type=int, default=12)
    parser.add_argument("--students", type=int, default=12, help="of each teacher")
    parser.add_argument("--record", type=Path, default=RECORD)
    arguments = parser.parse_args()

    train, validation, test = mnist()
    seeds = range(FIRST_SEED, FIRST_SEED + arguments.students)
    students = [train_student(seed, train) for seed in tqdm(seeds, desc="labels")]
    labels, of_labels = score_all(students, validation, test)
    teachers, misread = [], []
    for teacher_seed in tqdm(range(arguments.teachers), desc="teachers"):
        teacher = mnist_teacher(train, seed=teacher_seed)
        logits = predict(teacher, train)
        students = [train_student(seed, train, teacher, logits) for seed in seeds]
        scores, of_students = score_all(students, validation, test)
        itself, of_teacher = score(teacher, validation, test)
        scores["mistakes_made_again"] = made_again(of_students, of_teacher, test.y)
        by_labels = made_again(of_labels, of_teacher, test.y)
        teachers.append(
            {"seed": teacher_seed, "itself": itself, "students": scores}
            | {"mistakes_made_again_by_labels": by_labels}
        )
        misread.append((of_students != test.y).double().cpu())
        gain = np.mean(scores["errors"]) - np.mean(labels["errors"])
        print(f"teacher {teacher_seed}: {itself['errors']} errors; its students {gain:+.1f}")

    mean_teacher = torch.stack(misread).mean(dim=0)  # shape (n_students, N)
    over = crossed_interval(mean_teacher, (of_labels != test.y).double().cpu())
    results = {
        "device": default_device().type,
        "settings": {"tau": TAU, "lr": LR, "hidden_units": UNITS, "epochs": EPOCHS},
        "test_images": len(test),
        "student_seeds": list(seeds),
        "labels": labels,
        "teachers": teachers,
        "errors_over_seeds_and_images": [round(len(test) * end, 2) for end in over],
    }
    counts = f"--teachers {arguments.teachers} --students {arguments.students}"
    command = f"python benchmarks/teacher_luck.py {counts}"
    save_record(arguments.record, command, results)
    print(f"written to {arguments.record}")


if __name__ == "__main__":
    main()
