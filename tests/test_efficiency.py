"""Operations and bytes by hand and against torch's profiler; times of a network that sleeps."""

import json
import runpy
import sys
import time
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from set_address import ROOT
from torch import nn
from torch.profiler import ProfilerActivity, profile

from distill_lib.data import Batch
from distill_lib.efficiency import (
    count_flops,
    latency,
    peak_activation_bytes,
    peak_step_bytes,
    weight_bytes,
)
from distill_lib.models import CNN, MLP
from distill_lib.training import Supervised


@given(st.lists(st.integers(1, 40), min_size=2, max_size=5), st.integers(1, 9))
@settings(max_examples=10, deadline=None)
def test_flops_and_bytes_of_a_fully_connected_network_by_hand(sizes, batch):
    model, x = MLP(*sizes), torch.zeros(batch, 1, 1, sizes[0])
    pairs = list(pairwise(sizes))
    assert count_flops(model, x) == 2 * batch * sum(a * b for a, b in pairs)
    assert weight_bytes(model) == 4 * sum(a * b + b for a, b in pairs)


def test_flops_of_the_teacher_by_hand():
    convolutions = 24 * 24 * 16 * 25 + 8 * 8 * 32 * 16 * 25
    assert count_flops(CNN(), torch.zeros(3, 1, 28, 28)) == 3 * 2 * (
        convolutions + 512 * 128 + 128 * 10
    )


def test_buffers_are_stored_too():
    assert weight_bytes(nn.BatchNorm1d(7)) == 4 * 4 * 7 + 8  # and a counter of 8 bytes
    assert weight_bytes(nn.Linear(3, 2).half()) == 2 * 8


def test_peak_by_hand():
    x = torch.zeros(5, 100)
    assert peak_activation_bytes(nn.Linear(100, 7), x) == 4 * 5 * 7
    assert peak_activation_bytes(nn.Flatten(), x) == 0  # a view takes no memory
    assert peak_activation_bytes(nn.ReLU(inplace=True), x) == 0
    wide = nn.Sequential(nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 2))
    assert peak_activation_bytes(wide, x) == 4 * 5 * (50 + 50)  # before and after the ReLU


@pytest.mark.parametrize("model", [MLP(784, 300, 20, 10), CNN(), CNN((3, 5), 7)], ids=repr)
def test_peak_is_that_of_the_profiler(model):
    x = torch.randn(20, 1, 28, 28)
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        model.eval()(x)
    live = peak = 0
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    assert peak_activation_bytes(model, x) == peak > 0


def test_peak_repeats_and_grows_with_the_batch():
    model = CNN()
    peaks = [peak_activation_bytes(model, torch.zeros(n, 1, 28, 28)) for n in (1, 1, 10)]
    assert peaks[0] == peaks[1] == peaks[2] / 10


@pytest.mark.parametrize("model", [MLP(784, 300, 20, 10), CNN(dropout=0)], ids=repr)
def test_peak_of_a_training_step_is_that_of_the_profiler(model):
    y, learner = torch.arange(20) % 10, Supervised(model)
    batch = Batch(torch.randn(20, 1, 28, 28), y, torch.arange(20), 0, 20, augmented=False)
    learner(batch)  # its first call checks the labels
    counted = peak_step_bytes(learner, batch)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        sum(learner(batch).values()).backward()
    live = peak = 0
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    gradients = weight_bytes(model)
    assert all(p.grad is not None for p in model.parameters())
    assert gradients < counted <= peak < 1.5 * counted  # the profiler sees scratch space too
    assert peak_step_bytes(learner, batch) == counted
    assert all(p.grad is None for p in model.parameters())


class Sleeper(nn.Module):
    """Sleeps, longer in its first calls; remembers the mode of each call."""

    def __init__(self):
        super().__init__()
        self.modes = []

    def forward(self, x):
        self.modes.append((self.training, torch.is_grad_enabled()))
        time.sleep(0.05 if len(self.modes) <= 3 else 0.002)
        return x


def test_latency_leaves_the_first_calls_out_and_the_mode_as_it_was():
    model = Sleeper().train()
    found = latency(model, torch.zeros(1), repeats=9, warmup=3)
    assert 0.002 <= found.low <= found.median <= found.high
    assert found.median < 0.05
    assert model.modes == [(False, False)] * 12
    assert model.training
    assert found.threads == torch.get_num_threads()


def test_a_model_keeps_its_mode_whatever_happens():
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("no")

    for measure in (count_flops, peak_activation_bytes, latency):
        model = nn.Sequential(nn.Dropout().eval(), Broken())
        with pytest.raises(RuntimeError, match="no"):
            measure(model, torch.zeros(1))
        assert model.training and not model[0].training


@pytest.mark.parametrize("arguments", [{"repeats": 0}, {"warmup": -1}])
def test_bad_input_is_named(arguments):
    with pytest.raises(ValueError, match="repeats and warmup: expected"):
        latency(nn.ReLU(), torch.zeros(1), **arguments)


def test_the_benchmark_runs_and_writes_a_record(tmp_path, monkeypatch):
    path = tmp_path / "efficiency.json"
    script = str(ROOT / "benchmarks" / "efficiency.py")
    arguments = ["--repeats", "2", "--images", "512", "--record", str(path)]
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(script, run_name="__main__")  # in this process: torch is here already
    results = json.loads(path.read_text())["results"]
    assert {row["network"] for row in results["networks"]} >= {"teacher", "student"}
    for row in results["networks"]:
        assert row["seconds_one_image"]["median"] > 0
    assert set(results["training_step"]) == {"labels", "teacher, cached", "teacher, asked"}
