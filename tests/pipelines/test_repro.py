import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from small_project import has_ended

pytest_plugins = ["pipeline_fixtures"]

COMMAND = [sys.executable, "-m", "pipelines.repro"]


def repro(project: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(COMMAND, cwd=project, capture_output=True, text=True, check=False)


def test_it_ends_with_the_leaderboard_and_a_second_run_does_nothing(project: Path) -> None:
    first = repro(project)
    assert first.returncode == 0, first.stderr
    assert "working on train@glag" in first.stdout
    assert re.search(r"ce +50 %", first.stdout)
    assert "make ui" in first.stdout
    second = repro(project)
    assert second.returncode == 0
    assert "working on" not in second.stdout
    assert re.search(r"ce +50 %", second.stdout)
    plain = subprocess.run([Path(sys.executable).parent / "dvc", "status"], cwd=project, capture_output=True, text=True)
    assert "up to date" in plain.stdout


@pytest.mark.parametrize(("status", "code"), [(2, 2), (3, 1)])
def test_the_exit_code_tells_whose_fault_it_was(project: Path, status: int, code: int) -> None:
    (project / "trouble" / "train@ce").write_text(f"echo 'train: plan.lr is 0.' >&2; exit {status}\n")
    finished = repro(project)
    assert finished.returncode == code
    assert "train: plan.lr is 0." in finished.stderr
    assert not (project / "reports").exists()


def test_params_are_checked_before_anything_runs(project: Path) -> None:
    shutil.rmtree(project / "src")  # the check of this repository
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("seeds:", "sedes:"))
    finished = repro(project)
    assert finished.returncode == 2
    assert "sedes" in finished.stderr
    assert not (project / "data.txt").exists()


def test_sigterm_stops_dvc_and_its_stage(project: Path) -> None:
    (project / "trouble" / "split").write_text("echo $$ > child; exec sleep 60\n")
    with subprocess.Popen(COMMAND, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "working on split" in line:
                break
        while not (project / "child").exists():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert "Stopped" in process.stdout.read()
    assert process.returncode == 130
    assert has_ended(project / "child")
