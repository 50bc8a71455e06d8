import json
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from outcomes import ABOUT, failed, outcome
from pipelines.sweep_table import Provenance, advice, markdown, terminal_table
from pipelines.sweep_table import write_results as write
from pipelines.sweep_trial import Outcome

WITH_TEST = replace(ABOUT, show_test=True)


def shown(outcomes: list[Outcome], about: Provenance) -> str:
    console = Console(width=200, record=True, quiet=True)
    with console.capture() as capture:
        console.quiet = False
        console.print(terminal_table(outcomes, about))
    return capture.get()


def test_a_value_with_a_space_is_quoted() -> None:
    assert "beta='{name: cosine}' seeds" in advice([outcome("{name: cosine}", 0.5)], ABOUT)


def test_test_numbers_appear_only_when_asked_for_and_with_a_warning() -> None:
    outcomes = [outcome("0.2", 0.625, test=0.375)]
    for text in (shown(outcomes, ABOUT), markdown("s", outcomes, ABOUT)):
        assert "62.5" in text and "37.5" not in text
    for text in (shown(outcomes, WITH_TEST), markdown("s", outcomes, WITH_TEST)):
        assert "62.5" in text and "37.5" in text and "not to choose by" in text


def test_the_files_say_what_ran_where_and_why_it_failed(tmp_path: Path) -> None:
    outcomes = [outcome("0.2", 0.625, seed=3), failed("0.4", seed=4)]
    write(tmp_path / "sweep-x", outcomes, ABOUT)
    content = json.loads((tmp_path / "sweep-x" / "sweep.json").read_text())
    assert content["commit"] == "abc1234" and content["hardware"] == "a processor, 2 cores"
    assert [trial["seeds"] for trial in content["trials"]] == [[3], [4]]
    assert content["trials"][0]["validation"]["glag"]["overall"]["mean"] == 0.625
    assert not [key for trial in content["trials"] for key in trial if "test" in key]
    assert content["trials"][1]["reason"] == "no | disk"
    assert content["trials"][0]["ended"] == "1970-01-01T00:01:00+00:00"
    text = (tmp_path / "sweep-x" / "sweep.md").read_text()
    assert "seeds 3, 4; 2 at a time; commit abc1234; a processor, 2 cores" in text
    assert "- params-beta=0.4-seeds=4: no | disk" in text
    write(tmp_path / "sweep-x", outcomes, WITH_TEST)
    assert "test (not to choose by)" in (tmp_path / "sweep-x" / "sweep.json").read_text()
    assert sorted(file.name for file in (tmp_path / "sweep-x").iterdir()) == ["sweep.json", "sweep.md"]
