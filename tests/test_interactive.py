"""The figures that the reader moves say what the library says, by pointer, keyboard and ear."""

import re

import numpy as np
import pytest
from scipy.special import softmax

from distill_lib import interactive
from distill_lib.information import cross_entropy, entropy, js_divergence, kl_divergence

P, Q = [0.5, 0.25, 0.2, 0.05], [0.1, 0.3, 0.5, 0.1]
NAMES = ["cat", "dog", "bird", "fish"]
LOGITS = np.random.default_rng(0).normal(size=(3, 10)).round(3) * 3
IMAGES = np.random.default_rng(1).integers(0, 256, (3, 28, 28), dtype=np.uint8)
LABELS = np.array([3, 1, 7])


@pytest.fixture
def shown(monkeypatch):
    """What would be displayed."""
    outputs = []
    monkeypatch.setattr(interactive, "display", lambda data, raw: outputs.append(data))
    return outputs


@pytest.fixture
def page(chromium):
    """An empty page without a network, which must stay free of complaints."""
    context = chromium.new_context(offline=True, viewport={"width": 800, "height": 900})
    page = context.new_page()
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("request", lambda request: complaints.append(request.url))
    yield page
    context.close()
    assert not complaints


def put(page, outputs):
    page.set_content(f"<!doctype html>{''.join(data['text/html'] for data in outputs)}")


def readout(page):
    """The numbers under the bars of `kl_pair`, by their names."""
    spoken = page.locator("svg[role=img]").get_attribute("aria-label")
    return {
        name: float("inf") if value == "infinite" else float(value)
        for name, value in re.findall(r"([A-Z]+\([pq ,‖]+\)) is ([\d.]+|infinite)", spoken)
    }


def expected(p, q):
    return {
        "H(p)": entropy(p),
        "H(p, q)": cross_entropy(p, q),
        "KL(p ‖ q)": kl_divergence(p, q),
        "KL(q ‖ p)": kl_divergence(q, p),
        "JS(p, q)": js_divergence(p, q),
    }


def handle(page, name):
    return page.get_by_role("slider", name=name, exact=True)


def bars(page, which):
    values = [handle(page, f"{which} of {name}").get_attribute("aria-valuenow") for name in NAMES]
    return np.array([float(value) for value in values])


def test_kl_pair_starts_with_the_librarys_numbers(page, shown):
    interactive.kl_pair(P, Q, NAMES)
    put(page, shown)
    assert readout(page) == pytest.approx(expected(P, Q), abs=6e-4)


def test_a_dragged_bar_follows_the_pointer_and_the_others_make_room(page, shown):
    interactive.kl_pair(P, Q, NAMES)
    put(page, shown)
    bar = handle(page, "p of cat").locator("rect.grip").bounding_box()
    page.mouse.move(bar["x"] + bar["width"] / 2, bar["y"] + bar["height"] / 2)
    page.mouse.down()
    page.mouse.move(bar["x"] + bar["width"] / 2, bar["y"] - 40, steps=4)
    page.mouse.up()
    now = bars(page, "p")
    assert now[0] > 0.6 and now.sum() == pytest.approx(1, abs=2e-3)
    np.testing.assert_allclose(now[1:] / now[1:].sum(), np.array(P[1:]) / 0.5, atol=5e-3)
    np.testing.assert_array_equal(bars(page, "q"), Q)
    assert readout(page) == pytest.approx(expected(now / now.sum(), Q), abs=5e-3)


def test_the_keyboard_moves_a_bar_and_a_zero_costs_infinity(page, shown):
    interactive.kl_pair(P, Q, NAMES)
    put(page, shown)
    handle(page, "q of fish").focus()
    page.keyboard.press("ArrowUp")
    assert bars(page, "q")[3] == pytest.approx(0.11)
    page.keyboard.press("Home")
    assert bars(page, "q")[3] == 0
    assert readout(page)["KL(p ‖ q)"] == readout(page)["H(p, q)"] == float("inf")
    assert readout(page)["JS(p, q)"] < np.log(2)
    page.get_by_role("button", name="swap p and q").click()
    assert readout(page)["KL(q ‖ p)"] == float("inf") > readout(page)["KL(p ‖ q)"]


def test_buttons(page, shown):
    interactive.kl_pair(P, Q, NAMES)
    put(page, shown)
    page.get_by_role("button", name="q = p").click()
    assert readout(page) == pytest.approx(expected(P, P), abs=6e-4)
    page.get_by_role("button", name="q uniform").click()
    assert readout(page) == pytest.approx(expected(P, [0.25] * 4), abs=6e-4)
    handle(page, "q of cat").focus()
    page.keyboard.press("End")
    np.testing.assert_array_equal(bars(page, "q"), [1, 0, 0, 0])
    page.keyboard.press("PageDown")  # the others were all zero: they share alike
    np.testing.assert_allclose(bars(page, "q"), [0.9, 1 / 30, 1 / 30, 1 / 30], atol=1e-3)
    page.get_by_role("button", name="start again").click()
    assert readout(page) == pytest.approx(expected(P, Q), abs=6e-4)


