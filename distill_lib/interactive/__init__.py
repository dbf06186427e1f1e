"""Figures that the reader moves: HTML in a cell's output, which needs no kernel and no network.

Each is a page fragment of this folder and a function that fills in its data. GitHub and paper
cannot run it and show one sentence instead, so a chapter draws a still picture of the same thing
beside it.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from IPython.display import display
from numpy.typing import ArrayLike

from distill_lib import _validate


def kl_pair(p: ArrayLike, q: ArrayLike, names: Sequence[str]) -> None:
    """Two distributions whose bars can be dragged, with their entropies and divergences in nats.

    Parameters
    ----------
    p, q : array_like, shape (K,)
        Probabilities, where the bars stand at first. Each must sum to one.
    names : sequence of K str
        The outcomes.

    Raises
    ------
    ValueError
        If `p` or `q` is not a distribution, or the lengths differ.
    """
    p, q = _validate.pair(p, q, -1)
    if p.shape != (len(names),):
        raise ValueError(f"p must have one number for each of {len(names)} names; got {p.shape}.")
    _show("kl_pair", {"p": p.tolist(), "q": q.tolist(), "names": list(names)})


def temperature_slider(logits: ArrayLike, images: ArrayLike, labels: ArrayLike) -> None:
    """A teacher's soft targets for a few images, under a temperature that the reader sets.

    Parameters
    ----------
    logits : array_like, shape (n, K)
        Of the teacher, on the CPU.
    images : array_like of uint8, shape (n, H, W) or (n, 1, H, W)
    labels : array_like of int, shape (n,)

    Raises
    ------
    ValueError
        If the shapes do not fit, the images are not uint8, or a logit is not finite.
    """
    z, x, y = np.asarray(logits, dtype=float), np.asarray(images), np.asarray(labels)
    if z.ndim != 2 or not np.isfinite(z).all():
        raise ValueError(f"logits must be finite, of shape (n, K); got shape {z.shape}.")
    if x.dtype != np.uint8 or x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[1] != 1):
        raise ValueError(
            f"images must be uint8 of shape (n, H, W) or (n, 1, H, W); got {x.dtype} {x.shape}."
        )
    if not len(z) == len(x) == len(y) or y.ndim != 1:
        raise ValueError(
            f"logits, images and labels must be of one length; got {len(z)}, {len(x)}, {y.shape}."
        )
    height, width = x.shape[-2:]
    digits = [
        {
            "label": int(label),
            "logits": [round(float(logit), 3) for logit in row],
            "ink": base64.b64encode(image.tobytes()).decode(),
        }
        for row, image, label in zip(z, x, y, strict=True)
    ]
    _show("temperature_slider", {"digits": digits, "height": height, "width": width})


def _show(name: str, data: Mapping[str, Any]) -> None:
    """Display the fragment `name` with its data."""
    text = json.dumps(data).replace("<", "\\u003c")  # no name can end the script
    page = (files("distill_lib") / "interactive" / f"{name}.html").read_text(encoding="utf-8")
    # Two of a kind may stand on one page; the name depends on the data alone, so runs repeat.
    page = page.replace("PANEL", f"{name}-{zlib.crc32(text.encode()):08x}").replace("DATA", text)
    instead = "A figure to move by hand: it needs a browser. The still picture beside it shows it."
    display({"text/html": page, "text/plain": instead}, raw=True)
