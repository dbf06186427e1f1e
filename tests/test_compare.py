"""The comparison's tuning by hand, and what its record must hold."""

import importlib
import math
import sys
from types import SimpleNamespace

import pytest
import torch
from set_address import ROOT

from distill_lib.data import Images
from distill_lib.distiller import Distiller
from distill_lib.peers import Peers
from distill_lib.records import load_record
from distill_lib.training import Supervised


@pytest.fixture(scope="module")
def compare():
    """The script, as a module."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("compare")
    sys.path.remove(str(ROOT / "benchmarks"))


def climbed(compare, grid, nll, known=()):
    """What a climb tries, in order, where `nll` says how good each value is."""
    tried, order = {value: [nll[value]] for value in known}, []
    while new := compare.beside_best(grid, tried, compare.TRIES):
        order += new
        tried |= {value: [nll[value]] for value in new}
    return order


def test_a_climb_stops_when_both_neighbours_are_worse(compare):
    nll = {1: 9, 2: 7, 3: 5, 4: 6, 5: 8}
    assert climbed(compare, (1, 2, 3, 4, 5), nll) == [3, 4, 2]


def test_a_climb_follows_the_slope_and_has_five_tries(compare):
    nll = {value: value for value in range(1, 11)}
    assert climbed(compare, tuple(range(1, 11)), nll) == [6, 7, 5, 4, 3]


def test_a_climb_ends_at_the_end_of_the_grid(compare):
    nll = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5}
    assert climbed(compare, (1, 2, 3, 4, 5), nll, known=[3]) == [2, 4, 1]
    assert climbed(compare, (0,), {0: 1.0}, known=[0]) == []


def test_what_diverged_is_never_the_best(compare):
    nll = {1: [0.1, math.inf], 2: [0.3, 0.4], 3: [math.inf, math.inf]}
    assert compare.best(nll) == 2
    written = {"1": [0.1, "diverged"], "2": [0.3, 0.4], "3": ["diverged", "diverged"]}
    assert compare.written(nll) == written


def test_every_key_climbs_by_itself(compare):
    grids = {"a": (1, 2, 3, 4), "b": (1, 2, 3, 4)}

    def of(jobs, _):
        return {job: {"nll": job[1] if job[0] == "a" else -job[1]} for job in jobs}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "run", of)
        tried = compare.climb(grids, {key: {} for key in grids}, lambda *job: [job], None)
    assert tried == {"a": {3: [3], 4: [4], 2: [2], 1: [1]}, "b": {3: [-3], 4: [-4]}}


def test_a_climb_goes_by_the_mean_of_its_tuning_seeds(compare, monkeypatch):
    """One seed likes 3 more than 2, the other less; and with 1 the other learns nothing."""
    of_seed = {1: (0, math.inf), 2: (3, 2), 3: (1, 5), 4: (9, 9)}
    monkeypatch.setattr(
        compare, "run", lambda jobs, _: {(v, i): {"nll": of_seed[v][i]} for v, i in jobs}
    )
    tried = compare.climb({"a": (1, 2, 3, 4)}, {"a": {}}, lambda _, v: [(v, 0), (v, 1)], None)
    assert list(tried["a"]) == [3, 4, 2, 1] and compare.best(tried["a"]) == 2
    assert tried["a"][1] == [0, math.inf]


def test_a_run_that_diverges_is_written_down_and_stops_nothing(compare, tmp_path, monkeypatch):
    def diverges(*args, **options):
        raise FloatingPointError

    monkeypatch.setattr(compare, "fit", diverges)
    monkeypatch.setattr(compare, "task_of", lambda *a: SimpleNamespace(train=None))
    monkeypatch.setattr(compare, "learner_of", lambda *a: None)
    job = compare.Job("small", "labels", 0, compare.TUNING_SEEDS[1], 0.2)
    assert compare.train_student(job, tmp_path, None, 1) == {"nll": math.inf}


# ---- who learns from whom, on any images

COLOURED = "CIFAR10"  # here: a few coloured images of noise


@pytest.fixture
def noise(compare, monkeypatch):
    """Forty coloured images for every name but MNIST, thirty of them to choose by."""

    def load(name, subset):
        assert name == COLOURED
        generator = torch.Generator().manual_seed(len(subset))
        x = torch.randint(0, 256, (40, 3, 32, 32), generator=generator, dtype=torch.uint8)
        return Images(x, torch.arange(40) % 5, tuple("abcde"), mean=0.5, std=0.5)

    real = compare.split
    monkeypatch.setattr(compare, "load", load)
    monkeypatch.setattr(compare, "split", lambda images, n: real(images, min(n, 30)))
    compare.task_of.cache_clear()
    compare.twin_of.cache_clear()
    yield
    compare.task_of.cache_clear()
    compare.twin_of.cache_clear()


def test_every_method_learns_from_what_it_says(compare, noise, tmp_path):
    cpu = torch.device("cpu")
    task = compare.task_of(COLOURED, tmp_path, cpu)
    of_teacher, cached = {}, {}
    for method, grid in compare.SETTINGS.items():
        job = compare.Job(COLOURED, method, grid[0], 3, 0.002)
        learner = compare.learner_of(job, tmp_path, cpu)
        fresh = compare.student(3, task.train)
        for ours, theirs in zip(
            learner.student.parameters(), fresh.parameters(), strict=True
        ):  # seed 3's initial weights, whoever teaches
            assert torch.equal(ours, theirs), method
        kind = {"labels": Supervised, "peers": Peers}.get(method, Distiller)
        assert type(learner) is kind, method
        if kind is Distiller:
            of_teacher[method] = learner.teacher is task.teacher
            cached[method] = learner.cached is not None
    assert [method for method, yes in of_teacher.items() if not yes] == ["born again"]
    answers = {"smoothed labels", "soft targets", "labels + soft targets", "logits", "decoupled"}
    assert {method for method, yes in cached.items() if yes} == {*answers, "born again"}


def test_another_set_is_compared_like_mnist(compare, noise, tmp_path):
    cpu = torch.device("cpu")
    for method in ("labels", "peers", "born again", "hint on fc1", "flow"):
        job = compare.Job(COLOURED, method, compare.SETTINGS[method][0], 0, 0.002)
        found = compare.train_student(job, tmp_path, cpu, torch.get_num_threads())
        assert set(found) == {"errors", "nll", "agreement", "kl_to_teacher"}
        assert 0 <= found["errors"] <= 40 and found["nll"] < 10
    teachers = sorted(path.name for path in tmp_path.glob("*.pt"))
    assert len(teachers) == 3 and all(f"-{COLOURED}-10-" in name for name in teachers)


def test_the_books_record_is_not_overwritten_by_other_data(compare, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["compare.py", "--data", "FashionMNIST"])
    with pytest.raises(SystemExit):
        compare.main()
    assert "--record: the book's record has full, small, crowded" in capsys.readouterr().err


# ---- the record


@pytest.fixture(scope="module")
def results():
    return load_record("comparison")["results"]


def test_every_method_was_tuned_in_the_same_way(results, compare):
    assert results["rates"] == list(compare.RATES)
    assert {name: tuple(grid) for name, grid in results["settings"].items()} == compare.SETTINGS
    assert {(row["data"], row["method"]) for row in results["rows"]} == {
        (data, method) for data in compare.EPOCHS for method in compare.SETTINGS
    }
    for row in results["rows"]:
        for tried, kept, grid in (
            (row["tried_rates"], row["learning_rate"], compare.RATES),
            (row["tried"], row["setting"], compare.SETTINGS[row["method"]]),
        ):
            known = {v: tried[str(v)] for v in grid if str(v) in tried}
            nll = {
                v: [math.inf if x == "diverged" else x for x in each] for v, each in known.items()
            }
            assert len(nll) == len(tried) <= compare.TRIES
            assert {len(each) for each in nll.values()} == {len(compare.TUNING_SEEDS)}
            assert kept == compare.best(nll)
            assert not compare.beside_best(grid, nll, compare.TRIES)  # the climb had ended


def test_the_test_images_were_met_by_five_seeds_that_tuned_nothing(results, compare):
    assert results["tuning_seeds"] == list(compare.TUNING_SEEDS)
    assert len(set(results["seeds"])) >= 5
    assert set(results["seeds"]).isdisjoint(compare.TUNING_SEEDS)
    for row in results["rows"]:
        for measure in ("errors", "nll", "agreement", "kl_to_teacher"):
            assert len(row[measure]) == len(results["seeds"])
