"""The reproduction of Hinton et al. (2015): its parts by hand, one seed cut short, the record."""

import importlib
import json
import sys

import nbformat
import numpy as np
import pytest
import torch
from set_address import ROOT
from torch import nn

from distill_lib.analysis import error_count
from distill_lib.data import Images, load
from distill_lib.models import MLP, PooledDropout
from distill_lib.records import load_record, load_weights
from distill_lib.training import predict

CHAPTER = ROOT / "chapters" / "18-hinton-2015.ipynb"
PAPER = {67, 146, 74, 206, 109, 4730, 1320}


@pytest.fixture(scope="module")
def hinton():
    """The script, as a module."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("hinton2015")
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def chapter():
    """The names that the chapter's defining cells make."""
    cells = {cell.id: cell.source for cell in nbformat.read(CHAPTER, as_version=4).cells}
    names = {"torch": torch, "nn": nn, "np": np}
    for name in ("define-dropout", "define-bias"):
        exec(cells[name], names)
    return names


# ---- the parts, by hand


def test_a_unit_whose_weights_are_too_long_is_shortened_and_no_other(hinton):
    weights = nn.Parameter(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
    bias = nn.Parameter(torch.tensor([7.0, 7.0]))
    optimizer = hinton.constrained_sgd([weights, bias], lr=0.0, longest=1.0)
    (weights.sum() + bias.sum()).backward()
    optimizer.step()
    torch.testing.assert_close(weights.data, torch.tensor([[0.6, 0.8], [0.3, 0.4]]))
    assert bias.tolist() == [7, 7]


def images_and_logits():
    """Ten images, and a network that gives image i the i-th row of logits."""
    logits = torch.zeros(10, 4)
    logits[:, 0] = 2.0
    logits[:5, 3] = torch.tensor([1.95, 1.85, 1.55, 1.05, 0.25])  # 3s, of which none is recognised
    y = torch.tensor([3, 3, 3, 0, 0, 0, 0, 0, 0, 0])
    x = torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1)

    class Lookup(nn.Module):
        def forward(self, x):
            return logits[x.flatten().round().long()]

    return Lookup(), Images(x, y, tuple("0123"), mean=0.0, std=1 / 255)


def test_a_bias_by_frequency_uses_no_label(hinton, chapter):
    model, images = images_and_logits()
    grid = [i / 10 for i in range(31)]
    assert hinton.bias_by_frequency(model, images, [3], grid) == 0.5  # three of ten
    shuffled = Images(images.x, images.y.flip(0), images.classes, images.mean, images.std)
    assert hinton.bias_by_frequency(model, shuffled, [3], grid) == 0.5
    assert chapter["bias_by_frequency"](predict(model, images), 3, 0.3) == 0.5


def test_a_bias_by_errors_has_the_fewest(hinton):
    model, images = images_and_logits()
    grid = [i / 10 for i in range(31)]
    bias = hinton.bias_by_errors(model, images, [3], grid)
    assert bias == 0.5
    moved = hinton.with_bias(predict(model, images), [3], bias)
    assert error_count(moved, images.y) == 0
    assert hinton.bias_by_errors(model, images, [3], [0.0]) == 0.0


def test_the_chapters_dropout_is_the_librarys(chapter):
    x, outputs = torch.randn(30, 40), []
    for kind in (PooledDropout, chapter["PooledDropout"]):
        torch.manual_seed(3)
        drop = kind(0.4, pool_size=5000).train()
        outputs.append([drop(x), drop(x), drop.train()(x), drop.eval()(x)])
    for ours, librarys in zip(*outputs, strict=True):
        assert torch.equal(ours, librarys)


