"""Feature losses against sums by hand; what they ignore; the hooks that read layers."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from distill_lib.bounds import infonce_bound
from distill_lib.data import Batch, Images
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
from distill_lib.models import CNN, MLP
from distill_lib.objectives import SoftTargets, Step
from distill_lib.relations import SimilarityPreserving
from distill_lib.training import fit, predict

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def digits(n=32):
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, 1, 28, 28), generator=g, dtype=torch.uint8)
    return Images(x, torch.randint(0, 10, (n,), generator=g), tuple("0123456789"), 0.13, 0.31)


def networks():
    torch.manual_seed(0)
    return CNN((6, 12), 20, dropout=0.0), CNN((2, 4), 8, dropout=0.0)


METHODS = {
    "hint": lambda: Hint("conv2", "conv2", nn.Conv2d(4, 12, 1), weight=0.01),
    "hint of vectors": lambda: Hint("fc1", "fc1", nn.Linear(8, 20), weight=0.1),
    "attention": lambda: AttentionTransfer("conv2", "conv2"),
    "vid": lambda: VariationalInformation("conv2", "conv2", nn.Conv2d(4, 12, 1), 12, weight=0.01),
    "vid of vectors": lambda: VariationalInformation("fc1", "fc1", nn.Linear(8, 20), 20),
    "contrastive": lambda: Contrastive("fc1", "fc1", nn.Linear(8, 16), nn.Linear(20, 16)),
}


# ---- reading layers


def test_layers_are_read_by_their_path_and_the_hooks_go():
    teacher, _ = networks()
    mlp, x = MLP(784, 7, 10), torch.randn(3, 1, 28, 28)
    with read_layers(teacher, ["conv1", "fc1"]) as features, read_layers(mlp, ["layers.fc1"]) as of:
        teacher(x)
        mlp(x)
    torch.testing.assert_close(features["conv1"], teacher.conv1(x))
    assert features["fc1"].shape == (3, 20)
    torch.testing.assert_close(of["layers.fc1"], mlp.layers.fc1(x.flatten(1)))
    assert not any(module._forward_hooks for net in (teacher, mlp) for module in net.modules())


def test_the_hooks_go_after_an_error_too():
    teacher, _ = networks()
    with pytest.raises(RuntimeError), read_layers(teacher, ["conv1"]):
        teacher(torch.randn(3, 5, 28, 28))
    assert not teacher.conv1._forward_hooks


def test_an_unknown_layer_lists_near_ones():
    teacher, student = networks()
    with pytest.raises(ValueError, match=r"CNN has no layer 'conv3'; .*\['conv2', 'conv1'\]"):
        Distiller(teacher, student, {"a": AttentionTransfer("conv2", "conv3")})
    with pytest.raises(ValueError, match=r"MLP has no layer 'quux'.*layers\.fc1"):
        Distiller(teacher, MLP(784, 5, 10), {"a": AttentionTransfer("quux", "conv2")})


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("fc2", "['layers.fc2', 'layers.fc1']"),  # the path is missing
        ("layers.fc3", "['layers.fc2', 'layers.fc1']"),  # there are two
        ("net.relu1", "['layers.relu1']"),  # another path
    ],
)
def test_near_layers_are_those_whose_own_name_is_like_it(name, near):
    with pytest.raises(ValueError) as error, read_layers(MLP(784, 5, 10), [name]):
        pass
    assert str(error.value).endswith(f"has no layer {name!r}; did you mean one of {near}?")


class Odd(nn.Module):
    """Layers that can't be read as they stand: a list, one that rests, one that says two things."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(784, 8), nn.Linear(8, 8)])
        self.resting = nn.Linear(8, 8)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = x.flatten(1)
        for block in self.blocks:
            x = block(x).relu()
        return self.head(self.gru(x[:, None])[0][:, -1])


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        (
            "blocks",
            ValueError,
            r"losses\['sp'\], SimilarityPreserving: layer: Odd has a layer 'blocks', but its "
            r"forward pass never called it: name one of its parts \['blocks.0', 'blocks.1'\]",
        ),
        ("resting", ValueError, r"'resting', but .* never called it: name one that the forward"),
        (
            "gru",
            TypeError,
            r"layer: 'gru' \(GRU\) returns a tuple, not a tensor: name a layer after",
        ),
    ],
)
@pytest.mark.parametrize("who", ["student", "teacher"])
def test_a_layer_without_an_output_of_its_own_is_named(layer, error, message, who):
    data, cnn = digits(8), networks()[1]
    batch = Batch(data.floats(data.x), data.y, torch.arange(8), 0, 8, False)
    if who == "student":
        learner = Distiller(cnn, Odd(), {"sp": SimilarityPreserving(layer, "fc1")})
    else:
        learner = Distiller(Odd(), cnn, {"sp": SimilarityPreserving("fc1", layer)})
    with pytest.raises(error, match=message):
        learner(batch)
    assert not any(module._forward_hooks for module in learner.modules())


