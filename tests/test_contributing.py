"""The loss that CONTRIBUTING.md adds can be added as it says, and learns."""

import re
import textwrap

import numpy as np
import pytest
import torch
from set_address import ROOT
from torch import Tensor, nn
from torch.nn import functional as F

from distill_lib import features, objectives, relations
from distill_lib.data import Images
from distill_lib.distiller import Distiller
from distill_lib.models import MLP
from distill_lib.objectives import HardLabels, Loss, Step, check_tau, in_full_precision
from distill_lib.training import fit


def example(name):
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    (code,) = re.findall(rf"<!-- {name} -->\s*```python\n(.*?)```", text, re.S)
    return textwrap.dedent(code)


def test_the_example_plays_through():
    torch.manual_seed(0)
    x = torch.randint(0, 256, (64, 1, 6, 6), dtype=torch.uint8)
    train = Images(x, torch.randint(0, 3, (64,)), ("a", "b", "c"), 0.5, 0.3)
    teacher, student = MLP(36, 20, 3), MLP(36, 5, 3)
    names = {
        "Distiller": Distiller, "F": F, "HardLabels": HardLabels, "Loss": Loss, "Step": Step,
        "Tensor": Tensor, "check_tau": check_tau, "fit": fit,
        "in_full_precision": in_full_precision, "student": student, "teacher": teacher,
        "train": train,
    }  # fmt: skip
    exec(example("loss"), names)
    exec(example("loss in use"), names)
    loss = names["correlation_loss"]
    z, v = torch.randn(2, 4, 3)
    p, q = ((a / 2).softmax(1).numpy() for a in (v, z))
    by_hand = 1 - np.mean([np.corrcoef(p[b], q[b])[0, 1] for b in range(4)])
    assert float(loss(z, v, 2.0)) == pytest.approx(by_hand, abs=1e-5)
    assert float(loss(v, v, 2.0)) == pytest.approx(0, abs=1e-6)
    for bad in (lambda: loss(z, v, 0), lambda: names["Correlation"](tau=0)):
        with pytest.raises(ValueError, match="tau: expected a temperature above 0, got 0"):
            bad()
    with pytest.raises(ValueError, match=r"logits: expected one shape .* \(4, 3\) and \(1, 3\)"):
        loss(z, v[:1], 2.0)  # else each sample would be compared with the first
    learner = Distiller(teacher, student, {"correlation": names["Correlation"](tau=4.0)})
    history = fit(learner, train, epochs=10, progress=False)
    assert history[-1]["correlation"] < history[0]["correlation"]


def test_the_table_of_losses_has_all_of_them():
    notation = (ROOT / "chapters" / "notation.md").read_text("utf-8")
    table = notation.split("## Every loss in one table")[1].split("\n## ")[0]
    modules = (objectives, features, relations)
    losses = {
        name
        for module in modules
        for name, value in vars(module).items()
        if getattr(value, "__module__", "") == module.__name__
        and (
            name.endswith(("_loss", "_losses"))
            or (name not in ("Loss", "FeatureLoss") and is_module(value))
        )
    }
    assert {"SoftTargets", "flow_loss"} < losses
    assert losses <= set(re.findall(r"`(\w+)`", table))


def is_module(value):
    return isinstance(value, type) and issubclass(value, nn.Module)
