"""Result tables."""

import io

from rich.console import Console

from srum_plugins.report import HEADERS, markdown, rows, table

FIGURES = {"before": 0.5, "after": 0.75, "delta": 0.25, "ci95": [0.1, 0.4], "prompts": 480}
LOSS = {"before": 0.5, "after": 0.4, "delta": -0.1, "ci95": [-0.2, -0.05], "prompts": 240}
SUMMARY = {
    "in_domain": {**FIGURES, "categories": {"colour": LOSS}, "graded": {"objects": FIGURES}},
    "understanding": {
        "before": {"count": 0.95},
        "after": {"count": 0.95, "new": 1.0},
        "questions": {"count": 40, "new": 2},
        "identical": True,
    },
    "arm": "srum+paired",
    "seconds": {"generate": 1.5, "train": 2.5},
}


def rendered(summary: dict[str, object], width: int = 120) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=True, color_system="standard").print(table(summary))
    return stream.getvalue()


def test_rows_have_equal_keys_and_all_figures() -> None:
    found = {row["what"]: row for row in rows(SUMMARY)}
    assert all(set(row) == set(HEADERS) for row in found.values())
    assert list(found) == [
        "in_domain",
        "in_domain/colour",
        "in_domain, objects",
        "understanding/count",
        "understanding/new",
    ]
    assert (found["in_domain"]["low"], found["in_domain"]["n"]) == (0.1, 480)
    assert found["understanding/count"]["delta"] == 0.0
    assert found["understanding/new"]["before"] is None


def test_a_sure_gain_is_green_and_a_sure_loss_red() -> None:
    text = rendered(SUMMARY)
    assert "\x1b[1;32m+0.250" in text
    assert "\x1b[31m-0.100" in text
    assert "understanding weights bit-identical" in text
    assert "4 s of work" in text


def test_no_figure_is_cut_in_a_narrow_terminal() -> None:
    figures = {**FIGURES, "categories": {}, "graded": {"a figure of a rather long name": FIGURES}}
    text = rendered({**SUMMARY, "in_domain": figures}, width=80)
    assert "…" not in text
    assert text.count("0.750") == text.count("480") == 2


def test_markdown_has_a_row_per_figure() -> None:
    lines = markdown(SUMMARY).splitlines()
    assert lines[0] == "**srum+paired**"
    assert "| in_domain | 0.500 | 0.750 | +0.250 | +0.100 | +0.400 | 480 |" in lines
    assert "| understanding/new |  | 1.000 |  |  |  | 2 |" in lines


def test_a_benchmark_without_questions_and_an_adapter_without_digest() -> None:
    summary = {**SUMMARY, "understanding": {"before": None, "after": None, "questions": {}, "identical": None}}
    assert len(rows(summary)) == 3
    assert "not compared" in rendered(summary)
    assert "have changed" in rendered({**SUMMARY, "understanding": {**SUMMARY["understanding"], "identical": False}})


def test_names_of_a_benchmark_are_text_and_nothing_else() -> None:
    odd = "[red]a|b[/red] <img src=x> `c`"
    summary = {**SUMMARY, "in_domain": {**FIGURES, "categories": {odd: LOSS}, "graded": {}}, "arm": "[b]x"}
    text = rendered(summary, width=200)
    assert odd in text
    assert "[b]x" in text
    (line,) = [line for line in markdown(summary).splitlines() if "img" in line]
    assert line.replace("\\|", "").count("|") == markdown(SUMMARY).splitlines()[2].count("|")
    assert "\\<img src=x\\>" in line and "\\`c\\`" in line
