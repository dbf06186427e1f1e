"""Reading a network's layers by name while it runs, for losses of what happens inside."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from distill_lib.training import is_out_of_memory


@contextmanager
def read_layers(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Read the outputs of some layers while the model runs inside a ``with`` block.

    The hooks are removed when the block is left, whatever happens in it. A layer whose output the
    next one changes in place (``nn.ReLU(inplace=True)``, as in torchvision's networks) is read as
    the next one left it.

    Parameters
    ----------
    model : nn.Module
    names : sequence of str
        Paths of modules, as ``model.named_modules()`` has them: ``"conv2"``, ``"layers.fc1"``.

    Yields
    ------
    dict of str to Tensor
        Filled by each forward pass; a layer that runs twice leaves its last output.

    Raises
    ------
    ValueError
        There is no layer of this name (at once), or the forward pass never called it (when its
        output is looked up).
    TypeError
        `names` is a string; or, in the forward pass, the layer returns something other than a
        tensor.

    Examples
    --------
    >>> from distill_lib.models import CNN
    >>> cnn, x = CNN(), torch.zeros(5, 1, 28, 28)
    >>> with read_layers(cnn, ["conv2", "fc1"]) as features:
    ...     logits = cnn(x)
    >>> features["conv2"].shape
    torch.Size([5, 32, 8, 8])
    """
    if isinstance(names, str):
        raise TypeError(f"names: expected a sequence of names, got a string: write [{names!r}]")
    modules = {name: m for name, m in model.named_modules(remove_duplicate=False) if name}
    for name in names:
        if name not in modules:
            near = _near_names(name, list(modules)) or list(modules)
            raise ValueError(
                f"layer: {type(model).__name__} has no layer {name!r}; did you mean one of {near}?"
            )
    features = _Features(model, names)

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if not isinstance(output, Tensor):
                raise TypeError(
                    f"layer: {name!r} ({type(module).__name__}) returns a {type(output).__name__}, "
                    f"not a tensor: name a layer after it, or put it into a module that returns "
                    f"the one tensor to compare"
                )
            features[name] = output

        return hook

    handles = [modules[name].register_forward_hook(keep(name)) for name in names]
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()


class _Features(dict[str, Tensor]):
    """Outputs of the layers that were asked for; one that is missing says why."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self._model, self._names = model, names

    def __missing__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(f"layer {name!r}: a loss lists it in student_layers or teacher_layers")
        parts = [path for path, _ in self._model.named_modules() if path.startswith(f"{name}.")]
        other = f"one of its parts {parts[:5]}" if parts else "one that the forward pass calls"
        raise ValueError(
            f"layer: {type(self._model).__name__} has a layer {name!r}, but its forward pass never "
            f"called it: name {other}"
        )


def _near_names(name: str, paths: Sequence[str]) -> list[str]:
    """The paths whose last component is most like that of `name`, the nearest first."""
    ends = [path.rpartition(".")[2] for path in paths]
    end = name.rpartition(".")[2]
    near = difflib.get_close_matches(end, dict.fromkeys(ends), n=3, cutoff=0.5)
    return [path for one in near for path, its in zip(paths, ends, strict=True) if its == one][:5]


def refuse_layers(losses: nn.ModuleDict, who: str) -> None:
    """Raise ValueError if one of the losses reads layers, since `who` has logits only."""
    for name, loss in losses.items():
        for part in loss.modules():
            if getattr(part, "student_layers", ()) or getattr(part, "teacher_layers", ()):
                raise ValueError(
                    f"losses[{name!r}]: {type(part).__name__} reads layers, and {who} has logits "
                    f"only: give a loss of logits, such as SoftTargets"
                )


@contextmanager
def naming_layers(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Iterator[None]:
    """Let an error inside the ``with`` block say which layers and which shapes."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise  # not a matter of shapes: `fit` names a batch that fits
        ours, theirs = (
            " and ".join(f"{name!r} of shape {tuple(x.shape)}" for name, x in features.items())
            for features in (student, teacher)
        )
        raise ValueError(
            f"cannot compare the student's {ours} with the teacher's {theirs}: {error}"
        ) from error