def test_one_name_is_no_list_of_names():
    with pytest.raises(TypeError, match=r"names: .* got a string: write \['conv2'\]"):
        with read_layers(networks()[0], "conv2"):
            pass


def test_a_layer_is_found_under_each_of_its_names():
    odd = Odd()
    odd.second_name = odd.head
    with read_layers(odd, ["head", "second_name"]) as features:
        logits = odd(torch.zeros(2, 1, 28, 28))
    assert features["head"] is features["second_name"] is logits


def test_the_parts_of_a_list_can_be_read():
    odd = Odd()
    with read_layers(odd, ["blocks.1"]) as features:
        odd(torch.zeros(2, 1, 28, 28))
    assert features["blocks.1"].shape == (2, 8)
    with pytest.raises(KeyError):
        features["head"]  # nobody asked for it


# ---- values


@pytest.mark.parametrize("shape", [(5, 7), (5, 3, 4, 4)])
def test_hint_by_hand(shape):
    s, t = randn(*shape), randn(*shape, seed=1)
    by_hand = sum(((t[i] - s[i]) ** 2).sum() / 2 for i in range(5)) / 5
    torch.testing.assert_close(hint_loss(s, t), by_hand)
    assert hint_loss(t, t) == 0


def test_attention_by_hand():
    s, t = randn(4, 2, 3, 5), randn(4, 6, 3, 5, seed=1)
    losses = []
    for i in range(4):
        q_s, q_t = ((a[i] ** 2).sum(0).flatten() for a in (s, t))
        losses.append((q_s / q_s.norm() - q_t / q_t.norm()).norm())
    torch.testing.assert_close(attention_transfer_loss(s, t), torch.stack(losses).mean())


def test_attention_ignores_sign_scale_and_the_order_of_channels():
    s, t = randn(4, 2, 3, 5), randn(4, 6, 3, 5, seed=1)
    loss = attention_transfer_loss(s, t)
    for other in (-s, 3 * s, s.flip(1)):
        torch.testing.assert_close(attention_transfer_loss(other, t), loss)
    assert attention_transfer_loss(-2 * t, t) < 1e-12
    assert attention_transfer_loss(s.flip(2), t) != loss, "but not places"


def test_a_dead_layer_has_no_attention_and_no_nan():
    s = torch.zeros(2, 3, 4, 4, requires_grad=True)
    loss = attention_transfer_loss(s, randn(2, 3, 4, 4).float())
    loss.backward()
    assert loss.item() == pytest.approx(1) and s.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 4, 4)])
def test_vid_is_the_gaussian_likelihood_of_torch(shape):
    mean, t = randn(*shape), randn(*shape, seed=1)
    variance = randn(7, seed=2).exp()
    per_channel = variance.view(-1, *[1] * (len(shape) - 2)).expand(shape)
    expected = F.gaussian_nll_loss(mean, t, per_channel, full=True, reduction="sum") / 5
    torch.testing.assert_close(variational_information_loss(mean, variance, t), expected)