def test_a_row_waits_for_the_teachers_that_it_asks_and_for_no_other(hinton):
    seeds = [1, 3]
    assert hinton.needed((3, "teacher"), seeds) == hinton.needed((3, "labels"), seeds) == []
    assert hinton.needed((3, "distilled"), seeds) == [(3, "teacher")]
    everyone = [(1, "teacher"), (3, "teacher")]
    for row in hinton.OF_ALL_TEACHERS:
        assert hinton.needed((3, row), seeds) == everyone
    assert set(hinton.ROWS) > hinton.OF_LABELS | hinton.NOT_THE_PAPERS


def test_of_one_seed_there_is_no_row_that_departs_from_the_paper(hinton, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(hinton, "run", lambda jobs, setup: asked.extend(jobs))
    monkeypatch.setattr(hinton, "matmul_peak", lambda setup: 0.5)
    resume = str(tmp_path / "done.jsonl")
    for seeds in (["7"], ["7", "8"]):
        asked.clear()
        monkeypatch.setattr(sys, "argv", ["hinton2015.py", "--resume", resume, "--seeds", *seeds])
        hinton.main()
        rows = {row for _, row in asked}
        assert rows == set(hinton.ROWS) - (hinton.NOT_THE_PAPERS if len(seeds) == 1 else set())
        assert asked[: len(seeds)] == [(int(seed), "teacher") for seed in seeds]
        assert len(asked) == len(set(asked)) == len(seeds) * len(rows)


def test_a_row_of_all_teachers_asks_for_all_seeds(hinton, monkeypatch, capsys):
    command = ["hinton2015.py", "--seeds", "3", "--rows", "distilled, all teachers"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        hinton.main()
    assert "--seeds 1 2 3 4 5" in capsys.readouterr().err


# ---- one seed, cut short


@pytest.fixture(scope="module")
def short(hinton, tmp_path_factory):
    """A few rows of seed 9 with a tenth of the epochs."""
    full = {name: dict(recipe) for name, recipe in hinton.RECIPES.items()}
    epochs = {"teacher": 4, "labels": 3, "soft": 4, "soft and hints": 6, "sweep": 1}
    for name, number in epochs.items():
        hinton.RECIPES[name]["epochs"] = number
    folder = tmp_path_factory.mktemp("hinton")
    names = ("teacher", "labels", "distilled", "distilled with hints", "30 units")
    names += ("without 3s", "labels without 3s")
    threads = torch.get_num_threads()
    rows = {name: hinton.run_row(9, name, folder, torch.device("cpu"), threads) for name in names}
    hinton.RECIPES.update(full)
    return rows, folder


def test_the_teacher_and_its_students_are_roughly_as_good_as_they_should_be(short):
    found = {name: row["found"] for name, row in short[0].items()}
    teacher, labels, distilled = (
        found[n][""]["errors"] for n in ("teacher", "labels", "distilled")
    )
    assert 80 < teacher < 230
    assert 140 < labels < 320
    assert 90 < distilled < 280


def test_who_copies_hidden_layers_copies_the_indifference_to_shifts(short):
    logits, hints = (short[0][name]["found"][""] for name in ("distilled", "distilled with hints"))
    assert hints["errors"] < logits["errors"] + 30
    assert hints["errors_on_shifted"] < 0.95 * logits["errors_on_shifted"]
    assert logits["errors_on_shifted"] > 1.5 * logits["errors"]


def test_a_student_that_never_saw_a_3_gets_many_right(short):
    rows = short[0]
    labels = rows["labels without 3s"]["found"][""]
    assert labels["errors_on_omitted"] == 1010
    ways = rows["without 3s"]["found"]
    assert ways["no bias"]["errors_on_omitted"] < 700
    for way in ("class frequency", "held-out labels", "tuned on test"):
        assert ways[way]["bias"] > 0
        assert ways[way]["errors"] < ways["no bias"]["errors"]
        assert ways[way]["errors_on_omitted"] < ways["no bias"]["errors_on_omitted"]
    best = ways["tuned on test"]["errors"]
    assert all(best <= ways[way]["errors"] for way in ways)


def test_the_cost_of_a_row_is_counted(short, hinton):
    # 15 epochs of 58,000 images: forwards, then backwards for weights and, but for pixels, inputs
    weights = 784 * 800 + 800 * 800 + 800 * 10
    expected = 3 * 58_000 * 2 * (3 * weights - 784 * 800) / 1e12
    assert short[0]["labels"]["teraflops"] == pytest.approx(expected, rel=0.01)
    assert short[0]["labels"]["seconds"] > 0


def test_the_kept_weights_are_the_students(short, hinton):
    from safetensors.torch import load_file

    student = MLP(784, 800, 800, 10)
    halves = load_file(short[1] / "distilled-9.safetensors")
    assert {p.dtype for p in halves.values()} == {torch.float16}
    student.load_state_dict(halves)
    test = load("MNIST", "test", device="cpu")
    recorded = short[0]["distilled"]["found"][""]["errors"]
    assert error_count(predict(student, test), test.y) == pytest.approx(recorded, abs=3)


# ---- the record


@pytest.fixture(scope="module")
def results():
    return load_record("hinton2015")["results"]


def test_the_record_has_every_row_for_five_seeds(results, hinton):
    assert list(results["rows"]) == list(hinton.ROWS)
    assert len(set(results["seeds"])) >= 5
    for runs in results["rows"].values():
        assert len(runs) == len(results["seeds"])
        for run in runs:
            assert run["seconds"] > 0 and run["teraflops"] > 0
            assert all("held_out_errors" in found for found in run["found"].values())
    assert set(results["paper"].values()) == PAPER
    assert results["recipes"] == json.loads(
        json.dumps({name: hinton.described(recipe) for name, recipe in hinton.RECIPES.items()})
    ), "the script's recipes are not the record's"


def test_seeds_differ(results):
    for row in ("teacher", "labels", "distilled"):
        assert len({str(run["found"]) for run in results["rows"][row]}) > 1


def test_the_weights_make_the_errors_that_the_record_says(results):
    student = MLP(784, 800, 800, 10)
    student.load_state_dict(load_weights("hinton2015-distilled"))
    test = load("MNIST", "test", device="cpu")
    recorded = results["rows"]["distilled"][0]["found"][""]["errors"]
    assert error_count(predict(student, test), test.y) == pytest.approx(recorded, abs=2)


def test_a_finished_run_prints_the_table_and_writes_the_record_again(
    hinton, results, tmp_path, monkeypatch, capsys
):
    resume, record = tmp_path / "done.jsonl", tmp_path / "out" / "hinton2015.json"
    record.parent.mkdir()
    (tmp_path / "done").mkdir()
    weights = f"distilled-{results['seeds'][0]}.safetensors"
    (tmp_path / "done" / weights).write_bytes(b"weights")
    with resume.open("w") as file:
        for row, runs in results["rows"].items():
            for seed, run in zip(results["seeds"], runs, strict=True):
                print(json.dumps([seed, row, run]), file=file)
    seeds = [str(seed) for seed in results["seeds"]]
    options = ["--resume", str(resume), "--record", str(record), "--workers", "1"]
    monkeypatch.setattr(hinton, "matmul_peak", lambda setup: 0.5)
    monkeypatch.setattr(sys, "argv", ["hinton2015.py", "--seeds", *seeds, *options])
    hinton.main()
    printed = capsys.readouterr().out
    teacher = [run["found"][""]["errors"] for run in results["rows"]["teacher"]]
    assert f"{np.mean(teacher):.1f}" in printed and "tuned on test" in printed
    assert json.loads(record.read_text())["results"]["rows"] == results["rows"]
    assert record.with_name("hinton2015-distilled.safetensors").read_bytes() == b"weights"

    record.unlink()
    monkeypatch.setattr(sys, "argv", ["hinton2015.py", "--seeds", *seeds[:2], *options])
    hinton.main()
    assert "no record is written" in capsys.readouterr().out and not record.exists()
