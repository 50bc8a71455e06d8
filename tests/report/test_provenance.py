import platform
import re
import subprocess
from pathlib import Path

import pytest
import torch

from longtail.images.labeled import LabeledImages, LongTailSplit
from longtail.report.provenance import commit, describe, hardware, versions


def git(root: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init")
    for name in ("code.py", "dvc.lock", "reports/leaderboard.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("first")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    return tmp_path


def test_a_clean_tree_is_named_by_its_commit(repository: Path) -> None:
    assert re.fullmatch(r"[0-9a-f]{7,}", commit(repository))


@pytest.mark.parametrize("result", ["dvc.lock", "reports/leaderboard.md", "reports/new.md", "untracked.py"])
def test_results_and_untracked_files_leave_the_tree_clean(repository: Path, result: str) -> None:
    clean = commit(repository)
    (repository / result).write_text("second")
    assert commit(repository) == clean


def test_changed_code_is_dirty_also_seen_from_a_folder_below(repository: Path) -> None:
    clean = commit(repository)
    (repository / "code.py").write_text("second")
    assert commit(repository) == commit(repository / "reports") == f"{clean}+dirty"


def test_staged_code_is_dirty(repository: Path) -> None:
    (repository / "more.py").write_text("new")
    git(repository, "add", "more.py")
    assert commit(repository).endswith("+dirty")


def test_outside_git_and_before_the_first_commit_it_is_unknown(tmp_path: Path) -> None:
    assert commit(tmp_path) == "unknown"
    git(tmp_path, "init")
    assert commit(tmp_path) == "unknown"


def test_without_git_it_is_unknown(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(repository / "nothing"))
    assert commit(repository) == "unknown"


def test_hardware_names_a_processor_and_its_cores() -> None:
    assert re.fullmatch(r"\S.*, [1-9]\d* cores?", hardware(torch.device("cpu")))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_hardware_names_the_gpu() -> None:
    assert hardware(torch.device("cuda")).endswith(f", {torch.cuda.get_device_name()}")


def test_versions_name_python_and_torch() -> None:
    assert f"Python {platform.python_version()}" in versions()
    assert f"torch {torch.__version__.split('+')[0]}" in versions()


def test_a_split_is_described_by_its_counts() -> None:
    def images(*counts: int) -> LabeledImages:
        labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        return LabeledImages(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), labels, len(counts), [])

    split = LongTailSplit(images(1200, 4), images(0, 0), images(30, 31), ("a", "b"), (0.5,), (0.5,), "digest")
    assert describe("digits", "step", split) == (
        "digits, step profile: 1,204 training images in 2 classes (1,200 to 4 each), "
        "0 validation images, 61 test images"
    )
