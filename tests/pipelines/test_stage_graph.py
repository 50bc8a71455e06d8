from pathlib import Path

import yaml

from pipelines.stage_graph import recorded, stages

pytest_plugins = ["pipeline_fixtures"]


def test_each_stage_comes_after_those_it_depends_on(project: Path) -> None:
    names = stages(project)
    assert sorted(names) == ["report", "split", "train@ce", "train@glag"]
    assert (names[0], names[-1]) == ("split", "report")  # dvc.yaml names them in another order


def test_files_that_dvc_tracks_are_no_stages(project: Path) -> None:
    (project / "photos.dvc").write_text("outs:\n- path: photos\n  md5: d41d8cd98f00b204e9800998ecf8427e\n")
    assert len(stages(project)) == 4


def test_the_record_is_the_locks_entry(project: Path) -> None:
    assert recorded(project, "split") is None
    entry = {"cmd": "sh stage.sh split", "outs": [{"path": "data.txt", "md5": "0"}]}
    (project / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"split": entry}}))
    assert recorded(project, "split") == entry
    assert recorded(project, "report") is None
