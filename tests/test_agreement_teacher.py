"""What the chapter on the teacher writes out is what the library does."""

from functools import partial

import matplotlib as mpl
import nbformat
import pytest
import torch
from set_address import ROOT
from torch import nn

from distill_lib import models, recipes, training
from distill_lib.data import Images, jitter

CELLS = {
    cell.id: cell.source
    for cell in nbformat.read(ROOT / "chapters" / "07-teacher.ipynb", as_version=4).cells
}
DEFINING = ("setup", "define-cnn", "define-mlp", "define-supervised", "define-one-cycle",
            "define-predict", "define-fit")  # fmt: skip


@pytest.fixture(scope="module")
def chapter():
    namespace = {}
    with mpl.rc_context():  # the chapter sets the book's style
        for name in DEFINING:
            exec(compile(CELLS[name], name, "exec"), namespace)
    return namespace


def images(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (n, 1, 28, 28), generator=g, dtype=torch.uint8)
    return Images(
        x, torch.randint(0, 10, (n,), generator=g), tuple("0123456789"), mean=0.5, std=0.3
    )


def network(make, *arguments, **options):
    torch.manual_seed(0)
    return make(*arguments, **options)


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("arguments", [(), ((3, 5), 7)])
def test_network(chapter, arguments):
    ours, theirs = network(chapter["CNN"], *arguments), network(models.CNN, *arguments)
    x = torch.randn(4, 1, 28, 28)
    assert same(ours, theirs)
    for training_mode in (True, False):
        logits = []
        for model in (ours, theirs):
            torch.manual_seed(1)  # dropout
            logits.append(model.train(training_mode)(x))
        assert torch.equal(*logits)


@pytest.mark.parametrize("options", [{}, {"dropout": 0.5}])
def test_fully_connected_network(chapter, options):
    """The layers' names differ, since the library's are for reading a layer by its name."""
    sizes = (784, 20, 15, 10)
    ours, theirs = (network(module, *sizes, **options) for module in (chapter["MLP"], models.MLP))
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)
    x = torch.randn(4, 1, 28, 28)
    for training_mode in (True, False):
        logits = []
        for model in (ours, theirs):
            torch.manual_seed(1)  # dropout
            logits.append(model.train(training_mode)(x))
        assert torch.equal(*logits)


def test_schedule(chapter):
    for done in (0.001, 0.1, 0.2, 0.5, 0.999):
        assert chapter["one_cycle"](done) == training.one_cycle(done)
        assert chapter["one_cycle"](done, peak=0.6) == training.one_cycle(done, peak=0.6)


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 1},
        {"epochs": 3, "batch_size": 48, "augment": jitter, "validation": images(40, 1), "seed": 5},
        {
            "epochs": 2,
            "optimizer": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
            "schedule": training.constant,
        },
        {"epochs": 2, "batch_size": 50, "precision": torch.bfloat16},
    ],
    ids=["defaults", "jitter-validation-and-a-short-last-batch", "sgd", "half-precision"],
)
def test_fit_gives_the_same_weights_to_the_bit(chapter, settings):
    train = images(130)
    ours, theirs = network(chapter["CNN"], (4, 8), 16), network(models.CNN, (4, 8), 16)
    history = chapter["fit"](chapter["Supervised"](ours), train, **settings)
    library = training.fit(training.Supervised(theirs), train, **settings, progress=False)
    assert same(ours, theirs)
    assert not same(ours, network(models.CNN, (4, 8), 16))
    assert len(history) == settings["epochs"]
    for mine, entry in zip(history, library, strict=True):
        assert mine == pytest.approx({name: entry[name] for name in mine}, rel=1e-6)
        assert entry.keys() - mine.keys() == {"labels", "seconds"}


def test_fit_adds_up_named_losses(chapter):
    class Two(training.Supervised):
        def forward(self, batch):
            decay = sum((p**2).sum() for p in self.student.parameters())
            return {**super().forward(batch), "decay": 0.01 * decay}

    train = images(60)
    ours, theirs = network(models.MLP, 784, 10), network(models.MLP, 784, 10)
    chapter["fit"](Two(ours), train, epochs=1)
    training.fit(Two(theirs), train, epochs=1, progress=False)
    assert same(ours, theirs)


@pytest.mark.parametrize("training_mode", [True, False])
def test_predict_and_evaluate(chapter, training_mode):
    data, model = images(70), network(models.CNN).train(training_mode)
    logits = chapter["predict"](model, data, batch_size=30)
    assert torch.equal(logits, training.predict(model, data, batch_size=30))
    assert not logits.requires_grad
    assert chapter["evaluate"](model, data) == training.evaluate(model, data)
    assert all(module.training is training_mode for module in model.modules())


@pytest.mark.parametrize("training_mode", [True, False])
def test_predict_leaves_every_module_in_its_mode(chapter, training_mode):
    for predict in (chapter["predict"], training.predict):
        model = network(models.CNN).train(training_mode)
        model.dropout.train(not training_mode)
        predict(model, images(5))
        assert model.dropout.training is not training_mode
        others = (module for module in model.modules() if module is not model.dropout)
        assert all(module.training is training_mode for module in others)


def test_the_training_cell_is_the_recipe(chapter, tmp_path, monkeypatch):
    """What the other chapters load is what this one trains."""
    monkeypatch.setenv("DISTILL_LIB_CACHE", str(tmp_path))
    train = images(300)
    namespace = {
        **chapter,
        **{name: getattr(training, name) for name in ("fit", "Supervised")},
        "train": train,
        "validation": images(50, 1),
    }
    exec(compile(CELLS["train-teacher"], "train-teacher", "exec"), namespace)
    assert isinstance(namespace["teacher"], nn.Module) and not namespace["teacher"].training
    assert same(namespace["teacher"], recipes.mnist_teacher(train))
