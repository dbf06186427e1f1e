"""Records say what was run, where, and with what; the benchmark writes such a record."""

import json
import subprocess
import sys

import pytest
import torch
from set_address import ROOT

from distill_lib import records
from distill_lib.records import load_record, save_record


def check_provenance(record):
    assert {"command", "date", "versions", "hardware", "results"} == set(record)
    assert record["versions"]["torch"].startswith("2.")
    assert record["hardware"]["cpu"]
    assert record["hardware"]["cores"] >= 1


def test_a_record_carries_its_provenance(tmp_path):
    path = tmp_path / "r.json"
    save_record(path, "make it", [{"x": 1.5}])
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


def test_an_unknown_record_lists_those_there_are():
    with pytest.raises(
        FileNotFoundError, match=r"name: no record 'speed'; there are \[.*fit-speed"
    ):
        load_record("speed")


def test_the_processor_has_a_name_on_every_system(monkeypatch):
    monkeypatch.setattr(records.platform, "system", lambda: "Windows")
    monkeypatch.setattr(records, "Path", lambda p: ROOT / "no such file")
    monkeypatch.setattr(records.platform, "processor", lambda: "a processor")
    assert records._cpu_name() == "a processor"


def test_the_benchmark_runs_and_writes_a_record(tmp_path):
    path = tmp_path / "speed.json"
    arguments = ["--repeats", "1", "--images", "1500", "--record", str(path)]
    script = ROOT / "benchmarks" / "fit_speed.py"
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads(path.read_text())
    check_provenance(record)
    assert [row["network"] for row in record["results"]] == ["CNN", "MLP 784-1200-1200-10"]
    for row in record["results"]:
        assert row["images"] == 1500
        assert row["ratio_median"] == pytest.approx(
            row["usual_seconds"][0] / row["fit_seconds"][0], rel=0.2
        )
