"""The networks return logits, have the sizes the text says, and names a hook can find."""

import pytest
import torch

from distill_lib.data import Images
from distill_lib.models import CNN, MLP, PooledDropout, count_parameters
from distill_lib.training import Supervised, fit


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


def test_an_image_that_two_convolutions_use_up_is_refused():
    assert CNN(image_size=16)(torch.zeros(2, 1, 16, 16)).shape == (2, 10)
    for size in (10, 15):
        with pytest.raises(ValueError, match=f"image_size: expected 16 or more, got {size}"):
            CNN(image_size=size)


def test_pooled_dropout_keeps_something():
    with pytest.raises(ValueError, match="p: expected less than 1"):
        PooledDropout(1.0)


def test_pooled_dropout_drops_with_its_probability_and_keeps_the_mean():
    torch.manual_seed(0)
    drop = PooledDropout(0.3, pool_size=2**20).train()
    x = torch.ones(100, 500)
    masks = [drop(x) for _ in range(5)]
    for masked in masks:
        assert masked.unique().tolist() == pytest.approx([0, 1 / 0.7])
        assert float((masked == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert not torch.equal(masks[0], masks[1])
    assert drop.eval()(x) is x


def test_pooled_dropout_passes_the_gradient_of_what_it_keeps():
    torch.manual_seed(0)
    x = torch.ones(20, 30, requires_grad=True)
    y = PooledDropout(0.5).train()(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())  # the mask itself, as x is 1


def test_pooled_dropout_needs_a_pool_larger_than_a_batch():
    with pytest.raises(ValueError, match=r"pool_size: expected more than the 100 units of a batch"):
        PooledDropout(0.5, pool_size=100).train()(torch.ones(10, 10))


class Stop(Exception):
    pass


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_a_run_with_pooled_dropout_goes_on_exactly_where_it_was_cut_off(tmp_path, p):
    # the bug this catches: a pool that is kept from epoch to epoch is not in the checkpoint
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (60, 1, 4, 4), generator=g, dtype=torch.uint8)
    data = Images(x, torch.randint(0, 3, (60,), generator=g), ("a", "b", "c"), 0.5, 0.3)
    steps = {"done": 0}

    def train(checkpoint=None, stop=None):
        torch.manual_seed(0)
        model = MLP(16, 12, 3, dropout=0.5)
        model.layers.dropout1 = PooledDropout(p, pool_size=1000)

        def make(parameters):
            optimizer = torch.optim.SGD(parameters, lr=0.1)

            def count(*_):
                steps["done"] += 1
                if steps["done"] == stop:
                    raise Stop

            optimizer.register_step_post_hook(count)
            return optimizer

        options = {"epochs": 4, "batch_size": 16, "optimizer": make, "progress": False}
        fit(Supervised(model), data, checkpoint=checkpoint, **options)
        return model.layers.fc1.weight

    whole = train()
    steps["done"] = 0
    with pytest.raises(Stop):
        train(tmp_path / "c.pt", stop=10)  # in the third epoch
    assert torch.equal(train(tmp_path / "c.pt"), whole)
