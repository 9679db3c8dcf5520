"""The HTML page of a run: whole, alone, escaped, readable; and when it is written."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_backend
from engine_fixtures import toy_config, toy_host, toy_run
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import HOSTILE, Measure, Page, check_alone
from PIL import Image

from srum_plugins import hookimpl
from srum_plugins.cli import main
from srum_plugins.errors import ContractError, StageError
from srum_plugins.host import PluginHost
from srum_plugins.records import Box, Failure, Mask, Noted, Reading, Region, Score, to_json
from srum_plugins.report import change_in_words, rows
from srum_plugins.reporting.curves import POINTS, SERIES, curve_svg, smoothed
from srum_plugins.reporting.figures import TEXT, duration, without_credentials
from srum_plugins.reporting.inline import LOSSLESS, SIDE, data_uri
from srum_plugins.reporting.page import page
from srum_plugins.reporting.run_report import run_page, write
from srum_plugins.reporting.sections import (
    Card,
    Cost,
    Failed,
    Made,
    Section,
    Shot,
    Strip,
    costs,
    curves,
    gallery,
    headline,
    label_places,
    made,
    monitors,
    quarantine,
    results,
    rewards,
)
from srum_plugins.rewards.maps import MapRegion, RewardMap
from srum_plugins.stages.pipeline import summary_of
from srum_plugins.stages.session import Session
from srum_plugins.stats import BETTER, WORSE

FIGURES = {"before": 0.5, "after": 0.75, "delta": 0.25, "ci95": [0.1, 0.4], "prompts": 480}


def image(size: int = 8, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8))


def summary(text: str) -> dict[str, Any]:
    split = {**FIGURES, "categories": {text: FIGURES}, "graded": {text: FIGURES}}
    accuracy = {"before": {text: 1.0}, "after": {text: 1.0}, "questions": {text: 4}, "identical": True}
    return {f"a {text}": split, "understanding": accuracy, "arm": text, "seconds": {}}


def card(text: str, size: int = 8) -> Card:
    half = Box(0, 0, size / 2, size)
    mask = Mask(size, size, (size, size * size - size))
    return Card(
        title=text,
        prompt=text,
        image=image(size),
        regions=(Region(half, text), Region(half, text, mask=mask), Region(half, text)),
        alpha=Score(0.5, text, spread=0.25),
        local=(Score(-0.5, text), Failure(text, text), Score(0.0, text)),
        map=RewardMap(size, size, (MapRegion(half, -0.5),), 0.5, 0.25),
        grid=(4, 4),
        answers=(text, text),
    )


def every_section(text: str) -> list[Section]:
    """Every section with the text wherever a run may bring its own."""
    steps = [{"step": float(step), text if text != "step" else "a": step / 3} for step in range(3)]
    return [
        headline(summary(text)),
        gallery(text, [Strip(text, text, [Shot(text, image(), True), Shot(text, image(), None)])], text),
        gallery(text, [Strip(text, text, [Shot(text, image(), False)])], text, key="more", folded=True),
        rewards([card(text)], text),
        results(rows(summary(text))),
        curves({f"{text}1": steps, f"{text}2": steps}),
        monitors([{"name": text, "value": text, "step": 3, "level": "stop", "message": text}]),
        quarantine([Failed(text, text, text, text)]),
        costs([Cost(text, 2.0, (3, 4))]),
        made(text, {text: text}, [Made(text, text, {text: text}), Made("other", text, {text: "else"})]),
    ]


@given(HOSTILE)
@settings(max_examples=15, deadline=None)
def test_no_text_of_a_run_is_anything_but_text(text: str) -> None:
    plain = Page(page("plain", ["plain"], every_section("plain")))
    found = Page(page(text, [text], every_section(text)))
    check_alone(found)
    assert found.shape == plain.shape
    assert "".join(found.texts).count(text) >= "".join(plain.texts).count("plain")
    assert [shown["alt"] for shown in found.of("img")] == [
        shown["alt"].replace("plain", text) for shown in plain.of("img")
    ]


def test_every_section_has_an_anchor_that_the_page_links_to() -> None:
    found = Page(page("t", [], every_section("x")))
    anchors = {entry["id"] for entry in found.of("section")}
    assert [entry["href"].removeprefix("#") for entry in found.of("a")] == [s.key for s in every_section("x")]
    assert len(anchors) == len(every_section("x"))
    assert found.of("html") == [{"lang": "en"}]
    policies = [entry["content"] for entry in found.of("meta") if "http-equiv" in entry]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


@given(st.floats(-1, 1), st.floats(-1, 1), st.integers(1, 500))
def test_the_words_say_no_more_than_the_interval(one: float, other: float, count: int) -> None:
    low, high = sorted((one, other))
    words = change_in_words({"delta": low, "low": low, "high": high, "n": count})
    if count == 1:
        assert words == "one prompt tells nothing"
    else:
        assert (words == BETTER) == (low > 0) and (words == WORSE) == (high < 0)
        assert (words == "no significant change") == (low <= 0 <= high)


def test_a_row_without_an_interval_is_not_judged() -> None:
    assert change_in_words({"low": None, "high": None, "n": 50}) == ""
    shown = "".join(Page(page("t", [], [results(rows(summary("x")))])).texts)
    assert shown.count(BETTER) == 3  # the split, its category, its further figure; not the kind of question


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200))
def test_a_running_mean_stays_within_its_values(values: list[float]) -> None:
    means, window = smoothed(np.array(values))
    assert len(means) == len(values) - window + 1
    slack = 1e-9 * (1 + max(map(abs, values)))
    assert min(values) - slack <= means.min() and means.max() <= max(values) + slack


def test_a_chart_is_the_same_every_time_and_has_the_colours_of_the_page() -> None:
    long = [float(step) for step in range(50 * POINTS)]
    chart = curve_svg([(long, long)], "a")
    assert chart == curve_svg([(long, long)], "a")
    assert len(chart) < 80_000  # it does not grow with the steps
    assert "currentColor" in chart and "var(--line-0)" in chart and "#0" not in chart
    many = curve_svg([([0.0, 1.0], [float(line), 2.0]) for line in range(SERIES + 1)], "b")
    assert all(f"var(--line-{line})" in many for line in range(SERIES))
    assert set(re.findall(r'id="([^"]+)"', chart)).isdisjoint(re.findall(r'id="([^"]+)"', many))
    with pytest.raises(ContractError, match="as many steps as values"):
        curve_svg([([0.0], [])], "c")


@pytest.mark.parametrize("size", [8, LOSSLESS, LOSSLESS + 1, 1024])
def test_images_are_kept_if_small_and_shrunk_if_large(size: int) -> None:
    kind, _, data = data_uri(image(size)).partition(";base64,")
    shown = Image.open(io.BytesIO(base64.b64decode(data)))
    if size <= LOSSLESS:
        assert kind == "data:image/png" and shown.tobytes() == image(size).tobytes()
    else:
        assert kind == "data:image/webp" and max(shown.size) == min(size, SIDE)


def test_a_page_of_large_images_stays_below_three_megabytes() -> None:
    photos = [Image.effect_mandelbrot((1024, 1024), (-2, -1.5, 1, 1.5), 60 + seed).convert("RGB") for seed in range(2)]
    strips = [Strip("a prompt", "split", [Shot("before", photos[0]), Shot("after", photos[1])])] * 24
    cards = [dataclasses.replace(card("a reason " * 50, 8), answers=("an answer " * 100,) * 40)] * 8
    steps = [{"step": float(step), **{f"m{metric}": step**0.5 for metric in range(9)}} for step in range(2000)]
    whole = page("t", [], [gallery("g", strips, ""), rewards(cards), curves({"run": steps})])
    assert len(whole.encode()) < 3e6


def test_long_text_is_cut_and_says_so() -> None:
    shown = "".join(Page(page("t", [], [quarantine([Failed("judge", "c", "ValueError", "x" * (TEXT + 7))])])).texts)
    assert f"{'x' * TEXT} … (7 more characters)" in shown


def test_monitors_show_the_worst_level_first_and_from_when() -> None:
    readings = [
        {"name": "calm", "value": 0.1, "step": 0},
        {"name": "drift", "value": 0.1, "step": 0, "level": "ok"},
        {"name": "drift", "value": 0.5, "step": 10, "level": "stop", "message": "too far"},
        {"name": "drift", "value": 0.25, "step": 20, "level": "warning"},
    ]
    data = monitors(readings).data["rows"]
    assert [(row["name"], row["level"]) for row in data] == [("drift", "stop"), ("calm", "well")]
    assert (data[0]["first"], data[0]["last"], data[0]["count"]) == ("0.1", "0.25", 3)
    assert (data[0]["since"], data[0]["message"]) == ("from step 10", "too far")


@given(
    st.lists(st.tuples(*[st.integers(0, 90)] * 2, *[st.integers(1, 10)] * 2), min_size=1, max_size=8),
    st.floats(0.5, 8),
)
def test_the_number_of_a_region_stands_at_a_corner_of_it_inside_the_image(
    corners: list[tuple[int, int, int, int]], radius: float
) -> None:
    boxes = [Box(x, y, x + width, y + height) for x, y, width, height in corners]
    places = label_places(boxes, (100, 100), radius)
    for box, (x, y) in zip(boxes, places, strict=True):
        assert radius <= x <= 100 - radius and radius <= y <= 100 - radius
        assert min(abs(x - box.x0), abs(x - box.x1)) <= radius and min(abs(y - box.y0), abs(y - box.y1)) <= radius


def test_numbers_of_regions_with_a_common_corner_are_both_seen() -> None:
    first, second = label_places([Box(0, 0, 50, 50), Box(0, 0, 80, 30)], (100, 100), 5)
    assert first == (5, 5) and second == (80, 5)


def test_tokens_that_nobody_counted_are_not_zero() -> None:
    stages = [Cost("train", 60.0), Cost("judge", 3600.0, (1000, 234)), Cost("other", 0.0, (5, None))]
    assert [row["tokens"] for row in costs(stages).data["rows"]] == ["", "1 234", "not counted"]
    assert costs(stages).data["total"] == "1 h 01 min"
    assert [duration(seconds) for seconds in (0.04, 59.96, 185, 7650)] == [
        "0.0 s",
        "1 min 00 s",
        "3 min 05 s",
        "2 h 07 min",
    ]


def test_passwords_in_addresses_are_left_out() -> None:
    text = "uri: http://me:secret@host:5000/x\nother: https://host/a@b\nmail: me@host\n"
    assert without_credentials(text) == text.replace("me:secret", "***")


# --- of a run ---------------------------------------------------------------------------------------------------------
class Listener:
    """Writes down the report, and whether the run was still open."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    @hookimpl
    def srum_report(self, path: Path) -> None:
        self.heard.append(f"report of {len(path.read_bytes())} bytes")

    @hookimpl
    def srum_run_finished(self) -> None:
        self.heard.append("finished")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run whose report was told to a listener; tests may remove and remake the report only."""
    folder = tmp_path_factory.mktemp("reported")
    listener, host = Listener(), toy_host()
    host.register(listener, "listener")
    toy_run(folder, "run.report=true", "judge.fail_every=2", host=host)
    (told, last) = listener.heard
    assert told == f"report of {(folder / 'run/report.html').stat().st_size} bytes" and last == "finished"
    return folder


def test_a_run_ends_with_a_page_that_has_everything(folder: Path) -> None:
    found = Page((folder / "run/report.html").read_text())
    check_alone(found)
    titles = {entry["id"] for entry in found.of("section")}
    assert titles >= {"headline", "images", "rewards", "results", "training", "quarantine", "cost", "made"}
    assert "monitors" not in titles
    shown = " ".join("".join(found.texts).split())
    figures = json.loads((folder / "run/summary.json").read_text())["in_domain"]
    assert f"{figures['before']:.3f} before, {figures['after']:.3f} after" in shown
    assert "a red tile" in shown and "toy-maps" in shown and "understanding weights bit-identical" in shown
    versions = json.loads(next((folder / "run/stages/train").glob("*/manifest.json")).read_text())["made_with"]
    assert versions["code"] in shown and versions["torch"] in shown


def test_what_was_set_apart_is_listed_with_its_reason(folder: Path) -> None:
    kept = [json.loads(line) for path in (folder / "run/stages").glob("*/*/quarantine.jsonl") for line in path.open()]
    shown = "".join(Page((folder / "run/report.html").read_text()).texts)
    assert kept
    assert all(f"{row['cause']}: {row['detail']}".removesuffix(": ") in shown for row in kept)


def test_the_second_run_does_nothing_unless_the_report_is_gone(folder: Path) -> None:
    path = folder / "run/report.html"
    before = path.read_bytes()
    wanted = ("run.report=true", "judge.fail_every=2")
    assert "nothing to do" in toy_run(folder, *wanted)[0]
    path.unlink()
    toy_backend.calls.clear()
    toy_run(folder, *wanted)
    assert path.read_bytes() == before
    assert toy_backend.calls["load"] == 0


def test_no_report_of_another_configuration_stays(tmp_path: Path) -> None:
    path = tmp_path / "run/report.html"
    toy_run(tmp_path, "run.report=true")
    assert "toy-maps+srum" in path.read_text()
    toy_run(tmp_path, "run.report=true", "aggregator=toy-flat")
    assert "toy-flat+srum" in path.read_text() and "toy-maps+srum" not in path.read_text()
    toy_run(tmp_path)
    assert not path.exists()


def test_the_page_of_the_docs_is_made_as_they_say() -> None:
    text = (Path(__file__).parents[1] / "docs/report.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    given = {"before": image(), "one": image(), "two": image(), "prompt": "a tile", "summary_of_paired": summary("x")}
    steps = [{"step": 0.0, "loss": 1.0}, {"step": 1.0, "loss": 0.5}]
    found: dict[str, Any] = {**given, "metrics_of_srum": steps, "metrics_of_paired": steps}
    exec(compile(code, "docs/report.md", "exec"), found)
    check_alone(Page(found["html"]))
    assert [entry["id"] for entry in Page(found["html"]).of("section")] == ["images", "paired", "training"]


def test_monitors_are_read_from_the_training_if_there_are_any(folder: Path) -> None:
    session = Session(toy_config(folder, "judge.fail_every=2"), toy_host())
    readings = next((folder / "run/stages/train").glob("*/metrics.jsonl")).with_name("monitors.jsonl")
    noted = Noted(4, "during", "latents", Reading("drift", 0.5, "warning", "<b>far</b>"))
    readings.write_text(f"{json.dumps(to_json(noted))}\n")
    try:
        found = Page(run_page(session, summary_of(session)))
    finally:
        readings.unlink()
    assert "monitors" in {entry["id"] for entry in found.of("section")}
    assert "from step 4" in "".join(found.texts)
    assert "latents: drift" in "".join(found.texts)
    assert "<b>far</b>" in "".join(found.texts)  # as text


def test_a_run_that_is_not_complete_has_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"nothing to report: no stage .* `srum run`"):
        session = Session(toy_config(tmp_path), toy_host())
        write(session, summary_of(session))
    for stage in ("generate", "ground", "judge", "reward"):
        toy_run(tmp_path, only=stage)
    session = Session(toy_config(tmp_path), toy_host())
    found = Page(write(session, summary_of(session)).read_text())
    check_alone(found)
    titles = [entry["id"] for entry in found.of("section")]
    assert titles == ["rewards", "quarantine", "cost", "made"]
    assert "not complete: train, baseline-images, baseline, evaluate-images, evaluate" in "".join(found.texts)


def test_the_command_writes_the_page_without_the_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host = toy_host()
    monkeypatch.setattr(PluginHost, "load", lambda *blocked, **said: host)
    path = folder / "run/report.html"
    path.unlink()
    toy_backend.calls.clear()
    config = folder / "toy.yaml"
    assert main(["report", str(config), "judge.fail_every=2"]) == 0
    assert path.exists() and toy_backend.calls["load"] == 0
    assert capsys.readouterr().out == f"report: {path}\n"
    assert main(["report", str(config), "run.seed=99"]) == 2
    assert "nothing to report" in " ".join(capsys.readouterr().err.split())


# --- in a browser -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser_nothing_is_broken_or_wider_than_the_window(folder: Path, measured: Measure, width: int) -> None:
    session = Session(toy_config(folder, "judge.fail_every=2"), toy_host())
    found = measured(run_page(session, summary_of(session)), width)
    assert (found["out"], found["width"] <= width) == ([], True)
    assert found["broken"] == 0 and found["images"] >= 16 and found["sections"] >= 8
    colours = found["shot"].getcolors(maxcolors=width * 900)
    assert colours is not None and len(colours) > 100  # letters, images and lines, not a blank page


def test_in_a_browser_long_words_do_not_widen_a_phone(measured: Measure) -> None:
    found = measured(page("w" * 200, ["w" * 200], every_section("w" * 200)), 360)
    assert (found["out"], found["width"] <= 360) == ([], True)
