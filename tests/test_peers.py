"""Peers pull only themselves; an ensemble speaks with the mean of its members' probabilities."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from distill_lib.data import Batch, Images
from distill_lib.distiller import Distiller
from distill_lib.features import AttentionTransfer
from distill_lib.many import ManyDistillers
from distill_lib.models import CNN, MLP
from distill_lib.objectives import HardLabels, LogitMatching, SoftTargets
from distill_lib.peers import Ensemble, Peers
from distill_lib.relations import Flow
from distill_lib.training import evaluate, fit

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def images(n=64):
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, 1, 6, 6), generator=g, dtype=torch.uint8)
    return Images(x, torch.randint(0, 3, (n,), generator=g), ("a", "b", "c"), 0.5, 0.3)


def batch_of(data):
    return Batch(data.floats(data.x), data.y, torch.arange(len(data)), 0, len(data), False)


def networks(n):
    torch.manual_seed(0)
    return [MLP(36, 8, 3) for _ in range(n)]


def mutual():
    return {"labels": HardLabels(), "peers": SoftTargets(tau=1.0)}


def test_deep_mutual_learning_by_hand():
    students, data = networks(3), images()
    parts = Peers(students, mutual())(batch_of(data))
    x = data.floats(data.x)
    p = [student(x).softmax(1) for student in students]
    assert list(parts) == [f"{name} {i}" for i in range(3) for name in ("labels", "peers")]
    for i in range(3):
        torch.testing.assert_close(parts[f"labels {i}"], F.nll_loss(p[i].log(), data.y))
        divergences = [(p[j] * (p[j] / p[i]).log()).sum(1).mean() for j in range(3) if j != i]
        torch.testing.assert_close(parts[f"peers {i}"], sum(divergences) / 2)


@pytest.mark.parametrize("loss", [SoftTargets(tau=2.0), LogitMatching()])
def test_twins_have_nothing_to_teach_each_other(loss):
    (one,) = networks(1)
    data = images()
    twins = Peers([one, copy.deepcopy(one)], {"peers": loss})(batch_of(data))
    assert all(part.abs() < 1e-7 for part in twins.values())
    others = Peers(networks(2), {"peers": loss})(batch_of(data))
    assert all(part > 1e-4 for part in others.values())


def test_under_autocast_peers_compare_in_float32():
    class Spy(nn.Module):
        def forward(self, step):
            dtypes.extend([step.student_logits.dtype, step.teacher_logits.dtype])
            return step.student_logits.square().mean()

    dtypes = []
    students, data = networks(2), images()
    with torch.autocast("cpu", torch.bfloat16):
        assert students[0](batch_of(data).x).dtype == torch.bfloat16
        Peers(students, {"spy": Spy()})(batch_of(data))
    assert set(dtypes) == {torch.float32}


def test_under_autocast_an_ensemble_speaks_in_float32():
    members, data = networks(3), images()
    x = data.floats(data.x)
    with torch.autocast("cpu", torch.bfloat16):
        said, alone = Ensemble(members)(x), [member(x).float() for member in members]
    mean = torch.stack([z.softmax(1) for z in alone]).mean(0)
    torch.testing.assert_close(said, mean.log(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_peers_and_ensembles_work_where_the_data_are(device):
    found = []
    for place in ("cpu", device):
        *members, student = networks(4)
        data = images().to(place)
        history = fit(Peers(members, mutual()), data, epochs=2, progress=False)
        learner = Distiller(Ensemble(members), student, {"soft": SoftTargets(tau=1.0)})
        taught = fit(learner, data, epochs=2, progress=False)
        found.append([history[-1]["peers 0"], history[-1]["labels 2"], taught[-1]["soft"]])
        assert {p.device.type for p in learner.parameters()} == {place}
    assert found[0] == pytest.approx(found[1], rel=1e-3)


@pytest.mark.parametrize(
    "loss",
    [
        AttentionTransfer("conv2", "conv2"),
        Flow(("conv1", "conv2"), ("conv1", "conv2")),
        nn.Sequential(AttentionTransfer("conv2", "conv2")),  # inside another loss
    ],
)
def test_losses_of_layers_are_refused_where_there_are_logits_only(loss):
    a, b = CNN((2, 3), 4), CNN((2, 3), 4)
    reading = "Flow" if isinstance(loss, Flow) else "AttentionTransfer"
    losses = {"labels": HardLabels(), "maps": loss}
    with pytest.raises(ValueError, match=rf"losses\['maps'\]: {reading} reads layers, and Peers "):
        Peers([a, b], losses)
    with pytest.raises(ValueError, match=rf"losses\['maps'\]: {reading} reads layers, and ManyD"):
        ManyDistillers(a, [b, b], [{"labels": HardLabels()}, losses])


def test_an_error_of_a_loss_says_whose_it_is():
    students = [MLP(36, 8, 3), MLP(36, 8, 4)]
    message = r"losses\['peers'\], SoftTargets: .*\(64, 3\) and \(64, 4\).* same classes"
    with pytest.raises(ValueError, match=message):
        Peers(students, mutual())(batch_of(images()))
    with pytest.raises(ValueError, match=message):
        ManyDistillers(students[1], students[:1], [mutual()])(batch_of(images()))


def test_no_student_is_pulled_towards_those_it_teaches():
    students, data = networks(2), images()
    Peers(students, mutual())(batch_of(data))["peers 0"].backward()
    assert students[0].layers.fc1.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in students[1].parameters())


def test_peers_train_together_and_the_first_is_evaluated():
    students, data = networks(2), images()
    start = [copy.deepcopy(s.state_dict()) for s in students]
    history = fit(Peers(students, mutual()), data, epochs=3, validation=data, progress=False)
    for student, before in zip(students, start, strict=True):
        assert not torch.equal(before["layers.fc1.weight"], student.layers.fc1.weight)
    assert history[-1]["validation_accuracy"] == evaluate(students[0], data)["accuracy"]


def test_peers_refuse():
    (a, b), data = networks(2), images()
    for students in ([a], [a, a]):
        with pytest.raises(ValueError, match="students: expected two or more different networks"):
            Peers(students, mutual())
    with pytest.raises(ValueError, match="losses: expected at least one"):
        Peers([a, b], {})
    sure = nn.Sequential(b, nn.Softmax(dim=1))
    with pytest.raises(ValueError, match=r"students\[1\]: expected logits, got probabilities"):
        Peers([a, sure], mutual())(batch_of(data))


def test_an_ensemble_is_the_mean_of_probabilities():
    members, data = networks(4), images()
    x = data.floats(data.x)
    mean = torch.stack([member(x).softmax(1) for member in members]).mean(0)
    torch.testing.assert_close(Ensemble(members)(x).softmax(1), mean)
    torch.testing.assert_close(Ensemble(members)(x).exp().sum(1), torch.ones(64))
    torch.testing.assert_close(Ensemble(members[:1])(x), members[0](x).log_softmax(1))


def test_a_member_that_ends_in_a_softmax_is_refused():
    """The ensemble's own logarithm would hide it: ln p is no less than a softmax's logits."""
    a, b = networks(2)
    ensemble = Ensemble([a, nn.Sequential(b, nn.Softmax(dim=1))])
    with pytest.raises(ValueError, match=r"members\[1\]: expected logits, got probabilities"):
        ensemble(torch.randn(5, 1, 6, 6))


def test_an_ensemble_teaches_like_any_teacher():
    *members, student = networks(4)
    learner = Distiller(Ensemble(members), student, {"soft": SoftTargets(tau=1.0)})
    history = fit(learner, images(), epochs=10, progress=False)
    assert history[-1]["soft"] < history[0]["soft"]
    assert all(p.grad is None for member in members for p in member.parameters())
    with pytest.raises(ValueError, match="members: expected at least one"):
        Ensemble([])
