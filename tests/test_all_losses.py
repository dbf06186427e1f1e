"""What holds for every loss, of logits, of features and of relations, in one table.

What each loss is in particular (by hand, its limits, what it can't see) is in the test files of
`objectives`, `features` and `relations`.
"""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from distill_lib.data import Batch
from distill_lib.distiller import Distiller
from distill_lib.features import (
    AttentionTransfer,
    Contrastive,
    FeatureLoss,
    Hint,
    VariationalInformation,
    attention_map,
    attention_transfer_loss,
    contrastive_loss,
    hint_loss,
    variational_information_loss,
)
from distill_lib.layers import read_layers
from distill_lib.models import CNN
from distill_lib.objectives import (
    DecoupledTargets,
    LogitMatching,
    SoftTargets,
    Step,
    decoupled_losses,
    in_full_precision,
    logit_matching_loss,
    soft_target_loss,
)
from distill_lib.relations import (
    Flow,
    ProbabilisticTransfer,
    RelationalAngle,
    RelationalDistance,
    SimilarityPreserving,
    flow_loss,
    flow_matrix,
    probabilistic_transfer_loss,
    relational_angle_loss,
    relational_distance_loss,
    similarity_preserving_loss,
)

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
N, WIDTH = 6, 4  # samples; classes or channels
VECTORS, MAPS = (N, WIDTH), (N, WIDTH, 3, 3)


def labels(device="cpu"):
    return torch.arange(N, device=device) % WIDTH


def decoupled(student, teacher):
    tckd, nckd = decoupled_losses(student, teacher, labels(student.device), 3.0)
    return (tckd + 8 * nckd).mean()


def vid(student, teacher):
    variance = VariationalInformation("a", "b", nn.Identity(), WIDTH).variance.detach()
    return variational_information_loss(student, variance.to(student), teacher)


# pure functions of (student, teacher)
LOGITS = {
    "soft": lambda s, t: soft_target_loss(s, t, 3.0),
    "matching": logit_matching_loss,
    "decoupled": decoupled,
}
ANY_SHAPE = {
    "hint": hint_loss,
    "vid": vid,
    "contrastive": lambda s, t: contrastive_loss(s, t, 0.2),
    "sp": similarity_preserving_loss,
    "distance": relational_distance_loss,
    "angle": relational_angle_loss,
    "pkt": probabilistic_transfer_loss,
}
OF_MAPS = {
    "attention": attention_transfer_loss,
    "flow": lambda s, t: flow_loss(flow_matrix(s, s), flow_matrix(t, t)),
}
FUNCTIONS = LOGITS | ANY_SHAPE | OF_MAPS
NOT_ZERO = {"vid", "contrastive"}  # a surprise, and a guess among the others

# modules that read the student's layer a and the teacher's layer b, with weight w
MODULES = {
    "soft": lambda a, b, w: SoftTargets(3.0, w),
    "matching": lambda a, b, w: LogitMatching(w),
    "decoupled": lambda a, b, w: DecoupledTargets(3.0, target=w, others=8 * w),
    "hint": lambda a, b, w: Hint(a, b, nn.Identity(), weight=w),
    "vid": lambda a, b, w: VariationalInformation(a, b, nn.Identity(), WIDTH, weight=w),
    "contrastive": lambda a, b, w: Contrastive(
        a, b, nn.Identity(), nn.Identity(), tau=0.2, weight=w
    ),
    "sp": lambda a, b, w: SimilarityPreserving(a, b, weight=w),
    "distance": lambda a, b, w: RelationalDistance(a, b, weight=w),
    "angle": lambda a, b, w: RelationalAngle(a, b, weight=w),
    "pkt": lambda a, b, w: ProbabilisticTransfer(a, b, weight=w),
    "attention": lambda a, b, w: AttentionTransfer(a, b, weight=w),
    "flow": lambda a, b, w: Flow((a, a), (b, b), weight=w),
}
CASES = [
    *[(name, VECTORS) for name in (*LOGITS, *ANY_SHAPE)],
    *[(name, MAPS) for name in (*ANY_SHAPE, *OF_MAPS)],
]
every_loss = pytest.mark.parametrize(
    ("name", "shape"), CASES, ids=[f"{name}-{len(shape)}d" for name, shape in CASES]
)


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def step_of(student, teacher):
    """A step in which logits and features are the same, for whichever the loss looks at."""
    device = student.device
    index = torch.arange(N, device=device)
    batch = Batch(torch.zeros(N, 1, 1, 1, device=device), labels(device), index, 0, N, False)
    return Step(batch, student, teacher, {"a": student}, {"b": teacher})


