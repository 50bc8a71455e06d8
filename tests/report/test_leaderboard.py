import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from longtail.evaluation import EvaluationSpec, Summary
from longtail.images.labeled import LongTailSplit
from longtail.images.split_files import save_split
from longtail.params import load_params
from longtail.report.leaderboard import Published, Summaries, markdown, render, save_metrics
from longtail.report.provenance import Provenance
from longtail.stages import report as report_stage
from longtail.stages.job import Job
from longtail.tracking import StageRun
from longtail.tracking.outputs import Outputs

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


def board(summaries: Summaries, spec: EvaluationSpec = SPEC, published: Published | None = None) -> str:
    """The leaderboard of methods whose networks are all a ResNet-32 for 10 classes."""
    return markdown(
        summaries, dict.fromkeys(summaries, 464154), spec, {key: [PROVENANCE] for key in summaries}, published or {}
    )


def cells(text: str) -> list[list[str]]:
    """Read a markdown table back: header and rows, without the rule."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [rows[0], *rows[2:]]


def table(summaries: Summaries) -> dict[str, dict[str, str]]:
    """Method -> first line of the column's title -> cell."""
    header, *rows = cells(board(summaries))
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
    assert "**" not in board({"alone": summary(0.5)})
    assert "**" not in board({"one": summary(0.5), "two": summary(0.5)})


def test_one_seed_has_no_spread_and_an_empty_group_is_not_available() -> None:
    rows = table({"ce": summary(0.5, few=None, n=1), "crt": summary(0.6, few=None, n=1)})
    assert rows["crt"]["overall"] == "**60.0**"
    assert rows["ce"]["few"] == "n/a"
    assert rows["ce"]["n"] == "1"


def test_groups_say_how_many_classes_they_average() -> None:
    header, *_ = cells(board({"ce": summary(0.5)}))
    assert {"many<br>1 class", "medium<br>4 classes", "few<br>5 classes"} <= set(header)


def test_balanced_accuracy_stands_there_where_it_differs_from_overall() -> None:
    assert "balanced" not in table({"ce": summary(0.5)})["ce"]
    rows = table({"ce": summary(0.5), "crt": summary(0.5, balanced=0.4)})
    assert rows["crt"]["balanced"] == "40.0 ± 1.0"


def test_published_numbers_stand_beside_ours() -> None:
    published = {"ce": {"overall": 0.383, "few": 0.1}}
    header, ce, crt = cells(board({"ce": summary(0.5), "crt": summary(0.6)}, published=published))
    at = header.index("overall<br>published")
    assert header[at - 1] == "overall"
    assert (ce[at], crt[at]) == ("38.3", "n/a")
    assert "few<br>published" in header and "many<br>published" not in header


def test_parameters_stand_before_n_in_millions() -> None:
    parameters = {"digits": 57_125, "small": 403_999, "resnet32": 464_154, "resnet50": 23_528_522}
    summaries = {name: summary(0.5) for name in parameters}
    backwards = dict(reversed(parameters.items()))  # a mapping: the order of the rows is that of the summaries
    header, *rows = cells(markdown(summaries, backwards, SPEC, {key: [PROVENANCE] for key in summaries}, {}))
    assert header[-2:] == ["parameters<br>millions", "n"]
    assert [row[0] for row in rows] == list(parameters)
    assert [row[-2] for row in rows] == ["0.057", "0.40", "0.46", "23.5"]


@pytest.mark.parametrize(
    ("count", "shown"), [(999_499, "1.0"), (994_000, "0.99"), (1_000_000, "1.0"), (1_730_000, "1.7"), (650, "0.00065")]
)
def test_parameters_keep_their_digits_around_a_million_and_in_tiny_networks(count: int, shown: str) -> None:
    _, row = cells(markdown({"ce": summary(0.5)}, {"ce": count}, SPEC, {"ce": [PROVENANCE]}, {}))
    assert row[-2] == shown


def test_the_notes_say_which_parameters_count() -> None:
    assert re.search(
        r"- Parameters: .* network that serves, feature extractor and classifier\.", board({"ce": summary(0)})
    )


def test_the_terminal_has_no_room_for_parameters() -> None:
    titles = [str(column.header) for column in render({"ce": summary(0.5)}, {}).columns]
    assert [title.split("\n")[0] for title in titles] == ["method", "overall", "many", "medium", "few", "n"]


def test_the_notes_say_where_the_numbers_come_from() -> None:
    text = board({"ce": summary(0.5)})
    notes = text[text.rindex("|") :]
    for part in ("digits, exponential profile", "0a1b", "0, 1, 2", "a processor, 2 cores", "abc1234", "torch 9"):
        assert part in notes
    assert re.search(r"more than 100 .* fewer than 20", notes)
    assert "last epoch" in notes and "no test image chose" in notes


def test_the_notes_name_the_index_ranges() -> None:
    spec = EvaluationSpec(many_above=100, few_below=20, index_ranges=(36, 35, 29))
    assert "the first 36, the next 35 and the last 29 classes" in board({"ce": summary(0.5)}, spec)


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


def test_the_stage_takes_parameters_from_the_evaluations_and_keeps_them_out_of_metrics_json(
    tmp_path: Path, tiny_split: LongTailSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report_stage, "draw", lambda results, folder: None)  # plots need every other stage's outputs
    params = load_params(Path(__file__).parents[2] / "params.yaml")
    save_split(tiny_split, Path("data/split"))
    sizes = {name: 1_000_000 * (i + 2) for i, name in enumerate(params.methods)}
    summaries = {name: summary(0.5) for name in sizes}
    for name, size in sizes.items():
        Path("evaluations", name).mkdir(parents=True)
        document = {"parameters": size, "summary": summaries[name], "per_class": [], "seeds": {}}
        Path("evaluations", name, "metrics.json").write_text(json.dumps(document))
    report_stage.report(Job("report", params, "", Path(), StageRun(Outputs("report", ""), params, Path())))
    _, *rows = cells(Path("reports/leaderboard.md").read_text())
    assert {row[0]: row[-2] for row in rows} == {name: f"{size / 1e6:.1f}" for name, size in sizes.items()}
    assert Path("reports/metrics.json").read_text() == json.dumps(summaries, indent=2) + "\n"


def test_rows_of_different_origin_are_told_apart() -> None:
    other = replace(PROVENANCE, commit="def5678", seeds=(3,))
    origins = {"ce": [PROVENANCE], "crt": [PROVENANCE, other], "csa": [PROVENANCE]}
    summaries = {name: summary(0.5) for name in origins}
    board = markdown(summaries, dict.fromkeys(origins, 1), SPEC, origins, {}, {"bbn": "not run"})
    assert "- Commit: abc1234 (ce, csa); abc1234, def5678 (crt).\n" in board
    assert "- Seeds: 0, 1, 2 (ce, csa); 0, 1, 2, 3 (crt).\n" in board
    assert "- Hardware: a processor, 2 cores.\n" in board
    assert "- Missing: bbn (not run).\n" in board
