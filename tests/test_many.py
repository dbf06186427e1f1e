"""Many students trained at once are the students that would have been trained one by one."""

import pytest
import torch
from torch import nn

from distill_lib.data import Images
from distill_lib.distiller import Distiller
from distill_lib.many import Many, ManyDistillers
from distill_lib.models import CNN, MLP
from distill_lib.objectives import HardLabels, SoftTargets
from distill_lib.training import fit, predict

LOSSES = [
    {"labels": HardLabels()},
    {"soft": SoftTargets(tau=2.0)},
    {"labels": HardLabels(0.3), "soft": SoftTargets(tau=4.0, weight=0.7)},
]


def images(n=80):
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, 1, 6, 6), dtype=torch.uint8, generator=g)
    return Images(x, torch.randint(0, 3, (n,), generator=g), ("a", "b", "c"), 0.5, 0.3)


def mlp(seed):
    torch.manual_seed(seed)
    return MLP(36, 8, 3)


def close(a, b):
    torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cached", [False, True])
def test_each_student_ends_where_it_would_alone(cached):
    train, teacher = images(), mlp(9)
    logits = predict(teacher, train) if cached else None
    together = ManyDistillers(teacher, [mlp(i) for i in range(3)], LOSSES, teacher_logits=logits)
    history = fit(together, train, epochs=3, batch_size=32, progress=False)
    assert set(history[-1]) == {"loss", "labels 0", "soft 1", "labels 2", "soft 2", "seconds"}
    for i, student in enumerate(together.student.networks()):
        alone = Distiller(teacher, mlp(i), LOSSES[i], teacher_logits=logits)
        record = fit(alone, train, epochs=3, batch_size=32, progress=False)
        close(student, alone.student)
        for name in LOSSES[i]:
            assert history[-1][f"{name} {i}"] == pytest.approx(record[-1][name], rel=1e-4)


def test_a_convolutional_network_too():
    def cnn(seed):
        torch.manual_seed(seed)
        return CNN((2, 3), 4, dropout=0.0, image_size=16, n_classes=3)

    x = torch.randn(5, 1, 16, 16)
    many = Many([cnn(0), cnn(1)])
    for i in range(2):
        torch.testing.assert_close(many(x)[i], cnn(i)(x), rtol=1e-4, atol=1e-5)


def test_networks_come_back_with_weights_of_their_own():
    originals = [mlp(0), mlp(1)]
    many = Many(originals)
    for original, found in zip(originals, many.networks(), strict=True):
        close(original, found)
        assert not found.training
    with torch.no_grad():
        many.weights[0].zero_()
    assert originals[0].layers.fc1.weight.abs().sum() > 0, "the originals were copied"
    assert many.networks()[0].layers.fc1.weight.abs().sum() == 0


def test_one_students_loss_moves_no_other():
    many = Many([mlp(0), mlp(1)])
    many(images().floats(images().x))[0].square().sum().backward()
    for weights in many.weights:
        assert weights.grad[0].abs().sum() > 0
        assert weights.grad[1].abs().sum() == 0


def test_dropout_differs_between_them_and_is_off_in_evaluation():
    torch.manual_seed(0)
    network = MLP(36, 64, 3, dropout=0.5)
    many, x = Many([network, network]), torch.randn(4, 1, 6, 6)
    one, other = many.train()(x)
    assert not torch.equal(one, other)
    one, other = many.eval()(x)
    assert torch.equal(one, other)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"networks: expected one or more of the same archit"):
        Many([MLP(36, 8, 3), MLP(36, 9, 3)])
    with pytest.raises(ValueError, match=r"networks: expected one or more"):
        Many([])
    with pytest.raises(ValueError, match=r"without buffers"):
        Many([nn.Sequential(nn.BatchNorm1d(3))])
    with pytest.raises(ValueError, match=r"one mapping for each of 2 students, got 1"):
        ManyDistillers(mlp(0), [mlp(1), mlp(2)], LOSSES[:1])
    softmaxed = [nn.Sequential(mlp(i), nn.Softmax(dim=-1)) for i in range(2)]
    with pytest.raises(ValueError, match=r"students\[0\]: expected logits, got probabilities"):
        fit(ManyDistillers(mlp(0), softmaxed, LOSSES[:2]), images(), epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"losses: expected at least one for student 1, got none"):
        ManyDistillers(mlp(0), [mlp(1), mlp(2)], [LOSSES[0], {}])


def test_many_students_are_not_evaluated_while_they_train():
    learner = ManyDistillers(mlp(0), [mlp(1), mlp(2)], LOSSES[:2])
    before = learner.student.weights[0].detach().clone()
    with pytest.raises(ValueError, match=r"validation: one student .*got \(2, 1, 3\)"):
        fit(learner, images(), epochs=1, validation=images(), progress=False)
    assert torch.equal(before, learner.student.weights[0]), "before the first step"


def test_a_checkpoint_of_other_networks_with_the_same_weights_is_refused(tmp_path):
    def run(dropout):
        students = [MLP(36, 8, 3, dropout=dropout) for _ in range(2)]
        learner = ManyDistillers(mlp(0), students, LOSSES[:2])
        fit(learner, images(), epochs=1, checkpoint=tmp_path / "run.pt", progress=False)

    run(0.2)
    run(0.2)
    with pytest.raises(ValueError, match=r"of another run: it has learner .*p=0.2.*p=0.5"):
        run(0.5)


def test_weights_that_two_layers_share_come_back_shared():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(36, 36), nn.Linear(36, 36)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(self.first(x.flatten(1)).relu())

    originals, x = [Tied(), Tied()], torch.randn(4, 1, 6, 6)
    for original, found in zip(originals, Many(originals).networks(), strict=True):
        assert found.second.weight is found.first.weight
        torch.testing.assert_close(found(x), original(x))


def test_what_is_frozen_stays_frozen():
    students = [mlp(1), mlp(2)]
    for student in students:
        student.layers.fc1.requires_grad_(False)
    learner = ManyDistillers(mlp(0), students, LOSSES[:2])
    fit(learner, images(), epochs=1, progress=False)
    for before, after in zip(students, learner.student.networks(), strict=True):
        assert torch.equal(before.layers.fc1.weight, after.layers.fc1.weight)
        assert not torch.equal(before.layers.fc2.weight, after.layers.fc2.weight)
