"""The workspace: one writer, whole outputs, checkpoints that outlive a kill."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from longtail.workspace import checkpoints, code_digest, digest_of, home, only_writer, whole_folder


def test_home_is_the_repository_even_from_an_experiments_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LONGTAIL_HOME", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert home() == tmp_path.resolve()
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "repository"))
    assert home() == (tmp_path / "repository").resolve()
    monkeypatch.setenv("LONGTAIL_HOME", str(tmp_path / "main"))
    assert home() == (tmp_path / "main").resolve()


def test_an_output_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "models" / "ce"
    with whole_folder(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"
    with pytest.raises(RuntimeError), whole_folder(target) as folder:
        (folder / "a").write_text("2")
        raise RuntimeError
    assert (target / "a").read_text() == "1"
    assert [path.name for path in target.parent.iterdir()] == ["ce"]


HOLD = """
import sys, time
from pathlib import Path
from longtail.workspace import only_writer
with only_writer("train@ce", Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_waits_and_says_for_whom(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout and holder.stdout.readline() == "held\n"
    wait = HOLD.replace("time.sleep(60)", "pass")
    second = subprocess.Popen([sys.executable, "-c", wait, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert second.stdout
    assert f"waiting for process {holder.pid}" in second.stdout.readline()
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert second.communicate(timeout=60)[0] == "held\n"  # a killed holder's lock is free


def test_digests_tell_values_apart_and_do_not_depend_on_key_order() -> None:
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1}) != digest_of({"a": 1, "b": 3})
    assert code_digest() == code_digest()


def test_checkpoints_go_when_the_work_is_done_and_stay_when_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGTAIL_HOME", str(tmp_path))
    with pytest.raises(RuntimeError), checkpoints("abc") as folder:
        (folder / "seed_0.pt").write_text("state")
        raise RuntimeError
    assert (folder / "seed_0.pt").exists()
    with checkpoints("abc") as folder:
        assert (folder / "seed_0.pt").exists()
    assert not folder.exists()


ORPHAN = """
import os, sys, time
from longtail.workspace import checkpoints
with checkpoints("abc") as folder:
    (folder / "seed_0.pt").write_text("done")
    print("ready", flush=True)
    sys.stdin.readline()
"""


def test_checkpoints_of_an_orphan_stay_for_the_run_that_dvc_will_start_again(tmp_path: Path) -> None:
    environment = {**os.environ, "LONGTAIL_HOME": str(tmp_path)}
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN)
    parent = subprocess.Popen(  # the shell stands for dvc; `; true` keeps it from becoming the stage itself
        ["sh", "-c", f"exec 3<&0; {sys.executable} {script} <&3; true"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert parent.stdin and parent.stdout and parent.stdout.readline() == "ready\n"
    parent.kill()
    parent.wait()
    parent.stdin.close()  # now the orphan may finish
    parent.stdout.read()  # ends when the orphan does
    parent.stdout.close()
    assert (tmp_path / ".longtail" / "checkpoints" / "abc" / "seed_0.pt").read_text() == "done"


SHARED = """
import sys
from longtail.workspace import checkpoints
with checkpoints("abc") as folder:
    print(f"has {len(list(folder.iterdir()))}", flush=True)
    (folder / "seed_0.pt").write_text("state")
    sys.stdin.readline()
"""


def test_two_experiments_that_train_the_same_take_turns(tmp_path: Path) -> None:
    """Each runs in its own copy of the workspace; only the checkpoints are common."""
    environment = {**os.environ, "LONGTAIL_HOME": str(tmp_path)}
    experiments = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        experiment = subprocess.Popen(
            [sys.executable, "-c", SHARED],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=tmp_path / name,
        )
        assert experiment.stdout
        experiments.append((experiment, experiment.stdout.readline()))
    (first, began), (second, waited) = experiments
    assert began == "has 0\n"
    assert waited.startswith(f"checkpoint abc: waiting for process {first.pid}")
    first.communicate("\n", timeout=60)
    assert second.communicate("\n", timeout=60)[0] == "has 0\n"  # the first one's went when it had succeeded
    assert not list((tmp_path / ".longtail" / "checkpoints").iterdir())


def test_only_writer_lets_rows_run_side_by_side(tmp_path: Path) -> None:
    with only_writer("train@ce", tmp_path), only_writer("train@gradual", tmp_path):
        assert (tmp_path / "train@ce.owner").read_text() == f"process {os.getpid()}"