def test_vid_on_correlated_gaussians():
    """h(T) less the loss is a bound on I = 0.8304 nats, tight for the best q, poor for σ = 1."""
    rho, n = 0.9, 400_000
    s = randn(n, 1)
    t = rho * s + math.sqrt(1 - rho**2) * randn(n, 1, seed=1)
    entropy = 0.5 * math.log(2 * math.pi * math.e)

    def bound(mean, variance):
        return entropy - float(
            variational_information_loss(mean, torch.tensor([variance]).double(), t)
        )

    truth = -0.5 * math.log(1 - rho**2)
    assert truth == pytest.approx(0.8304, abs=5e-5)
    assert bound(rho * s, 1 - rho**2) == pytest.approx(truth, abs=0.005)
    assert bound(rho * s, 1.0) == pytest.approx(0.405, abs=0.005)
    assert bound(0 * s, 1.0) == pytest.approx(0, abs=0.005)


def test_vid_with_a_fixed_variance_is_a_hint():
    s, t = randn(5, 7), randn(5, 7, seed=1)
    with_sigma_1 = variational_information_loss(s, torch.ones(7).double(), t)
    torch.testing.assert_close(with_sigma_1 - 3.5 * math.log(2 * math.pi), hint_loss(s, t))


def test_the_variance_starts_at_five_and_stays_above_zero():
    vid = VariationalInformation("a", "b", nn.Identity(), 3)
    torch.testing.assert_close(vid.variance, torch.full((3,), 5.0), atol=1e-4, rtol=0)
    vid.raw_variance.data.fill_(-1e4)
    assert (vid.variance > 0).all()


def test_contrastive_by_hand_and_as_a_bound():
    s, t = randn(6, 4), randn(6, 4, seed=1)
    losses = []
    for i in range(6):
        scores = torch.stack([F.cosine_similarity(s[i], t[j], dim=0) / 0.2 for j in range(6)])
        losses.append(-(scores[i].exp() / scores.exp().sum()).log())
    loss = contrastive_loss(s, t, 0.2)
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    cosines = F.normalize(s, dim=1) @ F.normalize(t, dim=1).T / 0.2
    torch.testing.assert_close(math.log(6) - loss, infonce_bound(cosines))
    torch.testing.assert_close(contrastive_loss(torch.ones_like(s), t, 0.2), contrastive_loss(
        3 * torch.ones_like(s), 2 * t, 0.2
    ))  # fmt: skip
    same = torch.ones(6, 4).double()
    assert contrastive_loss(same, same, 0.2) == pytest.approx(math.log(6)), "a guess"


# ---- as parts of a distiller


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", METHODS)
def test_each_method_composes_trains_the_student_and_leaves_the_teacher(name, precision, device):
    teacher, student = networks()
    data = digits().to(device)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    start = {k: v.clone() for k, v in student.state_dict().items()}
    losses = {"soft": SoftTargets(tau=4.0), name: METHODS[name]()}
    history = fit(
        Distiller(teacher, student, losses), data, epochs=12, batch_size=16, progress=False,
        precision=precision,
    )  # fmt: skip
    assert {"loss", "soft", name} <= set(history[0])
    assert history[-1][name] < history[0][name]
    assert all(torch.equal(before[k].to(device), v) for k, v in teacher.state_dict().items())
    assert not torch.equal(start["conv1.weight"].to(device), student.conv1.weight)


@pytest.mark.parametrize("name", METHODS)
def test_the_gradient_is_the_students_alone(name):
    teacher, student = networks()
    data = digits(8)
    loss = METHODS[name]()
    batch = Batch(data.floats(data.x), data.y, torch.arange(8), 0, 8, False)
    Distiller(teacher, student, {name: loss})(batch)[name].backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert student.conv1.weight.grad.abs().sum() > 0
    assert all(p.grad.abs().sum() > 0 for p in loss.parameters()), "what it learns, learns"


