"""The networks return logits, have the sizes the text says, and names a hook can find."""

import pytest
import torch

from distill_lib.models import CNN, MLP, count_parameters


def test_parameter_counts_by_hand():
    assert count_parameters(MLP(784, 32, 10)) == 784 * 32 + 32 + 32 * 10 + 10
    # 5·5·16+16, 25·16·32+32, 512·128+128, 128·10+10
    assert count_parameters(CNN()) == 416 + 12_832 + 65_664 + 1_290 == 80_202


@pytest.mark.parametrize(
    "model", [MLP(784, 20, 10), MLP(784, 10), MLP(784, 20, 20, 10, dropout=0.5), CNN()]
)
def test_logits_not_probabilities(model):
    logits = model.eval()(torch.randn(5, 1, 28, 28))
    assert logits.shape == (5, 10)
    assert bool((logits < 0).any())
    assert not torch.allclose(logits.sum(dim=1), torch.ones(5))


def test_other_image_sizes():
    assert CNN(in_channels=3, image_size=32, n_classes=7)(torch.randn(2, 3, 32, 32)).shape == (2, 7)


def test_an_mlp_is_what_it_says_by_hand():
    model = MLP(6, 4, 3)
    x = torch.randn(5, 1, 2, 3)
    w1, w2 = model.layers.fc1, model.layers.fc2
    expected = torch.relu(x.reshape(5, 6) @ w1.weight.T + w1.bias) @ w2.weight.T + w2.bias
    torch.testing.assert_close(model(x), expected)


def test_dropout_is_the_probability_to_drop():
    # the bug this catches: 0.8 read as "keep 80 %"
    torch.manual_seed(0)
    model = MLP(1000, 1000, 10, dropout=0.8).train()
    kept = {}
    model.layers.dropout1.register_forward_hook(lambda m, i, o: kept.update(before=i[0], after=o))
    model(torch.randn(50, 1000))
    alive = kept["before"] > 0
    assert float((kept["after"][alive] > 0).float().mean()) == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("model", [MLP(784, 50, 10, dropout=0.5), CNN()])
def test_dropout_in_training_only(model):
    x = torch.randn(4, 1, 28, 28)
    model.train()
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_layers_have_names():
    assert {"conv1", "conv2", "fc1", "fc2"} <= {name for name, _ in CNN().named_modules()}
    names = {name for name, _ in MLP(784, 20, 20, 10).named_modules()}
    assert {"layers.fc1", "layers.relu1", "layers.fc3"} <= names


def test_an_mlp_needs_two_sizes():
    with pytest.raises(ValueError, match=r"sizes: expected at least inputs and classes"):
        MLP(784)
