"""What `python -m longtail.tracking.registry` prints; and one sentence and exit code 2 for what the user can mend."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from longtail.params import Params
from longtail.tracking.candidates import DECISION, PROMOTED
from longtail.tracking.outputs import Outputs
from longtail.tracking.registered_model import Registry, open_registry
from longtail.tracking.registry import main
from longtail.tracking.succession import CHANGE
from tracked import Recorded, run_stage

pytest_plugins = ["tracking_fixtures"]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def registry(project: Path, params: Params) -> Registry:
    """Two versions of the model `longtail`, and no champion."""
    registry = open_registry(project, "longtail")
    for i, method in enumerate(params.methods):
        run_stage(Outputs("evaluate", method), params, project)
        run = Recorded.read(registry.server.uri).named(f"evaluate {method}").info.run_id
        tags = {"longtail.data": f"{i}" * 16, "longtail.commit": "0123456789abcdef", DECISION: PROMOTED}
        registry.register(run, tags if i else {})
    return registry


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run a command; return its exit code and what it prints, out and err."""
    code = main(arguments)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_promote_roll_back_and_show_say_what_they_did(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "promote", "1") == (0, "Version 1 of longtail serves.\n", "")
    assert said(capsys, "promote", "2") == (0, "Version 2 of longtail serves; before it, 1 did.\n", "")
    assert said(capsys, "rollback") == (0, "Version 1 of longtail serves again. To undo this, promote 2.\n", "")
    code, out, err = said(capsys, "show")
    assert (code, err) == (0, "")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    created = registry.version("2").created.strftime("%Y-%m-%d %H:%M")
    assert rows[0] == ["2", "challenger", created, "promoted, rolled back to 1", "1" * 12, "0123456789ab"]
    assert (rows[1][:2], rows[1][3:]) == (["1", "champion"], ["-", "-", "-"])
    assert len(rows) == 2
    code, out, err = said(capsys, "rollback")
    assert (code, out) == (2, "")
    assert err.startswith("Model longtail cannot be rolled back: version 1 serves and none did before. Choose one: ")


def test_what_was_cut_off_is_shown_and_the_next_command_settles_it(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.promote("1")
    registry.server.client.set_registered_model_tag("longtail", CHANGE, "promote: 1 -> 2")
    _, _, err = said(capsys, "show")
    assert err == "Under way or cut off: promote: 1 -> 2. The next promote or rollback says what became of it.\n"
    code, out, err = said(capsys, "promote", "2")
    assert (code, out) == (0, "Version 2 of longtail serves; before it, 1 did.\n")
    assert err == (
        "A promotion of longtail from version 1 to 2 was cut off before it took effect; version 1 serves as before. "
        "Run it again if you still want it.\n"
    )


def test_a_model_that_nobody_registered_is_named_with_those_that_exist(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["show"], ["promote", "1"], ["rollback"]):
        expected = "MLflow has no version of a model longtail. Train one: python -m pipelines.retrain.\n"
        assert said(capsys, *command) == (2, "", expected)
    open_registry(project, "longtail").server.client.create_registered_model("animals")
    assert said(capsys, "show") == (2, "", "MLflow has no version of a model longtail. Give --name, one of animals.\n")
    _, _, err = said(capsys, "show", "--name", "a/b")
    assert err == "'a/b' cannot be a model's name; use letters, digits, _, . and -, as in longtail.\n"


def test_the_name_is_that_of_params_yaml_unless_given(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["retrain"]["name"] = "animals"
    (project / "params.yaml").write_text(yaml.safe_dump(content))
    assert "a model animals." in said(capsys, "show")[2]
    assert "a model plants." in said(capsys, "show", "--name", "plants")[2]
    content["retrain"]["name"] = "two words"
    (project / "params.yaml").write_text(yaml.safe_dump(content))
    code, _, err = said(capsys, "rollback")
    assert (code, "retrain.name" in err) == (2, True), "another model than the one that was meant is never touched"
    (project / "params.yaml").unlink()
    assert "a model longtail." in said(capsys, "show")[2]


def test_a_server_that_is_away_is_named_without_its_password(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ada:p@ss@127.0.0.1:{port}")
        code, out, err = said(capsys, "promote", "1")
    expected = f"MLflow at http://127.0.0.1:{port} cannot be reached. Start it, or set MLFLOW_TRACKING_URI.\n"
    assert (code, out, err) == (2, "", expected)


def test_a_server_that_never_answers_is_given_up(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        code, _, err = said(capsys, "show")
    assert code == 2
    assert re.fullmatch(r"MLflow at \S+ cannot be reached\. Start it, or set MLFLOW_TRACKING_URI\.\n", err)


def test_a_database_that_is_none_is_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "mlflow.db").write_text("this is not a database, it is longer than a header of one would be" * 20)
    code, _, err = said(capsys, "show")
    assert code == 2
    assert err.startswith(f"MLflow at sqlite:///{project}/mlflow.db did not take the record (")
    assert err.count("\n") == 1


def test_without_tracking_there_is_no_registry(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LONGTAIL_TRACKING", "off")
    code, _, err = said(capsys, "show")
    assert (code, err.startswith("LONGTAIL_TRACKING is off")) == (2, True)


def test_the_command_is_that_of_the_module(registry: Registry, project: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "longtail.tracking.registry", "promote", "9"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Model longtail has no version 9. Name one of 2, 1.\n"
