"""The teacher stays as it was, the student moves toward it, the cache is by sample index."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from distill_lib.data import Batch, Images, jitter
from distill_lib.distiller import Distiller
from distill_lib.features import Hint
from distill_lib.layers import read_layers
from distill_lib.models import MLP
from distill_lib.objectives import HardLabels, SoftTargets
from distill_lib.peers import Ensemble
from distill_lib.training import fit, predict

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
sgd = partial(torch.optim.SGD, lr=0.1)


def images(n=64, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (n, 1, 6, 6), generator=g, dtype=torch.uint8)
    return Images(x, torch.randint(0, 3, (n,), generator=g), ("a", "b", "c"), 0.5, 0.3)


def batch_of(data, epoch=0, augmented=False):
    index = torch.arange(len(data))
    return Batch(data.floats(data.x), data.y, index, epoch, len(data), augmented)


def networks():
    torch.manual_seed(0)
    return MLP(36, 20, 3, dropout=0.5), MLP(36, 5, 3)


def soft():
    return {"labels": HardLabels(0.1), "soft": SoftTargets(tau=2.0, weight=0.9)}


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_the_losses_are_named_and_hintons_sum():
    teacher, student = networks()
    data = images()
    parts = Distiller(teacher, student, soft()).forward(batch_of(data))
    z, v = student(data.floats(data.x)), teacher(data.floats(data.x))
    p, log_q = (v / 2).softmax(1), (z / 2).log_softmax(1)
    assert list(parts) == ["labels", "soft"]
    torch.testing.assert_close(parts["labels"], 0.1 * F.cross_entropy(z, data.y))
    torch.testing.assert_close(parts["soft"], 0.9 * 4 * (p * (p.log() - log_q)).sum(dim=1).mean())


class Spy(nn.Module):
    """A loss that keeps the step it was shown."""

    student_layers = teacher_layers = ("layers.fc1",)

    def forward(self, step):
        self.step = step
        return step.student_logits.square().mean()


def test_the_teacher_passes_no_gradient_on_even_if_someone_thaws_it():
    teacher, student = networks()
    spy = Spy()
    distiller = Distiller(teacher, student, {"spy": spy})
    teacher.requires_grad_(True)
    distiller(batch_of(images()))
    for tensor in (spy.step.teacher_logits, spy.step.teacher_features["layers.fc1"]):
        assert tensor.grad_fn is None and not tensor.requires_grad
    for tensor in (spy.step.student_logits, spy.step.student_features["layers.fc1"]):
        assert tensor.requires_grad


@pytest.mark.parametrize("cached", [False, True])
def test_under_autocast_losses_and_warmup_get_logits_in_float32(cached):
    teacher, student = networks()
    data = images()
    logits = predict(teacher, data).bfloat16() if cached else None
    spy = Spy()
    spy.student_layers = spy.teacher_layers = ()
    distiller = Distiller(teacher, student, {"spy": spy}, teacher_logits=logits, warmup_epochs=1)
    with torch.autocast("cpu", torch.bfloat16):
        z, v = student(batch_of(data).x), teacher(batch_of(data).x)
        warmup = distiller(batch_of(data, epoch=0))["warmup"]
        distiller(batch_of(data, epoch=1))
    assert z.dtype == v.dtype == torch.bfloat16
    assert spy.step.student_logits.dtype == spy.step.teacher_logits.dtype == torch.float32
    torch.testing.assert_close(spy.step.student_logits, z.float(), rtol=0, atol=0)
    torch.testing.assert_close(warmup, F.cross_entropy(z.float(), data.y), rtol=1e-6, atol=0)


def test_an_error_of_a_loss_keeps_its_words_and_says_whose_it_is():
    class Picky(nn.Module):
        def forward(self, step):
            raise ValueError("not this one")

    teacher, student = networks()
    losses = {"labels": HardLabels(), "second": Picky()}
    with pytest.raises(ValueError, match=r"^losses\['second'\], Picky: not this one$"):
        Distiller(teacher, student, losses)(batch_of(images()))


def test_a_loss_a_sample_is_no_loss():
    class Forgetful(nn.Module):
        def forward(self, step):
            return (step.student_logits - step.teacher_logits).square().mean(dim=1)

    with pytest.raises(ValueError, match=r"Forgetful: expected a scalar, got shape \(64,\): is a"):
        Distiller(*networks(), {"distance": Forgetful()})(batch_of(images()))


@pytest.mark.parametrize("device", DEVICES)
def test_it_works_where_the_data_are(device):
    parts = []
    for place in ("cpu", device):
        teacher, student = networks()
        data = images().to(place)
        history = fit(Distiller(teacher, student, soft()), data, epochs=2, progress=False)
        parts.append(history[-1]["soft"])
        assert {p.device.type for p in (*teacher.parameters(), *student.parameters())} == {place}
    assert parts[0] == pytest.approx(parts[1], rel=1e-3)


def test_the_teacher_stays_frozen_and_in_eval():
    teacher, student = networks()
    before = state(teacher)
    distiller = Distiller(teacher, student, soft())
    distiller.train()
    assert student.training
    assert not any(m.training for m in teacher.modules())
    fit(distiller, images(), epochs=3, batch_size=16, validation=images(seed=1), progress=False)
    assert not any(m.training for m in teacher.modules())
    assert all(torch.equal(before[name], value) for name, value in state(teacher).items())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    distiller.eval()
    assert not student.training


def test_the_student_is_in_train_mode_in_every_epoch():
    # the bug this catches: an evaluation in between leaves the student in eval mode
    class Watched(MLP):
        modes: list[bool]

        def forward(self, x):
            self.modes.append(self.training)
            return super().forward(x)

    teacher, _ = networks()
    student = Watched(36, 5, 3)
    student.modes = []
    fit(
        Distiller(teacher, student, soft()),
        images(),
        epochs=2,
        batch_size=64,
        validation=images(seed=1),
        progress=False,
    )
    tried_first, *epochs = student.modes  # the validation images, before anything is trained
    assert not tried_first and epochs == [True, False, True, False]


def test_the_student_moves_toward_the_teacher_not_the_labels():
    # the bug this catches: the student's logits replaced by the teacher's, so nothing is learned
    teacher, student = networks()
    data = images()
    distiller = Distiller(teacher, student, {"soft": SoftTargets(tau=1.0)})
    fast = partial(torch.optim.AdamW, lr=0.01)
    history = fit(distiller, data, epochs=60, batch_size=16, optimizer=fast, progress=False)
    assert history[-1]["soft"] < 0.2 * history[0]["soft"]
    answers = predict(student, data).argmax(1)
    agreement = (answers == predict(teacher, data).argmax(1)).float().mean()
    labels = (answers == data.y).float().mean()
    assert float(agreement) > 0.9
    assert float(labels) < 0.7  # random labels: it did not learn those


def test_warmup_updates_the_student_from_labels_alone():
    # the bug this catches: warm-up epochs that never call backward
    teacher, student = networks()
    before = state(student)
    distiller = Distiller(teacher, student, soft(), warmup_epochs=2)
    history = fit(distiller, images(), epochs=3, batch_size=16, optimizer=sgd, progress=False)
    assert [sorted(entry) for entry in history] == [
        ["loss", "seconds", "warmup"],
        ["loss", "seconds", "warmup"],
        ["labels", "loss", "seconds", "soft"],
    ]
    after_warmup = networks()[1]
    fit(
        Distiller(networks()[0], after_warmup, soft(), warmup_epochs=2),
        images(),
        epochs=2,
        batch_size=16,
        optimizer=sgd,
        progress=False,
    )
    moved = max(float((before[n] - v).abs().max()) for n, v in state(after_warmup).items())
    assert moved > 1e-3


def test_exactly_warmup_epochs_are_warmup():
    teacher, student = networks()
    distiller = Distiller(teacher, student, soft(), warmup_epochs=2)
    names = [list(distiller(batch_of(images(), epoch=e))) for e in range(4)]
    assert names == [["warmup"], ["warmup"], ["labels", "soft"], ["labels", "soft"]]


def test_cached_logits_give_the_same_student_as_the_teacher_online():
    # the bug this catches: logits cached by batch number under shuffling
    students = []
    for cached in (False, True):
        teacher, student = networks()
        data = images()
        distiller = Distiller(
            teacher, student, soft(), teacher_logits=predict(teacher, data) if cached else None
        )
        fit(distiller, data, epochs=3, batch_size=10, progress=False)
        students.append(state(student))
    for name in students[0]:
        torch.testing.assert_close(students[0][name], students[1][name], rtol=1e-4, atol=1e-5)


def test_with_cached_logits_the_teacher_never_runs():
    class Untouchable(nn.Module):
        def forward(self, x):
            raise AssertionError("the teacher ran")

    _, student = networks()
    data = images()
    distiller = Distiller(Untouchable(), student, soft(), teacher_logits=torch.randn(64, 3))
    fit(distiller, data, epochs=1, batch_size=16, progress=False)


def test_cached_logits_of_another_set_or_of_other_images_are_refused():
    teacher, student = networks()
    data = images()
    short = Distiller(teacher, student, soft(), teacher_logits=torch.randn(63, 3))
    with pytest.raises(ValueError, match=r"teacher_logits: expected one row for each of the 64 "):
        fit(short, data, epochs=1, progress=False)
    cached = Distiller(teacher, student, soft(), teacher_logits=predict(teacher, data))
    with pytest.raises(ValueError, match=r"teacher_logits: .*augmented"):
        fit(cached, data, epochs=1, augment=jitter, progress=False)


def test_a_table_that_does_not_fit_is_refused_before_a_warm_up():
    data = images()
    for logits, settings in ((torch.randn(63, 3), {}), (torch.randn(64, 3), {"augment": jitter})):
        learner = Distiller(*networks(), soft(), teacher_logits=logits, warmup_epochs=1)
        with pytest.raises(ValueError, match=r"teacher_logits: "):
            fit(learner, data, epochs=1, progress=False, **settings)


def test_remembered_layers_that_carry_a_gradient_pass_none_on():
    """From a forward pass without `torch.no_grad()`."""
    data, (teacher, student) = images(), networks()
    with read_layers(teacher, ["layers.fc1"]) as features:
        logits = teacher(data.floats(data.x))
    spy = Spy()
    memory = {"teacher_logits": logits, "teacher_features": features}
    Distiller(teacher, student, {"spy": spy}, **memory)(batch_of(data))
    assert features["layers.fc1"].requires_grad and logits.requires_grad
    assert not spy.step.teacher_features["layers.fc1"].requires_grad
    assert not spy.step.teacher_logits.requires_grad


def test_a_loss_that_reads_a_layer_it_does_not_list_is_told_to():
    class Reads(nn.Module):
        def forward(self, step):
            return step.student_features["layers.fc1"].mean()

    with pytest.raises(KeyError, match=r"layer 'layers.fc1': a loss lists it in student_layers"):
        Distiller(*networks(), {"reads": Reads()})(batch_of(images()))


@pytest.mark.parametrize("said", [0.5, None])
def test_a_loss_that_returns_no_tensor_is_named(said):
    class Wordless(nn.Module):
        def forward(self, step):
            return said

    message = rf"losses\['mine'\], Wordless: expected a tensor, got {type(said).__name__}"
    with pytest.raises(ValueError, match=message):
        Distiller(*networks(), {"mine": Wordless()})(batch_of(images()))


def test_a_student_that_shares_layers_with_the_teacher_is_refused():
    body = nn.Sequential(nn.Flatten(), nn.Linear(36, 8))
    teacher, student = (nn.Sequential(body, nn.Linear(8, 3)) for _ in range(2))
    for part in (teacher, Ensemble([teacher, student])):
        with pytest.raises(ValueError, match=r"student: expected parameters of its own.*deepcopy"):
            Distiller(part, student, soft())
    assert all(p.requires_grad for p in student.parameters()), "it is not frozen either"


def look(network, data, *layers):
    with torch.no_grad(), read_layers(network, layers) as features:
        network(data.floats(data.x))
    return dict(features)


def test_remembered_layers_give_the_same_student_and_the_teacher_never_runs():
    data = images()
    ends = []
    for remembers in (False, True):
        torch.manual_seed(0)
        teacher, student = MLP(36, 20, 3), MLP(36, 8, 3)
        memory = {
            "teacher_logits": predict(teacher, data),
            "teacher_features": look(teacher, data, "layers.fc1"),
        }
        losses = {"soft": SoftTargets(2.0), "hint": Hint(*["layers.fc1"] * 2, nn.Linear(8, 20))}
        distiller = Distiller(teacher, student, losses, **(memory if remembers else {}))
        if remembers:
            teacher.register_forward_hook(lambda *_: pytest.fail("the teacher ran"))
        fit(distiller, data, epochs=3, batch_size=20, progress=False)
        ends.append(state(student))
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name])


def test_a_memory_with_holes_is_refused():
    data = images()
    teacher, student = MLP(36, 20, 3), MLP(36, 8, 3)
    loss = {"hint": Hint("layers.fc1", "layers.fc1", nn.Linear(8, 20))}
    logits, features = predict(teacher, data), look(teacher, data, "layers.fc1")
    with pytest.raises(ValueError, match=r"read the teacher's \['layers.fc1'\].*teacher_features"):
        Distiller(teacher, student, loss, teacher_logits=logits)
    with pytest.raises(ValueError, match=r"teacher_features: expected teacher_logits beside them"):
        Distiller(teacher, student, loss, teacher_features=features)
    short = {"layers.fc1": features["layers.fc1"][1:]}
    distiller = Distiller(teacher, student, loss, teacher_logits=logits, teacher_features=short)
    with pytest.raises(ValueError, match=r"teacher_features\['layers.fc1'\]: expected one row"):
        fit(distiller, data, epochs=1, progress=False)


def test_the_cache_is_not_part_of_a_checkpoint():
    teacher, student = networks()
    distiller = Distiller(teacher, student, soft(), teacher_logits=torch.randn(64, 3))
    assert "cached" not in distiller.state_dict()


def test_a_loss_may_have_parameters_of_its_own():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, step):
            return (self.scale * step.student_logits - step.teacher_logits).square().mean()

    teacher, student = networks()
    loss = Scaled()
    fit(Distiller(teacher, student, {"scaled": loss}), images(), epochs=1, progress=False)
    assert loss.scale.item() != 2.0


def test_a_distiller_has_no_parameters_of_its_own():
    teacher, student = networks()
    distiller = Distiller(teacher, student, soft())
    trained = [p for p in distiller.parameters() if p.requires_grad]
    assert {id(p) for p in trained} == {id(p) for p in student.parameters()}
    assert distiller.student is student


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_a_network_that_ends_in_softmax_is_refused(who):
    teacher, student = networks()
    if who == "student":
        student = nn.Sequential(student, nn.Softmax(dim=1))
    else:
        teacher = nn.Sequential(teacher, nn.Softmax(dim=1))
    with pytest.raises(ValueError, match=rf"{who}: expected logits, got probabilities"):
        fit(Distiller(teacher, student, soft()), images(), epochs=1, progress=False)


def test_a_students_softmax_is_found_in_the_first_step_of_a_warm_up():
    teacher, student = networks()
    student = nn.Sequential(student, nn.Softmax(dim=1))
    with pytest.raises(ValueError, match=r"student: expected logits, got probabilities"):
        fit(Distiller(teacher, student, soft(), warmup_epochs=1), images(), epochs=1)


def test_bad_arguments_are_named():
    teacher, student = networks()
    with pytest.raises(ValueError, match=r"student: expected a network other than the teacher"):
        Distiller(teacher, teacher, soft())
    with pytest.raises(ValueError, match=r"losses: expected at least one"):
        Distiller(teacher, student, {})
    with pytest.raises(ValueError, match=r"warmup_epochs: expected 0 or more, got -1"):
        Distiller(teacher, student, soft(), warmup_epochs=-1)
    with pytest.raises(ValueError, match=r"got \(64, 3\) and \(64, 4\)"):
        fit(Distiller(MLP(36, 4), student, soft()), images(), epochs=1, progress=False)
