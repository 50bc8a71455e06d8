import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from longtail.evaluation import EvaluationSpec, Summary
from longtail.leaderboard import Summaries, markdown, render, save_metrics
from longtail.provenance import Provenance

SPEC = EvaluationSpec(many_above=100, few_below=20, index_ranges=None)
PROVENANCE = Provenance("digits, exponential profile", "0a1b", (0, 1, 2), "a processor, 2 cores", "abc1234", "torch 9")


def summary(
    overall: float, few: float | None = 0.5, n: int = 3, balanced: float | None = None, ece: float = 0.1
) -> Summary:
    std = 0.01 if n > 1 else None

    def entry(mean: float | None, classes: int | None = None) -> dict[str, float | int | None]:
        known: dict[str, float | int | None] = {"mean": mean, "std": None if mean is None else std, "n": n}
        return known if classes is None else {**known, "classes": classes}

    return {
        "overall": entry(overall),
        "many": entry(0.9, 1),
        "medium": entry(0.8, 4),
        "few": entry(few, 0 if few is None else 5),
        "balanced": entry(overall if balanced is None else balanced, 10),
        "macro_f1": entry(overall, 10),
        "worst_class": entry(0.0),
        "ece": entry(ece),
    }


def cells(text: str) -> list[list[str]]:
    """Read a markdown table back: header and rows, without the rule."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [rows[0], *rows[2:]]


def table(summaries: Summaries) -> dict[str, dict[str, str]]:
    """Method -> first line of the column's title -> cell."""
    header, *rows = cells(markdown(summaries, SPEC, PROVENANCE, {}))
    titles = [title.split("<br>")[0] for title in header]
    return {row[0]: dict(zip(titles, row, strict=True)) for row in rows}


def test_a_row_per_method_in_their_order_in_percent() -> None:
    rows = table({"zeta": summary(0.5), "alpha": summary(0.75)})
    assert list(rows) == ["zeta", "alpha"]
    assert rows["zeta"]["overall"] == "50.0 ± 1.0"
    assert rows["zeta"]["n"] == "3"


def test_the_best_of_each_column_is_bold_and_smaller_is_better_for_calibration() -> None:
    rows = table({"one": summary(0.5, ece=0.2), "two": summary(0.75, ece=0.4)})
    assert rows["two"]["overall"] == "**75.0 ± 1.0**"
    assert rows["one"]["ECE"] == "**20.0 ± 1.0**"
    assert "*" not in rows["two"]["ECE"] + rows["one"]["overall"]


def test_equal_digits_are_equally_bold() -> None:
    rows = table({"one": summary(0.50001), "two": summary(0.50002), "three": summary(0.4)})
    assert rows["one"]["overall"] == rows["two"]["overall"] == "**50.0 ± 1.0**"


def test_nothing_is_bold_without_a_difference() -> None:
    assert "**" not in markdown({"alone": summary(0.5)}, SPEC, PROVENANCE, {})
    assert "**" not in markdown({"one": summary(0.5), "two": summary(0.5)}, SPEC, PROVENANCE, {})


def test_one_seed_has_no_spread_and_an_empty_group_is_not_available() -> None:
    rows = table({"ce": summary(0.5, few=None, n=1), "crt": summary(0.6, few=None, n=1)})
    assert rows["crt"]["overall"] == "**60.0**"
    assert rows["ce"]["few"] == "n/a"
    assert rows["ce"]["n"] == "1"


def test_groups_say_how_many_classes_they_average() -> None:
    header, *_ = cells(markdown({"ce": summary(0.5)}, SPEC, PROVENANCE, {}))
    assert {"many<br>1 class", "medium<br>4 classes", "few<br>5 classes"} <= set(header)


def test_balanced_accuracy_stands_there_where_it_differs_from_overall() -> None:
    assert "balanced" not in table({"ce": summary(0.5)})["ce"]
    rows = table({"ce": summary(0.5), "crt": summary(0.5, balanced=0.4)})
    assert rows["crt"]["balanced"] == "40.0 ± 1.0"


def test_published_numbers_stand_beside_ours() -> None:
    published = {"ce": {"overall": 0.383, "few": 0.1}}
    header, ce, crt = cells(markdown({"ce": summary(0.5), "crt": summary(0.6)}, SPEC, PROVENANCE, published))
    at = header.index("overall<br>published")
    assert header[at - 1] == "overall"
    assert (ce[at], crt[at]) == ("38.3", "n/a")
    assert "few<br>published" in header and "many<br>published" not in header


def test_the_notes_say_where_the_numbers_come_from() -> None:
    text = markdown({"ce": summary(0.5)}, SPEC, PROVENANCE, {})
    notes = text[text.rindex("|") :]
    for part in ("digits, exponential profile", "0a1b", "0, 1, 2", "a processor, 2 cores", "abc1234", "torch 9"):
        assert part in notes
    assert re.search(r"more than 100 .* fewer than 20", notes)
    assert "last epoch" in notes and "no test image chose" in notes


def test_the_notes_name_the_index_ranges() -> None:
    spec = EvaluationSpec(many_above=100, few_below=20, index_ranges=(36, 35, 29))
    assert "the first 36, the next 35 and the last 29 classes" in markdown({"ce": summary(0.5)}, spec, PROVENANCE, {})


def test_metrics_json_is_what_was_given_and_the_same_each_time(tmp_path: Path) -> None:
    summaries = {"zeta": summary(0.1 + 0.2, few=None), "alpha": summary(0.75)}
    save_metrics(summaries, tmp_path / "one.json")
    save_metrics(summaries, tmp_path / "two.json")
    text = (tmp_path / "one.json").read_text()
    assert json.loads(text) == summaries
    assert list(json.loads(text)) == ["zeta", "alpha"]
    assert text == (tmp_path / "two.json").read_text()


def test_metrics_json_never_holds_a_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        save_metrics({"ce": summary(float("nan"))}, tmp_path / "metrics.json")


def test_the_terminal_table_fits_into_eighty_columns() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(render({"balanced_softmax": summary(0.5), "glag": summary(1.0)}, {}))
    text = console.export_text()
    assert "…" not in text
    for part in ("balanced_softmax", "overall", "many", "medium", "few", "50.0 ± 1.0", "100.0 ± 1.0", "5 classes"):
        assert part in text


def test_the_terminal_has_room_for_the_overall_published_number_alone() -> None:
    console = Console(width=80, force_terminal=False)
    with console.capture() as capture:
        console.print(render({"ce": summary(0.5)}, {"ce": {"overall": 0.383, "many": 0.654}}))
    assert "38.3" in capture.get() and "65.4" not in capture.get()


def test_the_terminal_table_is_bold_where_it_is_best() -> None:
    console = Console(width=80, force_terminal=True, color_system="standard", no_color=False)
    with console.capture() as capture:
        console.print(render({"ce": summary(0.5), "glag": summary(0.75)}, {}))
    assert "\x1b[1m75.0 ± 1.0" in capture.get()
    assert "\x1b[1m50.0 ± 1.0" not in capture.get()
