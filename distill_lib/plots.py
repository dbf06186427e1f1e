"""The book's figures: one look for all of them, and one way to show them.

Every figure of the book is drawn on a white ground, which stays readable on a dark page, in the
colours of Okabe and Ito, which stay apart for every common form of colour blindness, and is shown
with a text that stands in for it (`show`).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

# Okabe & Ito (2008), https://jfly.uni-koeln.de/color/. Their yellow is left out: it is too pale
# for a line on white.
BLUE = "#0072B2"
VERMILLION = "#D55E00"
GREEN = "#009E73"
ORANGE = "#E69F00"
PURPLE = "#CC79A7"
SKY = "#56B4E9"
BLACK = "#000000"
GREY = "#767676"  # for what should stay in the background: limits, grids, remarks

PALETTE = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK)

_DPI = 160  # of the stored picture
_SHOWN_DPI = 100  # of the picture on the page: the difference keeps small type sharp


def use_style() -> None:
    """Set Matplotlib's defaults to the look of the book.

    Call it once, after the imports. Figures made later use the colours of ``PALETTE`` in turn.
    """
    mpl.rcParams.update(
        {
            "figure.figsize": (6.5, 3.6),
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "axes.facecolor": "white",
            "axes.prop_cycle": cycler(color=PALETTE),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "axes.grid": True,
            "grid.color": "#E3E3E3",
            "grid.linewidth": 0.8,
            "lines.linewidth": 2.0,
            "font.family": "DejaVu Sans",  # comes with Matplotlib, so it is the same everywhere
            "font.size": 10,
            "axes.titlesize": 10,
            "legend.frameon": False,
            "image.cmap": "cividis",
        }
    )


def show(fig: Figure, alt: str) -> None:
    """Display a figure as one PNG with a text for those who cannot see it, and close it.

    Parameters
    ----------
    fig : matplotlib.figure.Figure
        The finished figure.
    alt : str
        What the figure shows, in a sentence or two: axes, curves, and what to notice.

    Raises
    ------
    ValueError
        If `alt` is shorter than 20 characters: that is a title, not a description.
    """
    if len(alt.strip()) < 20:
        raise ValueError(
            f"alt={alt!r} is too short to stand in for the figure: "
            "say what is drawn and what to notice."
        )
    drawn, buffer = io.BytesIO(), io.BytesIO()
    fig.savefig(drawn, format="png", dpi=_DPI)
    plt.close(fig)
    # 256 colours are enough for a figure, and make the notebook a third of the size.
    picture = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    about = PngInfo()
    about.add_text("Description", alt)
    picture.save(buffer, format="png", optimize=True, pnginfo=about)
    show_png(buffer.getvalue())


def show_png(png: bytes) -> None:
    """Display a PNG that `show` made, with the text that it carries.

    Parameters
    ----------
    png : bytes
        The file's content.
    """
    picture = Image.open(io.BytesIO(png))
    alt = picture.info["Description"]
    width, height = (round(pixels * _SHOWN_DPI / _DPI) for pixels in picture.size)
    display(
        {"image/png": base64.b64encode(png).decode(), "text/plain": alt},
        metadata={"image/png": {"alt": alt, "width": width, "height": height}},
        raw=True,
    )


def draw_digits(axes: Iterable[Axes], x: Tensor, captions: Sequence[str]) -> None:
    """Draw one image on each of the axes, dark ink on white paper, its caption below.

    Parameters
    ----------
    axes : iterable of n Axes
        Such as the flattened result of ``plt.subplots``.
    x : Tensor, uint8, shape (n, 1, H, W)
    captions : sequence of n str
        What the reader should know about each, such as the label and the answer.
    """
    for ax, image, caption in zip(axes, x[:, 0].cpu().numpy(), captions, strict=True):
        ax.imshow(image, cmap="gray_r", vmin=0, vmax=255)
        ax.set(xticks=[], yticks=[], xlabel=caption)
        ax.grid(False)
        ax.spines[:].set_visible(False)


def draw_soft_target(ax: Axes, p: Tensor, classes: Sequence[str], *, color: str = BLUE) -> None:
    """Draw one distribution over the classes as bars, on a scale from 0 to 1.

    Parameters
    ----------
    p : Tensor, shape (K,)
        Probabilities.
    classes : sequence of K str
    """
    ax.bar(range(len(classes)), p.cpu().numpy(), color=color)
    ax.set(xticks=range(len(classes)), xticklabels=classes, ylim=(0, 1))
    ax.grid(False, axis="x")


def draw_pairs(ax: Axes, left: ArrayLike, right: ArrayLike, labels: tuple[str, str]) -> None:
    """Draw paired runs: a line a seed from its `left` to its `right` figure, the means in bold.

    Parameters
    ----------
    left, right : array_like, shape (n_seeds,)
    labels : (str, str)
        What stands under the two ends.
    """
    pairs = np.stack([np.asarray(left, dtype=float), np.asarray(right, dtype=float)])
    ax.plot([0, 1], pairs, color=GREY, linewidth=1, marker="o", markersize=4)
    ax.plot([0, 1], pairs.mean(axis=1), color=BLUE, linewidth=3, marker="o", markersize=8)
    ax.set(xticks=[0, 1], xticklabels=labels, xlim=(-0.3, 1.3))
    ax.grid(False, axis="x")