def test_the_tables_have_the_same_losses():
    assert set(FUNCTIONS) == set(MODULES)


# ---- values and gradients


@every_loss
def test_a_copy_costs_nothing_and_another_costs_something(name, shape):
    student, teacher = randn(*shape), randn(*shape, seed=1)
    assert FUNCTIONS[name](student, teacher) > 1e-3
    if name not in NOT_ZERO:
        assert FUNCTIONS[name](teacher, teacher.clone()).abs() < 1e-12
        assert MODULES[name]("a", "b", 1.0)(step_of(teacher, teacher.clone())).abs() < 1e-12


@every_loss
def test_the_gradient_is_that_of_finite_differences(name, shape):
    student, teacher = randn(*shape).requires_grad_(), randn(*shape, seed=1)
    assert torch.autograd.gradcheck(lambda s: FUNCTIONS[name](s, teacher), student)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("weight", [1.0, 0.7])
@every_loss
def test_a_module_is_its_function_times_its_weight(name, shape, weight, device):
    student, teacher = randn(*shape).float(), randn(*shape, seed=1).float()
    expected = weight * FUNCTIONS[name](student, teacher)
    module = MODULES[name]("a", "b", weight).to(device)
    got = module(step_of(student.to(device), teacher.to(device)))
    assert got.device.type == device
    torch.testing.assert_close(got.cpu(), expected, rtol=1e-4, atol=1e-6)


# ---- shapes


@pytest.mark.parametrize("name", [name for name in ANY_SHAPE if name != "vid"])
def test_maps_are_compared_as_long_vectors(name):  # vid has a variance for each channel
    student, teacher = randn(*MAPS), randn(*MAPS, seed=1)
    flat = FUNCTIONS[name](student.flatten(1), teacher.flatten(1))
    torch.testing.assert_close(FUNCTIONS[name](student, teacher), flat)


@pytest.mark.parametrize("name", OF_MAPS)
def test_what_needs_maps_refuses_vectors(name):
    with pytest.raises(ValueError, match=r"expected maps of shape \(B, C, H, W\), got \(6, 4\)"):
        FUNCTIONS[name](randn(*VECTORS), randn(*VECTORS))


@pytest.mark.parametrize("name", LOGITS)
def test_losses_of_logits_refuse_maps(name):
    with pytest.raises(ValueError, match=r"expected one shape \(B, K\), got \(6, 4, 3, 3\)"):
        FUNCTIONS[name](randn(*MAPS), randn(*MAPS))


@pytest.mark.parametrize("name", LOGITS)
def test_a_teacher_of_other_classes_names_the_loss_and_the_cure(name):
    loss = MODULES[name]("a", "b", 1.0)
    with pytest.raises(ValueError, match=rf"losses\['mine'\], {type(loss).__name__}: .*") as error:
        distiller = Distiller(Constant(randn(N, 11)), Constant(randn(N, 10)), {"mine": loss})
        distiller(step_of(randn(*VECTORS), randn(*VECTORS)).batch)
    for part in ("(6, 10) and (6, 11)", "one output for each of the same classes"):
        assert part in str(error.value)


class Constant(nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, x):
        return self.logits


# ---- bfloat16

NEAR = 0.02  # so near the teacher that bfloat16 can't see the difference of their relations


@pytest.mark.parametrize("distance", [1.0, NEAR])
@every_loss
def test_under_autocast_value_and_gradient_are_those_of_float32(name, shape, distance):
    teacher = randn(*shape, seed=1).bfloat16().float()
    student = (teacher + distance * randn(*shape)).bfloat16().float().requires_grad_()

    def value_and_gradient(autocast):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            value = MODULES[name]("a", "b", 1.0)(step_of(student, teacher))
        return value, *torch.autograd.grad(value, student)

    (value, slope), (expected, right) = value_and_gradient(True), value_and_gradient(False)
    torch.testing.assert_close(value, expected, rtol=1e-3, atol=0)
    torch.testing.assert_close(slope, right, rtol=1e-3, atol=1e-3 * float(right.abs().max()))


