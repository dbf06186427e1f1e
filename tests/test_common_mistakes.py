"""Every mistake of the chapter fails its own test, and every cure passes: from its own cells."""

import inspect
import linecache
from functools import cache

import pytest
import torch
from lab_answers import cells

from distill_lib.data import Batch
from distill_lib.distiller import Distiller
from distill_lib.models import MLP
from distill_lib.objectives import HardLabels, SoftTargets

CHAPTER = "11-common-mistakes"
pytestmark = pytest.mark.filterwarnings("ignore:reduction")  # one of the mistakes is warned about
MISTAKES = (
    "two softmaxes",
    "softmax at the end",
    "ReLU on the logits",
    "a layer is missing",
    "probabilities for logs",
    "teacher softmaxed again",
    "logits against probabilities",
    "mean over classes",
    "no τ²",
    "α the other way",
    "teacher against itself",
    "logarithms by hand",
    "a seam in the divergence",
    "warm-up that never trains",
    "warm-up one epoch too long",
    "dropout p as the share to keep",
    "student left in eval mode",
    "peers not detached",
    "teacher in train mode",
    "teacher not frozen",
    "teacher never trained",
    "teacher's twin as the student",
    "cache by batch number",
    "a name that nobody defined",
    "the device, written out",
    "no seed",
    "a B×B table averaged",
    "report on learned images",
    "best on the test set",
)


@cache
def chapter() -> dict[str, object]:
    """The names that the chapter's definitions and tests make; nothing is trained but a teacher."""
    defined: dict[str, object] = {}
    for name, cell in cells(CHAPTER).items():
        if name in ("setup", "teacher", "warm-up-run") or name.startswith(("define-", "catch-")):
            file = f"<{name}>"  # so that inspect finds the source
            linecache.cache[file] = (len(cell.source), None, cell.source.splitlines(True), file)
            exec(compile(cell.source, file, "exec"), defined)
    return defined


def test_the_catalogue_is_complete():
    assert tuple(chapter()["caught"]) == MISTAKES


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_fails_its_own_test_and_the_cure_passes(mistake):
    test, bug, fix = chapter()["caught"][mistake]
    test(fix)
    with pytest.raises(AssertionError):
        test(bug)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_test_is_one_assertion(mistake):
    test = chapter()["caught"][mistake][0]
    body = [line.strip() for line in inspect.getsource(test).splitlines()[1:]]
    assert sum(line.startswith("assert ") for line in body) == 1
    assert len(body) <= 2


def test_an_evaluation_that_wakes_a_frozen_module_is_caught():
    def wakes_all(network, x, y):
        was_training = network.training
        right = (network.eval()(x).argmax(dim=1) == y).float().mean()
        network.train(was_training)
        return right

    with pytest.raises(AssertionError):
        chapter()["test_an_evaluation_restores_the_mode"](wakes_all)


def test_catch_itself_can_fail():
    catch, losses = chapter()["catch"], chapter()
    test = losses["test_a_copy_of_the_teacher_costs_nothing"]
    with pytest.raises(AssertionError, match="does not catch"):
        catch("nothing", test, bug=losses["no_tau_squared"], fix=losses["right_loss"])
    with pytest.raises(AssertionError):
        catch("nothing", test, bug=losses["right_loss"], fix=losses["probabilities_for_logs"])
    assert "nothing" not in losses["caught"]


@pytest.mark.parametrize(("tau", "alpha"), [(1.0, 0.0), (2.0, 0.9), (20.0, 0.5), (4.0, 1.0)])
def test_chapter_and_library_have_the_same_loss(tau, alpha):
    torch.manual_seed(0)
    x, y, index = torch.randn(6, 1, 28, 28), torch.arange(6), torch.arange(6)
    teacher, student = MLP(784, 8, 10), MLP(784, 4, 10)
    losses = {"labels": HardLabels(1 - alpha), "soft": SoftTargets(tau, alpha)}
    parts = Distiller(teacher, student, losses)(Batch(x, y, index, 0, 6, False))
    ours = chapter()["right_loss"](student(x), teacher(x), y, tau, alpha)
    torch.testing.assert_close(sum(parts.values()), ours)


@pytest.mark.parametrize(
    "name",
    [
        "test_sure_and_right_costs_nothing",
        "test_a_copy_of_the_teacher_costs_nothing",
        "test_sums_over_the_classes",
        "test_heat_does_not_weaken_the_teacher",
        "test_alpha_one_ignores_the_labels",
        "test_another_teacher_gives_another_loss",
        "test_large_logits_stay_finite",
    ],
)
def test_the_librarys_loss_passes_the_chapters_tests(name):
    def loss(z, v, y, tau=20.0, alpha=0.5):
        step = type("Step", (), {"student_logits": z, "teacher_logits": v})()
        step.batch = type("Labels", (), {"y": y})()
        return HardLabels(1 - alpha)(step) + SoftTargets(tau, alpha)(step)

    chapter()[name](loss)
