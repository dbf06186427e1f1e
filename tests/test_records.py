"""Records say what was run, where, and with what; the benchmark writes such a record."""

import importlib
import json
import runpy
import sys
from pathlib import Path

import pytest
import recording
import torch
from nbformat.v4 import new_code_cell, new_notebook
from set_address import ROOT

from distill_lib import recipes
from distill_lib.records import load_record, load_weights


def check_provenance(record):
    assert {"command", "date", "versions", "hardware", "results"} == set(record)
    assert record["versions"]["torch"].startswith("2.")
    assert record["hardware"]["cpu"]
    assert record["hardware"]["cores"] >= 1


def test_a_record_carries_its_provenance(tmp_path):
    path = tmp_path / "r.json"
    recording.save_record(path, "make it", [{"x": 1.5}])
    record = json.loads(path.read_text())
    check_provenance(record)
    assert record["command"] == "make it"
    assert record["results"] == [{"x": 1.5}]
    recorded, running = record["versions"]["torch"], torch.__version__
    assert recorded.split("+")[0] == running.split("+")[0]  # some builds add "+cpu" and the like


@pytest.mark.parametrize("path", sorted((ROOT / "distill_lib" / "records").glob("*.json")))
def test_stored_records_are_complete_and_name_no_machine(path):
    record = load_record(path.stem)
    check_provenance(record)
    assert "/" not in record["command"].replace("benchmarks/", "")


def test_a_gpu_leaves_a_record_of_its_own(monkeypatch):
    for there, name in ((False, "efficiency.json"), (True, "efficiency-gpu.json")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert recording.record_path("efficiency").name == name
    assert recording.record_path("efficiency").parent == ROOT / "distill_lib" / "records"


def test_an_unknown_record_lists_those_there_are():
    with pytest.raises(
        FileNotFoundError, match=r"name: no record 'speed'; there are \[.*fit-speed"
    ):
        load_record("speed")


def test_unknown_weights_list_those_there_are():
    with pytest.raises(FileNotFoundError, match=r"'speed'; there are \['hinton2015-distilled'\]"):
        load_weights("speed")


def test_the_processor_has_a_name_on_every_system(monkeypatch):
    monkeypatch.setattr(recording.platform, "system", lambda: "Windows")
    monkeypatch.setattr(recording, "Path", lambda p: ROOT / "no such file")
    monkeypatch.setattr(recording.platform, "processor", lambda: "a processor")
    assert recording.cpu_name() == "a processor"


def test_the_benchmark_runs_and_writes_a_record(tmp_path, monkeypatch):
    path = tmp_path / "speed.json"
    script = str(ROOT / "benchmarks" / "fit_speed.py")
    arguments = ["--repeats", "1", "--images", "600", "--record", str(path)]
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(script, run_name="__main__")  # in this process: torch is here already
    record = json.loads(path.read_text())
    check_provenance(record)
    assert min(record["results"]["peak_memory"].values()) > 10
    epochs = record["results"]["epochs"]
    assert [(row["network"], row["precision"]) for row in epochs] == [
        ("CNN", "float32"),
        ("CNN", "bfloat16"),
        ("MLP 784-1200-1200-10", "float32"),
        ("MLP 784-1200-1200-10", "bfloat16"),
    ]
    for row in epochs:
        assert row["images"] == 600
        assert row["ratios"]["usual to fit"]["median"] == pytest.approx(
            row["seconds"]["usual"][0] / row["seconds"]["fit"][0], rel=0.3
        )


def test_teachers_luck_is_measured_with_students_of_equal_seeds(tmp_path, monkeypatch):
    train, validation, test = recipes.mnist()
    few = (train[:600], validation[:200], test[:500])
    monkeypatch.setattr(recipes, "mnist", lambda: few)
    monkeypatch.setenv("DISTILL_LIB_CACHE", str(tmp_path))
    path = tmp_path / "luck.json"
    script = str(ROOT / "benchmarks" / "teacher_luck.py")
    arguments = ["--teachers", "2", "--students", "2", "--record", str(path)]
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    found = runpy.run_path(script, run_name="__main__")
    record = json.loads(path.read_text())
    check_provenance(record)
    results = record["results"]
    assert results["student_seeds"] == [100, 101]
    first, second = results["teachers"]
    for scores in (results["labels"], first["students"], second["students"]):
        assert set(scores) >= {"errors", "nll", "nll_own_temperature"}
        assert all(len(values) == 2 for values in scores.values())
    assert max(first["students"]["mistakes_made_again"]) <= first["itself"]["errors"]
    assert first["itself"]["errors"] < 450  # of 500: it has learnt
    assert first["itself"]["nll"] != second["itself"]["nll"]  # two networks
    assert first["students"]["nll"] != second["students"]["nll"]
    again = found["train_student"](101, few[0])  # the same student, trained by itself
    assert found["score"](again, *few[1:])[0]["errors"] == results["labels"]["errors"][1]
    teacher = recipes.mnist_teacher(few[0], seed=1)
    taught = found["train_student"](101, few[0], teacher)
    scores, _ = found["score"](taught, *few[1:])
    assert abs(scores["nll"] - second["students"]["nll"][1]) < 1e-3


def test_labs_are_timed_past_a_cell_that_fails(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    lab_times = importlib.import_module("lab_times")
    cells = [
        ("bad", "assert 1 == 2"),
        ("good", "import os; print(os.environ['DISTILL_LIB_CACHE'])"),
    ]
    notebook = new_notebook(cells=[new_code_cell(source, id=name) for name, source in cells])
    seconds, failed = lab_times.run(notebook, lab_times.core_seconds)
    assert failed == ["bad"]
    cache = Path(notebook.cells[1].outputs[0].text.strip())
    assert cache.is_absolute() and not cache.exists()  # a folder of its own, gone with the kernel
    assert 0 < seconds < 60
