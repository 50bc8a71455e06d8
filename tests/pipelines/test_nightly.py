"""What a night trains, where, and what is kept of it."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

import photos
from clones import ROOT
from longtail.data.assignment import write_assignment
from longtail.retraining.inventory import take_inventory
from pipelines.clone import ASSIGNMENT
from pipelines.failures import PipelineError, UserError
from pipelines.nightly import INVENTORY, LINK, plan_night

pytest_plugins = ["nightly_fixtures"]

ONE_SIDE = "sha256,side\n" + "a" * 64 + ",test\n"


def change(root: Path, **changes: object) -> None:
    """Change keys of `retrain`."""
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["retrain"] |= changes
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", root, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def test_one_method_with_what_it_needs_and_one_seed_is_trained(root: Path) -> None:
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["representations"]["gradual"]["start_from"] = "models/ce"
    params["retrain"] |= {"method": "glag", "seed": 7}
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    night = plan_night(root, None)
    assert night.params.seeds == (7,) and list(night.params.methods) == ["glag"]
    assert list(night.params.representations) == ["ce", "gradual"]
    assert night.params.data.path == str(LINK)
    crt = plan_night_of(root, method="crt")
    assert list(crt.params.representations) == ["ce"] and list(crt.params.methods) == ["crt"]


def plan_night_of(root: Path, **changes: object):  # type: ignore[no-untyped-def]
    change(root, **changes)
    return plan_night(root, None)


def test_the_recipe_is_of_params_and_code_alone(root: Path) -> None:
    before = plan_night(root, None).recipe
    (root / "README.md").write_text("another")
    git(root, "-c", "user.name=A", "-c", "user.email=a@b", "commit", "-qam", "words")
    assert plan_night(root, None).recipe == before
    assert plan_night_of(root, seed=3).recipe != before
    change(root, seed=0)
    assert plan_night(root, None).recipe == before
    (root / "src" / "longtail" / "spec.py").write_text((root / "src" / "longtail" / "spec.py").read_text() + "\n")
    git(root, "-c", "user.name=A", "-c", "user.email=a@b", "commit", "-qam", "code")
    assert plan_night(root, None).recipe != before


def test_what_cannot_be_retrained_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match=r"retrain\.method is 'nobody'; choose one of ce, crt"):
        plan_night_of(root, method="nobody")
    shutil.copy(ROOT / "params.yaml", root / "params.yaml")
    with pytest.raises(UserError, match=r"data\.name is digits, whose images never change"):
        plan_night(root, None)
    shutil.copy(ROOT / "benchmarks" / "imagenet_lt.yaml", root / "params.yaml")
    with pytest.raises(UserError, match="has no `retrain`"):
        plan_night(root, None)


def test_code_that_is_not_committed_is_refused(root: Path) -> None:
    (root / "src" / "longtail" / "spec.py").write_text("changed")
    with pytest.raises(UserError, match=r"src/longtail/spec\.py differ from HEAD"):
        plan_night(root, None).prepare()
    assert not (root / ".longtail").exists()


def test_the_workspace_is_not_touched_and_what_was_kept_comes_back(root: Path) -> None:
    before = git(root, "status", "--porcelain")
    night = plan_night(root, None)
    night.prepare()
    assert {path.name for path in (night.clone / LINK).iterdir()} == set(photos.FEW)
    assert yaml.safe_load((night.clone / "params.yaml").read_text())["seeds"] == [0]
    assert git(night.clone, "status", "--porcelain") == ""  # so that its numbers are those of a commit
    inventory = take_inventory(night.source)
    inventory.save(night.clone / INVENTORY)
    (night.clone / ASSIGNMENT).write_text(ONE_SIDE)
    assert night.keep("3") == "retrain/longtail/v3"
    assert git(root, "status", "--porcelain") == before

    (night.clone / ASSIGNMENT).write_text("lost")
    night.prepare()
    assert (night.clone / ASSIGNMENT).read_text() == ONE_SIDE
    kept = night.inventory_of("3")
    assert kept is not None and kept.rows == inventory.rows
    assert night.inventory_of("2") is None
    shown = yaml.safe_load(git(root, "show", "retrain/longtail/v3:params.yaml"))
    assert list(shown["methods"]) == ["glag"]


def test_the_first_night_takes_the_sides_that_the_workspace_knows(root: Path) -> None:
    write_assignment(root / ASSIGNMENT, {"b" * 64: "val"})
    night = plan_night(root, None)
    night.prepare()
    assert "b" * 64 + ",val" in (night.clone / ASSIGNMENT).read_text()


def test_a_new_image_is_seen_behind_the_link(root: Path) -> None:
    night = plan_night(root, None)
    night.prepare()
    listing = night.clone / LINK.with_name("images.files")
    before = listing.read_text()
    photos.write_photos(root / "data" / "raw" / "mine", {"ant": 1}, first=500)
    night.prepare()
    assert len(listing.read_text().splitlines()) == len(before.splitlines()) + 1


def test_tags_go_to_the_remote_and_a_remote_that_is_away_is_an_error(root: Path, tmp_path: Path) -> None:
    remote = tmp_path / "remote.git"
    git(tmp_path, "init", "--quiet", "--bare", str(remote))
    git(root, "remote", "add", "elsewhere", str(remote))
    night = plan_night_of(root, git_remote="elsewhere")
    night.prepare()
    night.keep("1")
    assert git(remote, "tag") == "retrain/longtail/v1"
    shutil.rmtree(remote)
    with pytest.raises(PipelineError, match="git push failed"):
        night.keep("2")


def test_outputs_go_to_the_dvc_remote_if_there_is_one(root: Path, tmp_path: Path) -> None:
    night = plan_night(root, None)
    night.prepare()
    said: list[bytes] = []
    night.push(said.append)
    assert said == []  # no remote, nothing to do
    (root / ".dvc" / "config.local").write_text(
        f"[core]\n    remote = away\n['remote \"away\"']\n    url = {tmp_path / 'remote'}\n"
    )
    night.prepare()
    night.push(said.append)
    assert b"up to date" in b"".join(said)


def test_another_folder_of_images_may_be_named(root: Path, tmp_path: Path) -> None:
    photos.write_photos(tmp_path / "others", {"ant": 3, "bee": 3})
    night = plan_night(root, str(tmp_path / "others"))
    night.prepare()
    assert len(list((night.clone / LINK).glob("*/*"))) == 6