@pytest.mark.parametrize("tau", [1, 4, 20])
def test_temperature_slider_shows_the_softmax_and_its_entropy(page, shown, tau):
    interactive.temperature_slider(LOGITS, IMAGES[:, None], LABELS)
    put(page, shown)
    page.get_by_role("button", name=f"τ = {tau}", exact=True).click()
    charts = page.locator("svg[role=img]")
    assert charts.count() == 3
    for i, (z, label) in enumerate(zip(LOGITS, LABELS, strict=True)):
        p = softmax(z / tau)
        spoken = charts.nth(i).get_attribute("aria-label")
        assert spoken.startswith(f"labelled {label}; entropy {entropy(p):.2f} nats; ")
        assert f"{p.argmax()}: {100 * p.max():.1f} percent" in spoken
        heights = (
            charts.nth(i)
            .locator("rect")
            .evaluate_all("bars => bars.map(bar => Number(bar.getAttribute('height')))")
        )
        np.testing.assert_allclose(np.array(heights) / 80, p, atol=1e-4)


def test_temperature_slider_moves_with_the_keyboard_and_draws_the_ink(page, shown):
    interactive.temperature_slider(LOGITS, IMAGES, LABELS)
    put(page, shown)
    slider = page.get_by_label("temperature τ")
    slider.focus()
    page.keyboard.press("End")
    assert slider.get_attribute("aria-valuetext") == "temperature 100"
    page.keyboard.press("Home")
    assert slider.get_attribute("aria-valuetext") == "temperature 0.10"
    read = "canvas => canvas.getContext('2d').getImageData(0, 0, 28, 28).data.filter("
    ink = page.locator("canvas").nth(1).evaluate(f"{read}(_, i) => i % 4 == 3).join()")
    np.testing.assert_array_equal(np.fromstring(ink, int, sep=",").reshape(28, 28), IMAGES[1])


def test_a_phone_shows_both_without_scrolling_sideways(page, shown):
    interactive.kl_pair(P, Q, NAMES)
    interactive.temperature_slider(LOGITS, IMAGES, LABELS)
    page.set_viewport_size({"width": 360, "height": 740})
    put(page, shown)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    sizes = page.locator("svg text").evaluate_all(
        "all => all.map(text => 13 * text.getScreenCTM().a)"
    )
    assert min(sizes) > 10, "type too small to read"
    legend = [text.bounding_box() for text in page.locator("svg text.legend").all()]
    ends = [box["x"] + box["width"] for box in legend]
    assert ends[0] < legend[1]["x"] and ends[1] <= page.viewport_size["width"], "names collide"


def test_where_scripts_do_not_run_one_sentence_stands_in_its_place(shown):
    interactive.kl_pair(P, Q, NAMES)
    interactive.temperature_slider(LOGITS, IMAGES, LABELS)
    for data in shown:
        still = re.sub(r"<(script|style)>.*?</\1>", "", data["text/html"], flags=re.S)
        assert "still picture" in re.sub(r"<[^>]+>", "", still)
        assert "still picture" in data["text/plain"]


def test_output_repeats_and_two_of_a_kind_share_a_page(page, shown):
    interactive.kl_pair(P, Q, NAMES)
    interactive.kl_pair(P, Q, NAMES)
    interactive.kl_pair(Q, P, NAMES)
    assert shown[0] == shown[1]
    put(page, [shown[0], shown[2]])
    first, second = page.locator("svg[role=img]").all()
    assert first.get_attribute("aria-label") != second.get_attribute("aria-label")


def test_no_name_can_end_the_script(page, shown):
    interactive.kl_pair(P, Q, ["</script><b>", *NAMES[1:]])
    put(page, shown)
    assert page.locator("b").count() == 0
    assert page.get_by_role("slider").count() == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.5, 0.6], [0.5, 0.5], ["a", "b"]), "p sums to 1.1"),
        (([0.5, 0.5], [0.2, 0.3, 0.5], ["a", "b"]), r"p has shape \(2,\) but q has shape \(3,\)"),
        ((P, Q, ["a", "b"]), "one number for each of 2 names"),
    ],
)
def test_kl_pair_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        interactive.kl_pair(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((LOGITS[0], IMAGES, LABELS), "logits must be finite, of shape"),
        ((LOGITS * np.nan, IMAGES, LABELS), "logits must be finite"),
        ((LOGITS, IMAGES / 255, LABELS), "images must be uint8 .* got float64"),
        ((LOGITS, IMAGES, LABELS[:2]), "of one length; got 3, 3"),
    ],
)
def test_temperature_slider_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        interactive.temperature_slider(*arguments)
