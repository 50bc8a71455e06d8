"""The champion moves in one call, and whatever dies between two calls, the next command leaves one valid champion.

Versions 1 to 4 of the model `longtail` are registered once; each test has its own copy of the database.
"""

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import chdir, closing, contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
from mlflow.entities import LoggedModelOutput
from test_server import free_port, mlflow_server

import tiny
from longtail.evaluation import load_predictions
from longtail.params import Params
from longtail.serving.predictor import encode_png
from longtail.spec import InputError
from longtail.tracking.outputs import Outputs
from longtail.tracking.registered_model import Registry, open_registry
from longtail.tracking.registry import main
from registry_processes import Ended, Processes
from tracked import Recorded, run_stage

pytest_plugins = ["tracking_fixtures"]

NAME = "longtail"
KILLED = -9
MOST_CALLS = 20  # no command makes as many


@pytest.fixture(scope="module")
def processes(database: Path) -> Iterator[Processes]:
    """What runs commands in fresh processes."""
    running = Processes(database)
    yield running
    running.close()


@pytest.fixture(scope="module")
def stock(finished: Path, database: Path, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose database has four registered versions and no champion.

    Version 1 and 3 are the first method's model, 2 and 4 the second's, each with a run of its own.
    """
    folder = tmp_path_factory.mktemp("stock") / "project"
    shutil.copytree(finished, folder)
    shutil.copy(database, folder / "mlflow.db")
    before = dict(os.environ)
    with chdir(folder):
        for name in [name for name in before if name.startswith(("LONGTAIL_", "MLFLOW_", "DVC_"))]:
            del os.environ[name]
        registry = opened(folder)
        runs = [evaluated(registry, method, params) for method in params.methods]
        runs += [same_model(registry, run) for run in runs]
        for i, run in enumerate(runs):
            registry.register(run, {"longtail.data": f"data{i + 1}", "longtail.commit": "0123456789abcdef"})
    yield folder
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def registry(stock: Path, project: Path) -> Registry:
    """Four versions and no champion, in the working folder."""
    shutil.copy(stock / "mlflow.db", project / "mlflow.db")
    return opened(project)


def opened(folder: Path, name: str = NAME) -> Registry:
    """Open the registry of a folder's database, not that of the one before, which mlflow leaves in the environment."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    return open_registry(folder, name)


def evaluated(registry: Registry, method: str, params: Params) -> str:
    """Record a method's evaluation and return its run."""
    run_stage(Outputs("evaluate", method), params, registry.root)
    return str(Recorded.read(registry.server.uri).named(f"evaluate {method}").info.run_id)


def same_model(registry: Registry, run: str) -> str:
    """Return another run that logged the same model."""
    client = registry.server.client
    other = client.create_run(registry.server.experiment).info.run_id
    client.log_outputs(other, [LoggedModelOutput(model_of(registry, run), step=0)])
    return str(other)


def model_of(registry: Registry, run: str) -> str:
    """Return the id of the one model that a run has logged."""
    outputs = registry.server.client.get_run(run).outputs
    assert outputs is not None
    (output,) = outputs.model_outputs
    return str(output.model_id)


def serving(folder: Path) -> tuple[str | None, str | None]:
    """Return the numbers of champion and previous as the database has them."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as opened:
        rows = opened.execute("SELECT alias, version FROM registered_model_aliases WHERE name = ?", [NAME]).fetchall()
    aliases = {alias: str(version) for alias, version in rows}
    assert len(aliases) == len(rows), "an alias names one version"
    return aliases.get("champion"), aliases.get("previous")


def everything(folder: Path) -> list[str]:
    """Return every row of the database."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as opened:
        return list(opened.iterdump())


def perform(registry: Registry, commands: Sequence[str]) -> list[str]:
    """Run commands, a number (promote it) or "back"; return whose turn it was, newest first, by a plain list."""
    history: list[str] = []
    for command in commands:
        if command == "back":
            registry.rollback()
            history = history[1:]
        else:
            registry.promote(command)
            history = [command, *history]
    return history


def walk_back(registry: Registry) -> list[str]:
    """Roll back as long as that works, and return who served, newest first."""
    champion = registry.champion()
    served = [champion.number] if champion else []
    with pytest.raises(InputError, match="cannot be rolled back"):
        for _ in range(MOST_CALLS):
            served.append(registry.rollback().number)
    return served


# --- registering ----------------------------------------------------------------------------------------------------


def test_a_version_has_its_tags_run_and_model_and_is_the_challenger(registry: Registry, params: Params) -> None:
    newest, *older = registry.versions()
    assert [version.number for version in (newest, *older)] == ["4", "3", "2", "1"]
    assert newest.tags == {"longtail.data": "data4", "longtail.commit": "0123456789abcdef"}
    assert registry.challenger() == newest
    assert newest.aliases == ("challenger",)
    assert registry.champion() is None
    client = registry.server.client
    first = registry.version("1")
    run = client.get_run(first.run)
    assert run.data.tags["longtail.stage"] == f"evaluate@{next(iter(params.methods))}"
    logged = client.get_logged_model(model_of(registry, first.run))
    assert client.get_model_version(NAME, first.number).source == logged.artifact_location


def test_the_same_model_is_registered_once_and_gets_the_new_tags(registry: Registry) -> None:
    second = registry.version("2")
    again = registry.register(second.run, {"longtail.data": "other"})
    assert (again.number, len(registry.versions())) == ("2", 4)
    assert again.tags == {"longtail.data": "other", "longtail.commit": "0123456789abcdef"}
    assert registry.challenger() == again


def test_a_registration_that_was_cut_off_anywhere_is_made_good_by_the_next(
    registry: Registry, project: Path, processes: Processes
) -> None:
    run = registry.version("1").run
    cuts = list(killed_everywhere(project, ["register", "another", run], processes))
    for folder in cuts:
        assert processes.run(folder, "register", "another", run) == Ended(0, "1\n")
        again = opened(folder, "another")
        (version,) = again.versions()
        assert version == again.challenger()
        assert (version.number, version.run, version.tags) == ("1", run, {"longtail.data": "abc"})
    assert len(cuts) > 2, "making the model, its version, and naming it are three calls"


def test_a_run_without_a_model_is_refused(registry: Registry, params: Params, project: Path) -> None:
    empty = registry.server.client.create_run(registry.server.experiment).info.run_id
    before = everything(project)
    with pytest.raises(InputError, match=rf"run {empty} logged no model\. Send it with"):
        registry.register(empty, {})
    assert everything(project) == before


# --- promoting and rolling back -------------------------------------------------------------------------------------

HISTORIES = [
    ["1"],
    ["1", "2", "3"],
    ["2", "1", "4", "back"],
    ["1", "2", "back", "2"],
    ["1", "2", "3", "back", "4"],
    ["1", "2", "1", "3", "2"],
    ["1", "2", "3", "back", "back", "3", "back", "2"],
    ["1", "2", "1", "back", "back", "2"],
]


@pytest.mark.parametrize("commands", HISTORIES, ids=" ".join)
def test_the_champions_are_those_of_a_plain_list(commands: list[str], registry: Registry, project: Path) -> None:
    history = perform(registry, commands)
    assert serving(project) == (history[0], history[1] if len(history) > 1 else None)
    assert walk_back(registry) == history
    assert serving(project) == (history[-1], None)


def test_a_version_that_was_left_is_remembered_and_promoting_it_undoes_the_rollback(
    registry: Registry, project: Path
) -> None:
    perform(registry, ["1", "2", "back"])
    assert serving(project) == ("1", None)
    assert registry.version("2").tags["longtail.rolled_back_to"] == "1"
    registry.promote("2")
    assert serving(project) == ("2", "1")
    assert "longtail.rolled_back_to" not in registry.version("2").tags


def test_promoting_the_champion_changes_nothing(
    registry: Registry, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    perform(registry, ["1", "2"])
    before = everything(project)
    assert main(["promote", "2"]) == 0
    assert capsys.readouterr() == ("Version 2 of longtail serves already; nothing was changed.\n", "")
    assert everything(project) == before


def test_an_unknown_version_is_named_with_those_that_exist(registry: Registry, project: Path) -> None:
    registry.promote("1")
    before = everything(project)
    for number in ("9", "", "two"):
        with pytest.raises(InputError, match=rf"longtail has no version {number}\. Name one of 4, 3, 2, 1\."):
            registry.promote(number)
    assert everything(project) == before


def test_without_a_champion_there_is_nothing_to_roll_back(registry: Registry) -> None:
    with pytest.raises(InputError, match="no version serves"):
        registry.rollback()
    with pytest.raises(InputError, match=r"has no version 1\. Train one"):
        Registry(registry.server, "another", registry.root).promote("1")


# --- killed between two calls ---------------------------------------------------------------------------------------

CUT_OFF = {
    "the first promotion": ([], ["promote", "1"]),
    "promoting a former champion": (["1", "2", "3"], ["promote", "1"]),
    "promoting what was left": (["1", "2", "back"], ["promote", "2"]),
    "a rollback to what was left before": (["2", "3", "1", "back", "1", "2"], ["rollback"]),
    "the last rollback": (["1", "2"], ["rollback"]),
}


def after(history: list[str], command: list[str]) -> list[str]:
    """Return the history once a command is done."""
    return history[1:] if command == ["rollback"] else [command[1], *history]


def killed_everywhere(project: Path, command: Sequence[str], processes: Processes) -> Iterator[Path]:
    """Run a command in copies of the database, killed before its first, second ... call, up to its last.

    Each copy is a new file: one that is replaced under an open connection would be read from its cache.
    """
    for k in range(1, MOST_CALLS):
        folder = project / f"{command[0]}.{k}"
        folder.mkdir()
        shutil.copy(project / "mlflow.db", folder)
        ended = processes.run(folder, *command, die_before=k)
        if ended.code == 0:
            return
        assert ended.code == KILLED, ended.said
        yield folder
    raise AssertionError("it never came to an end")


@pytest.mark.parametrize(("commands", "command"), CUT_OFF.values(), ids=CUT_OFF)
def test_killed_between_any_two_calls_the_next_command_says_so_and_leaves_one_champion(
    commands: list[str], command: list[str], registry: Registry, project: Path, processes: Processes
) -> None:
    before = perform(registry, commands)
    moved = []
    for folder in killed_everywhere(project, command, processes):
        moved.append(serving(folder)[0] != (before[0] if before else None))
        history = after(before, command) if moved[-1] else before
        follower = processes.run(folder, "promote", "4")
        assert follower.code == 0, follower.said
        assert ("was cut off" in follower.said) == (len(moved) > 1), "before the first call nothing has happened"
        assert serving(folder) == ("4", history[0] if history else None)
        again = opened(folder)
        assert again.repair() is None
        assert walk_back(again) == ["4", *history]
    assert moved == sorted(moved), "the champion moves in one call"
    assert {False, True} == set(moved)


def test_the_mending_may_be_killed_as_well(registry: Registry, project: Path, processes: Processes) -> None:
    perform(registry, ["1", "2", "3"])
    served = {"2": ["2", "1"], "4": ["4", "2", "1"]}
    *_, cut = (folder for folder in killed_everywhere(project, ["rollback"], processes) if serving(folder)[1] == "2")
    assert serving(cut)[0] == "2", "champion has moved, previous has not"
    for folder in killed_everywhere(cut, ["promote", "4"], processes):
        again = opened(folder)
        again.repair()
        champion, _ = serving(folder)
        assert champion in served
        assert walk_back(again) == served[champion]


def test_commands_at_once_take_turns(registry: Registry, project: Path, processes: Processes) -> None:
    ended = processes.run_all(project, [["promote", version.number] for version in registry.versions()])
    assert [one.code for one in ended] == [0, 0, 0, 0], ended
    champion, previous = serving(project)
    served = walk_back(registry)
    assert served[:2] == [champion, previous]
    assert sorted(served) == ["1", "2", "3", "4"]


# --- what others have done to the registry --------------------------------------------------------------------------


def test_a_champion_that_was_deleted_is_replaced_by_its_predecessor(
    registry: Registry, project: Path, processes: Processes
) -> None:
    perform(registry, ["1", "2", "3"])
    registry.server.client.delete_model_version(NAME, "3")
    assert registry.champion() is None
    ended = processes.run(project, "promote", "4")
    assert (ended.code, "longtail had no champion any more; version 2" in ended.said) == (0, True)
    assert walk_back(registry) == ["4", "2", "1"]


def test_an_alias_that_outlived_its_version_is_no_champion(registry: Registry, project: Path) -> None:
    perform(registry, ["1", "2", "3"])
    with closing(sqlite3.connect(project / "mlflow.db")) as opened, opened:
        opened.execute("UPDATE registered_model_aliases SET version = 99 WHERE alias = 'champion'")
    assert registry.champion() is None
    said = registry.repair()
    assert said is not None
    assert "version 2, which served before, serves again" in said
    assert serving(project) == ("2", "1")
    assert registry.repair() is None


def test_a_predecessor_that_was_deleted_is_passed_over(registry: Registry, project: Path) -> None:
    perform(registry, ["1", "2", "1", "2", "3"])
    registry.server.client.delete_model_version(NAME, "2")
    said = registry.repair()
    assert (
        said == "The alias previous of longtail was missing, but the champion followed version 1, which it names now."
    )
    assert walk_back(registry) == ["3", "1"]


def test_a_champion_that_was_named_by_hand_keeps_the_previous_that_there_is(registry: Registry, project: Path) -> None:
    client = registry.server.client
    client.set_registered_model_alias(NAME, "champion", "3")
    assert registry.repair() is None
    client.set_registered_model_alias(NAME, "previous", "1")
    assert registry.repair() is None
    registry.promote("2")
    assert walk_back(registry) == ["2", "3", "1"]


# --- models that cannot be loaded -----------------------------------------------------------------------------------


@contextmanager
def damaged(registry: Registry, number: str, part: str, content: bytes | None) -> Iterator[Path]:
    """Overwrite or remove a part of a version's model, and put it back at the end."""
    folder = Path(registry.server.client.get_model_version_download_uri(NAME, number))
    aside = folder.with_name("aside")
    shutil.move(folder, aside)
    try:
        if part:
            shutil.copytree(aside, folder)
            (folder / part).unlink() if content is None else (folder / part).write_bytes(content)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.move(aside, folder)


@pytest.mark.parametrize(
    ("part", "content"),
    [
        ("", None),
        ("MLmodel", b"flavors: ["),
        ("data/predictor/weights.safetensors", None),
        ("data/predictor/weights.safetensors", b"\x08\x00\x00\x00\x00\x00\x00\x00{}"),
        ("data/predictor/network.json", b"{}"),
    ],
    ids=["all gone", "no YAML", "weights gone", "weights cut short", "another description"],
)
def test_a_model_that_cannot_be_loaded_never_serves(
    part: str, content: bytes | None, registry: Registry, project: Path
) -> None:
    perform(registry, ["1", "2"])
    before = everything(project)
    with damaged(registry, "1", part, content) as folder:
        expected = rf"Version 1 of model longtail cannot be loaded from {folder} \(.+\)\. Restore its files, or serve"
        load = partial(registry.predictor, registry.version("1"))
        for attempt in (load, partial(registry.promote, "1"), registry.rollback):
            with pytest.raises(InputError, match=expected):
                attempt()
    assert everything(project) == before
    assert registry.rollback().number == "1"


def test_champion_and_its_answers_come_out_as_evaluated_also_by_mlflow_itself(
    registry: Registry, project: Path, params: Params, processes: Processes
) -> None:
    perform(registry, ["1", "2"])
    method = list(params.methods)[1]
    recorded = load_predictions(project / f"evaluations/{method}/seed_{params.seeds[0]}.safetensors").probabilities
    images = tiny.make_split().test.images
    assert isinstance(images, torch.Tensor)
    encoded = [encode_png(image) for image in images]
    for i, image in enumerate(encoded):
        (project / f"{i:03}.png").write_bytes(image)
    champion = registry.champion()
    assert champion is not None
    torch.testing.assert_close(registry.predictor(champion).predict(encoded), recorded, atol=1e-5, rtol=0)
    ended = processes.run(project, "predict", f"models:/{NAME}@champion", ".", MLFLOW_TRACKING_URI=registry.server.uri)
    assert ended.code == 0, ended.said
    answer = torch.tensor(json.loads(ended.said.splitlines()[-1]))
    torch.testing.assert_close(answer, recorded, atol=1e-5, rtol=0)


def test_through_a_server_it_is_the_same(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with mlflow_server(project, free_port()) as running:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", running.address)
        registry = open_registry(project, NAME)
        for method in params.methods:
            registry.register(evaluated(registry, method, params), {"longtail.data": method})
        assert perform(registry, ["1", "2", "back", "2"]) == ["2", "1"]
        assert serving(project) == ("2", "1")
        second = registry.predictor(registry.version("2"))
        assert walk_back(registry) == ["2", "1"]
        assert serving(project) == ("1", None)
        first = registry.predictor(registry.version("1"))
        assert not torch.equal(first.classifier.weight, second.classifier.weight)
        shutil.rmtree(project / "stored")
        with pytest.raises(InputError, match="Version 2 of model longtail cannot be loaded from mlflow-artifacts:/"):
            registry.promote("2")
        assert serving(project) == ("1", None)
    assert capsys.readouterr().err == ""