@pytest.mark.parametrize("autocast", [False, True])
@every_loss
def test_bfloat16_is_compared_in_float32(name, shape, autocast):
    teacher = randn(*shape, seed=1).bfloat16()
    student = (teacher + NEAR * randn(*shape)).bfloat16()
    expected = FUNCTIONS[name](student.float(), teacher.float())
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = FUNCTIONS[name](student, teacher)
        of_module = MODULES[name]("a", "b", 1.0)(step_of(student, teacher))
    assert value.dtype == of_module.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(of_module, expected, rtol=1e-5, atol=0)


def test_the_parts_of_a_loss_are_in_float32_too():
    maps = randn(*MAPS).bfloat16()
    torch.testing.assert_close(attention_map(maps), attention_map(maps.float()))
    flows = maps[..., 0], maps[..., 1]
    torch.testing.assert_close(flow_loss(*flows), flow_loss(*(flow.float() for flow in flows)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", MODULES)
def test_a_distiller_under_autocast_compares_what_the_networks_said(name, device):
    """Near the end of training, when the student is nearly the teacher."""
    torch.manual_seed(0)
    teacher = CNN((4, WIDTH), 8, dropout=0.0, image_size=16).to(device)
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        for p in student.parameters():
            p.add_(0.01 * p.abs().mean() * torch.randn_like(p))
    x = randn(N, 1, 16, 16).float().to(device)
    y = labels(device)
    batch = Batch(x, y, torch.arange(N, device=device), 0, N, False)
    distiller = Distiller(teacher, student, {name: MODULES[name]("conv2", "conv2", 1.0)}).to(device)
    with torch.autocast(device, torch.bfloat16):
        value = distiller(batch)[name]
        with read_layers(student, ["conv2"]) as ours, read_layers(teacher, ["conv2"]) as theirs:
            z, v = student(x), teacher(x)
    pair = (z, v) if name in LOGITS else (ours["conv2"], theirs["conv2"])
    assert {tensor.dtype for tensor in pair} == {torch.bfloat16}
    expected = FUNCTIONS[name](*(tensor.float() for tensor in pair))
    torch.testing.assert_close(value, expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", ["hint", "vid", "contrastive"])
def test_what_a_loss_learns_stays_under_autocast(name):
    parts = [nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)]
    loss = {
        "hint": lambda: Hint("a", "b", parts[0]),
        "vid": lambda: VariationalInformation("a", "b", parts[0], WIDTH),
        "contrastive": lambda: Contrastive("a", "b", *parts),
    }[name]()
    said = []
    for part in parts:
        part.register_forward_hook(lambda module, inputs, output: said.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(step_of(randn(*VECTORS).float(), randn(*VECTORS, seed=1).float()))
    assert set(said) == {torch.bfloat16}
    assert value.dtype == torch.float32


def test_a_new_loss_of_features_gets_them_in_float32():
    seen = []

    class Mine(FeatureLoss):
        def compare(self, student, teacher):
            seen.extend([student.dtype, teacher.dtype])
            return (student - teacher).square().mean()

    Mine("a", "b")(step_of(randn(*MAPS).bfloat16(), randn(*MAPS, seed=1).bfloat16()))
    assert seen == [torch.float32, torch.float32]


def test_the_mark_of_full_precision():
    @in_full_precision
    def product(a, b, *, n):
        """Of two matrices."""
        return (a @ b).mul(n), torch.is_autocast_enabled("cpu"), n.dtype

    a, n = randn(3, 3).bfloat16(), torch.tensor(2)
    for context in (nullcontext(), torch.autocast("cpu", torch.bfloat16)):
        with context:
            value, autocast, kind = product(a, b=a, n=n)
        assert value.dtype == torch.float32 and not autocast
        assert kind == torch.int64, "labels stay whole numbers"
        torch.testing.assert_close(value, 2 * a.float() @ a.float(), rtol=1e-6, atol=1e-6)
    assert product(a.double(), a.double(), n=n)[0].dtype == torch.float64
    assert (product.__name__, product.__doc__) == ("product", "Of two matrices.")