def test_a_wrong_shape_names_the_loss_the_layers_and_the_cure():
    teacher, student = networks()
    data = digits(8)
    batch = Batch(data.floats(data.x), data.y, torch.arange(8), 0, 8, False)
    for loss, message in (
        (
            Hint("conv2", "conv2", nn.Identity()),
            r"Hint: .*student's 'conv2' of shape \(8, 4, 8, 8\).*teacher's 'conv2' of shape "
            r"\(8, 12, 8, 8\).*add a regressor",
        ),
        (
            Hint("conv2", "conv2", nn.Conv2d(5, 12, 1)),
            r"losses\['a'\], Hint: cannot compare .*\(8, 4, 8, 8\).*regressor: .*channels.*"
            r"start it with nn.Conv2d\(4, …, 1\)",
        ),
        (
            Hint("fc1", "fc1", nn.Linear(5, 20)),
            r"Hint: .*regressor: .*shape \(8, 8\), so start it with nn.Linear\(8, …\)",
        ),
        (
            VariationalInformation("fc1", "fc1", nn.Linear(5, 20), 20),
            r"VariationalInformation: .*regressor: .*start it with nn.Linear\(8, …\)",
        ),
        (
            Contrastive("conv2", "conv2", nn.Linear(4, 16), nn.Linear(768, 16)),
            r"Contrastive: .*student_embedding: .*start it with nn.Linear\(256, …\)",
        ),
        (
            Contrastive("conv2", "conv2", nn.Linear(256, 16), nn.Linear(12, 16)),
            r"Contrastive: .*teacher_embedding: .*start it with nn.Linear\(768, …\)",
        ),
        (AttentionTransfer("conv1", "conv2"), "AttentionTransfer: .*add a pooling layer"),
        (AttentionTransfer("fc1", "fc1"), r"AttentionTransfer: .*expected maps.*convolution"),
        (
            VariationalInformation("fc1", "fc1", nn.Linear(8, 20), 12),
            r"VariationalInformation: .*each of 20 channels, got shape \(12,\): pass channels=20",
        ),
        (
            Contrastive("fc1", "fc1", nn.Linear(8, 16), nn.Linear(20, 15)),
            "Contrastive: .*an embedding of the same width",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            Distiller(teacher, student, {"a": loss})(batch)


@pytest.mark.parametrize("where", ["compare", "regressor"])
def test_a_lack_of_memory_is_no_matter_of_shapes(where):
    class Hungry(nn.Module):
        def forward(self, x):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    class Greedy(FeatureLoss):
        def compare(self, student, teacher):
            return Hungry()(student)

    loss = Greedy("fc1", "fc1") if where == "compare" else Hint("fc1", "fc1", Hungry())
    teacher, student = networks()
    with pytest.raises(torch.OutOfMemoryError, match=r"batch_size: 16 images .* try 8"):
        fit(Distiller(teacher, student, {"a": loss}), digits(), epochs=1, batch_size=16)


def test_cached_logits_hold_no_features():
    teacher, student = networks()
    with pytest.raises(ValueError, match=r"\['conv2'\], which a cache of logits does not hold"):
        Distiller(
            teacher, student, {"a": AttentionTransfer("conv1", "conv2")},
            teacher_logits=predict(teacher, digits()),
        )  # fmt: skip


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="tau: expected a temperature above 0, got 0"):
        contrastive_loss(randn(3, 2), randn(3, 2), 0)
    with pytest.raises(ValueError, match="tau: expected a temperature above 0, got -1"):
        Contrastive("fc1", "fc1", nn.Identity(), nn.Identity(), tau=-1)
    with pytest.raises(ValueError, match=r"expected features of shape \(B, …\), got \(4,\)"):
        hint_loss(randn(4), randn(4))
    with pytest.raises(ValueError, match="expected maps of shape"):
        attention_map(randn(3, 2))
