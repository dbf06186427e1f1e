"""What the chapters share: the split, and a teacher that is trained once."""

import torch

from distill_lib.recipes import mnist, mnist_teacher
from distill_lib.training import predict


def test_the_split_is_of_the_training_set_alone():
    train, validation, test = mnist()
    assert (len(train), len(validation), len(test)) == (50_000, 10_000, 10_000)
    counts = torch.bincount(train.y) + torch.bincount(validation.y)
    assert counts.tolist()[:2] == [5923, 6742]  # MNIST's own training set, all of it
    again, _, _ = mnist()
    assert torch.equal(again.y, train.y)


def test_the_teacher_is_trained_once_and_found_again(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_LIB_CACHE", str(tmp_path))
    train, validation, _ = mnist()
    few = train[:600]
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    teacher = mnist_teacher(few)
    assert torch.equal(torch.rand(2), expected)  # the caller's random state is left alone
    assert not teacher.training
    assert len(list(tmp_path.iterdir())) == 1
    logits = predict(teacher, validation[:100])
    assert torch.equal(predict(mnist_teacher(few), validation[:100]), logits)
    assert not torch.equal(predict(mnist_teacher(few, seed=1), validation[:100]), logits)
    assert len(list(tmp_path.iterdir())) == 2
