"""The look of the figures and the way they are shown."""

import base64
import io
import itertools

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

from distill_lib import plots

mpl.use("Agg")
ALT = "A straight line that rises from the lower left to the upper right."


@pytest.fixture
def shown(monkeypatch):
    """Collect what `show` displays."""
    calls = []
    monkeypatch.setattr(plots, "display", lambda data, **options: calls.append((data, options)))
    return calls


@pytest.fixture
def figure():
    with mpl.rc_context():
        plots.use_style()
        fig, ax = plt.subplots()
        ax.plot([0, 1], [0, 1])
        yield fig
    plt.close("all")


def test_show_displays_one_png_with_its_alternative_text(shown, figure):
    plots.show(figure, ALT)
    ((data, options),) = shown
    assert options["raw"] is True
    assert options["metadata"]["image/png"]["alt"] == ALT
    assert data["text/plain"] == ALT
    picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert picture.format == "PNG"
    # Stored finer than shown, in the same shape.
    shape = options["metadata"]["image/png"]
    assert picture.width / shape["width"] == pytest.approx(1.6, rel=0.01)
    assert picture.height / shape["height"] == pytest.approx(1.6, rel=0.01)


def test_picture_carries_its_text_so_that_it_can_be_shown_again(shown, figure):
    alt = ALT + " For τ → 0 it is steep – and “straight”."
    plots.show(figure, alt)
    plots.show_png(base64.b64decode(shown[0][0]["image/png"]))
    assert shown[0] == shown[1]
    assert shown[1][0]["text/plain"] == alt


def test_show_closes_the_figure(shown, figure):
    plots.show(figure, ALT)
    assert not plt.fignum_exists(figure.number)


def test_picture_says_nothing_of_the_program_that_drew_it(shown, figure):
    plots.show(figure, ALT)
    assert b"Matplotlib" not in base64.b64decode(shown[0][0]["image/png"])


@pytest.mark.parametrize("alt", ["", "   ", "Figure 1", " " * 30])
def test_show_wants_a_description(shown, figure, alt):
    with pytest.raises(ValueError, match="alt="):
        plots.show(figure, alt)
    assert not shown


def test_figures_have_an_opaque_white_ground(shown, figure):
    """So that they can be read on a dark page."""
    plots.show(figure, ALT)
    picture = Image.open(io.BytesIO(base64.b64decode(shown[0][0]["image/png"]))).convert("RGBA")
    pixels = np.asarray(picture)
    assert (pixels[..., 3] == 255).all()
    assert (pixels[0, 0] == 255).all()


def _luminance(colour):
    channel = np.array(to_rgb(colour))
    linear = np.where(channel <= 0.04045, channel / 12.92, ((channel + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def _as_seen_without(cone, colour):
    """Colour as a dichromat sees it (Viénot, Brettel & Mollon 1999; linear RGB)."""
    matrices = {
        "long": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
        "medium": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    }
    channel = np.array(to_rgb(colour))
    linear = np.where(channel <= 0.04045, channel / 12.92, ((channel + 0.055) / 1.055) ** 2.4)
    return np.clip(matrices[cone] @ linear, 0, 1) ** (1 / 2.2)


@pytest.mark.parametrize("cone", ["long", "medium"])
def test_palette_stays_apart_without_a_cone(cone):
    for first, second in itertools.combinations(plots.PALETTE, 2):
        distance = np.linalg.norm(_as_seen_without(cone, first) - _as_seen_without(cone, second))
        assert distance > 0.12, (first, second)


def test_palette_can_be_seen_on_white():
    for colour in (*plots.PALETTE, plots.GREY):
        contrast = 1.05 / (_luminance(colour) + 0.05)
        assert contrast > 2, colour


def test_style_uses_the_palette_in_turn(figure):
    cycle = [entry["color"] for entry in mpl.rcParams["axes.prop_cycle"]]
    assert cycle == list(plots.PALETTE)
    assert figure.axes[0].lines[0].get_color() == plots.PALETTE[0]


def test_digits_are_drawn_dark_on_white_with_their_captions():
    fig, axes = plt.subplots(1, 2)
    x = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    x[1, 0, 2, 3] = 255
    plots.draw_digits(axes, x, ["a", "b"])
    assert [ax.get_xlabel() for ax in axes] == ["a", "b"]
    drawn = axes[1].images[0]
    assert drawn.get_array()[2, 3] == 255
    assert drawn.to_rgba(drawn.get_array())[2, 3, 0] < 0.1 < 0.9 < drawn.to_rgba([[0]])[0, 0, 0]
    with pytest.raises(ValueError):
        plots.draw_digits(axes, x, ["one caption for two images"])
    plt.close(fig)


def test_a_soft_target_has_a_bar_for_each_class_and_a_fixed_scale():
    fig, ax = plt.subplots()
    plots.draw_soft_target(ax, torch.tensor([0.7, 0.2, 0.1]), ("x", "y", "z"))
    assert [round(bar.get_height(), 6) for bar in ax.patches] == [0.7, 0.2, 0.1]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["x", "y", "z"]
    assert ax.get_ylim() == (0, 1)
    plt.close(fig)


def test_pairs_are_joined_and_the_means_too():
    fig, ax = plt.subplots()
    plots.draw_pairs(ax, [10, 20], [8, 21], ("before", "after"))
    lines = [line.get_ydata().tolist() for line in ax.lines]
    assert lines == [[10, 8], [20, 21], [15, 14.5]]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["before", "after"]
    plt.close(fig)
