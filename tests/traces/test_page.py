"""Pages of traces: texts are inert in the source, and, in a browser, in what it makes of it."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest

from fastedit.traces.page import framed, page

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\">"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture
def hostile(trace):
    tokens = trace.tokens | {1: HOSTILE, 2: "\u202e&amp;<b>\n", 3: "\u2028\x00"}
    header = trace.header | {"policy": HOSTILE, "id": HOSTILE, "model": {"name": HOSTILE}}
    return dataclasses.replace(trace, tokens=tokens, header=header)


def test_no_text_is_markup_and_no_asset_is_remote(hostile):
    text = page([[hostile], [hostile]], [HOSTILE, "b"])
    assert "<img" not in text and "<b>" not in text
    assert text.count("</script>") == 2 and not re.search(r"https?://|@import|url\(", text)
    (data,) = re.findall(r'id="data">(.*?)</script>', text, re.S)
    assert json.loads(data)[0]["traces"][0]["tokens"]["1"] == HOSTILE
    assert re.search(r"default-src 'none'; style-src 'sha256-\S+'; script-src 'sha256-\S+'", text)


def test_a_notebook_shows_it_in_a_frame_of_its_own(hostile):
    shown = hostile._repr_html_()
    assert shown == framed([hostile])
    assert shown.count("<") == 2 and 'sandbox="allow-scripts"' in shown  # the frame, and its end


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as running:
        found = next(filter(None, map(shutil.which, BROWSERS)), running.chromium.executable_path)
        if not Path(found).exists():
            pytest.skip("needs a browser: install chromium, or run `playwright install chromium`")
        opened = running.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a page at a width; what it logs and loads has to be nothing but itself."""
    contexts = []

    def open_page(text, width=1280, height=900, scheme="light"):
        path = tmp_path / "page.html"
        path.write_text(text, encoding="utf-8")
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        tab = context.new_page()
        seen = []
        tab.on("console", lambda message: seen.append(message.text))
        tab.on("pageerror", lambda error: seen.append(str(error)))
        tab.on("request", lambda request: seen.append(request.url))
        tab.goto(path.as_uri())
        contexts.append((context, seen, path.as_uri()))
        return tab

    yield open_page
    for context, seen, url in contexts:
        context.close()
        assert seen == [url]


@pytest.mark.engines
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_plays_pauses_and_scrubs(opened, trace, width, scheme):
    tab = opened(page([[trace], [trace]], ["a", "b"]), width, 844, scheme)
    at = tab.locator("#at")
    assert at.text_content() == "start, of 4"
    tokens = tab.locator(".tokens").first.locator(".token")
    assert tokens.all_text_contents() == ["?", "\u2591", "\u2591", "\u2591"]
    tab.click("#on")
    tab.click("#on")
    assert at.text_content() == "forward 2 of 4"
    assert tokens.all_text_contents() == ["?", "two", "\u2591", "\u21ba"]
    assert "now" in tokens.nth(1).get_attribute("class")
    tab.locator("#scrub").fill("4")
    assert tokens.all_text_contents() == ["?", "two", "</script><img onerror=x>", " three"]
    tab.select_option("#speed", "100")
    tab.click("#play")
    tab.locator("#play[aria-label=Pause]").wait_for()
    tab.locator("#play[aria-label=Play]").wait_for()  # it has come to the end
    assert at.text_content() == "forward 4 of 4"
    tab.click("#first")
    tab.locator("body").press("ArrowRight")
    assert at.text_content() == "forward 1 of 4"
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [tab.locator("section").nth(i).bounding_box() for i in range(2)]
    beside = boxes[0]["y"] == boxes[1]["y"] and boxes[1]["x"] > boxes[0]["x"]
    assert beside == (width > 900)


@pytest.mark.engines
def test_history_on_hover_on_focus_and_in_the_map(opened, trace):
    tab = opened(page([[trace]]))
    tab.locator("#scrub").fill("4")
    history = tab.locator(".history")
    tab.locator(".token").nth(1).hover()
    assert history.locator("li").count() == 5
    text = history.inner_text()
    assert "Position 0, after forward 4" in text and "entropy 0.1 nats" in text
    assert "forward 2: one (p 0.1) became two (p 0.8); its confidence (0.8) was above" in text
    tab.locator(".token").nth(3).focus()
    assert "mask again" in history.inner_text() and history.locator("li").count() == 4
    chart = tab.locator(".map canvas")
    chart.focus()
    chart.press("ArrowDown")
    chart.press("ArrowRight")
    assert "Position 1, after forward 4" in history.inner_text()
    box = chart.bounding_box()
    tab.mouse.click(box["x"] + 40, box["y"] + 27)  # the first position of the first forward
    assert tab.locator("#at").text_content() == "forward 1 of 4"
    assert "Position 0, after forward 1" in history.inner_text()
    assert tab.locator(".token.chosen").get_attribute("data-place") == "0"


@pytest.mark.engines
def test_marks_are_told_apart_by_their_shape(opened, trace):
    """Cells of one confidence with different events are drawn differently, without any colour."""
    tab = opened(page([[trace]]))
    grey = tab.evaluate(
        """() => [...document.querySelectorAll("#legend canvas")].slice(0, 6).map((canvas) => {
          const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          let text = "";
          for (let i = 0; i < data.length; i += 4)
            text += data[i] + data[i + 1] + data[i + 2] > 480 ? "#" : ".";
          return text;
        })"""
    )
    assert len(set(grey)) == 6 and all("#" in drawn for drawn in grey)


@pytest.mark.engines
def test_hostile_texts_are_inert(opened, hostile):
    tab = opened(page([[hostile]], [HOSTILE]))
    tab.locator("#scrub").fill("4")
    tab.locator(".token").nth(1).hover()
    assert tab.title() == HOSTILE and tab.locator("img").count() == 0
    assert (
        tab.locator("script").count() == 2 and HOSTILE in tab.locator("h2 + .about").text_content()
    )
    assert "\u202e" not in tab.locator("body").inner_text()


@pytest.mark.engines
def test_several_in_one_notebook(opened, hostile, trace):
    body = "".join(each._repr_html_() for each in (trace, hostile))
    tab = opened(f"<!DOCTYPE html><title>notebook</title>{body}")
    frames = tab.frames[1:]
    assert len(frames) == 2 and tab.title() == "notebook"
    for frame in frames:
        frame.locator("#on").click()
        assert frame.locator("#at").text_content() == "forward 1 of 4"
