"""The champion moves in one call, and whatever dies between two calls, the next command leaves one valid champion.

Versions 1 to 4 of the model `longtail` are registered once; each test has its own copy of the database.
"""

import json
import os
import shutil
import socket
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from registry_processes import Ended, Processes
from tracked import run_stage

import tiny
from longtail.evaluation import load_predictions
from longtail.params import Params
from longtail.prediction import encode_png
from longtail.spec import InputError
from longtail.tracking.outputs import Outputs
from longtail.tracking.promotion import main
from longtail.tracking.registry import Registry, open_registry
from longtail.tracking.server import connect

pytest_plugins = ["tracking_fixtures"]

NAME = "longtail"
KILLED = -9
MOST_CALLS = 20  # no command makes as many


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    """What runs commands in fresh processes."""
    running = Processes()
    yield running
    running.close()


@pytest.fixture(scope="module")
def stock(finished: Path, database: Path, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose database has four registered versions, of two methods by turns, and no champion."""
    folder = tmp_path_factory.mktemp("stock") / "project"
    shutil.copytree(finished, folder)
    shutil.copy(database, folder / "mlflow.db")
    before = dict(os.environ)
    with chdir(folder):
        for name in [name for name in before if name.startswith(("LONGTAIL_", "MLFLOW_", "DVC_"))]:
            del os.environ[name]
        registry = open_registry(folder, NAME)
        for i in range(4):
            registry.register(evaluated(folder, params, i), {"longtail.data": f"data{i + 1}", "longtail.commit": "abc"})
    yield folder
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def registry(stock: Path, project: Path) -> Registry:
    """Four versions and no champion, in the working folder."""
    shutil.copy(stock / "mlflow.db", project / "mlflow.db")
    return open_registry(project, NAME)


def evaluated(folder: Path, params: Params, i: int) -> str:
    """Record an evaluation of the first or second method and return its run."""
    run_stage(Outputs("evaluate", list(params.methods)[i % 2]), params, folder)
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, "tags.longtail.stage LIKE 'evaluate%'", order_by=["start_time DESC"])
    return str(found[0].info.run_id)


def serving(folder: Path) -> tuple[str | None, str | None]:
    """Return the numbers of champion and previous as MLflow has them."""
    model = MlflowClient(f"sqlite:///{folder}/mlflow.db").get_registered_model(NAME)
    champion, previous = (model.aliases.get(alias) for alias in ("champion", "previous"))
    return champion and str(champion), previous and str(previous)


def everything(folder: Path) -> list[str]:
    """Return what the database holds, less what says when."""
    with sqlite3.connect(folder / "mlflow.db") as opened:
        return [line for line in opened.iterdump() if "registered_model" in line or "model_version" in line]


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


def test_a_version_has_its_tags_run_and_model_and_is_the_challenger(registry: Registry) -> None:
    newest, *older = registry.versions()
    assert [version.number for version in (newest, *older)] == ["4", "3", "2", "1"]
    assert newest.tags == {"longtail.data": "data4", "longtail.commit": "abc"}
    assert registry.challenger() == newest
    assert newest.aliases == ("challenger",)
    assert registry.champion() is None
    client = registry.server.client
    run = client.get_run(newest.run)
    assert run.data.tags["longtail.stage"].startswith("evaluate@")
    logged = client.get_logged_model(run.outputs.model_outputs[0].model_id)
    assert client.get_model_version(NAME, newest.number).source == logged.artifact_location


def test_the_same_model_is_registered_once_and_gets_the_new_tags(registry: Registry) -> None:
    second = registry.version("2")
    again = registry.register(second.run, {"longtail.data": "other"})
    assert (again.number, len(registry.versions())) == ("2", 4)
    assert again.tags == {"longtail.data": "other", "longtail.commit": "abc"}
    assert registry.challenger() == again


def test_a_registration_that_was_cut_off_anywhere_is_made_good_by_the_next(
    registry: Registry, params: Params, project: Path, processes: Processes
) -> None:
    run = evaluated(project, params, 0)
    cuts = list(killed_everywhere(project, ["register", run], processes))
    for folder in cuts:
        assert processes.run(folder, "register", run) == Ended(0, "5\n")
        again = open_registry(folder, NAME)
        assert [version.number for version in again.versions()] == ["5", "4", "3", "2", "1"]
        newest = again.challenger()
        assert newest is not None
        assert (newest.number, newest.run, newest.tags) == ("5", run, {"longtail.data": "abc"})
    assert len(cuts) > 1, "creating the version and naming it are two calls at least"


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
    "a promotion": (["1", "2"], ["promote", "3"]),
    "promoting a former champion": (["1", "2", "3"], ["promote", "1"]),
    "promoting what was left": (["1", "2", "back"], ["promote", "2"]),
    "a rollback": (["1", "2", "3"], ["rollback"]),
    "the last rollback": (["1", "2"], ["rollback"]),
    "a rollback to what was left before": (["1", "2", "back", "3", "2", "3"], ["rollback"]),
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
        again = open_registry(folder, NAME)
        assert again.repair() is None
        assert walk_back(again) == ["4", *history]
    assert moved == sorted(moved), "the champion moves in one call"
    assert {False, True} == set(moved)


@pytest.mark.parametrize("command", [["promote", "3"], ["rollback"]], ids=" ".join)
def test_the_mending_may_be_killed_as_well(
    command: list[str], registry: Registry, project: Path, processes: Processes
) -> None:
    before = perform(registry, ["1", "2"])
    for folder in list(killed_everywhere(project, command, processes)):
        history = before if serving(folder)[0] == before[0] else after(before, command)
        for inner in killed_everywhere(folder, ["promote", "4"], processes):
            histories = {champion: turn for turn in (history, ["4", *history]) for champion in turn[:1]}
            again = open_registry(inner, NAME)
            again.repair()
            found = serving(inner)[0]
            assert found in histories
            assert walk_back(again) == histories[found]
