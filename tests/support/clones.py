"""A clone of this repository with a small params.yaml, in which the graph really runs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]


class Clone:
    """A copy of the working tree's tracked and new files, committed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file() and not name.startswith(("reports/", "docs/", "dvc.lock")):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        (folder / "reports").mkdir(exist_ok=True)
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("LONGTAIL_", "MLFLOW_", "DVC_"))},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "LONGTAIL_TRACKING": "off",
            "DVC_NO_ANALYTICS": "1",
            "OMP_NUM_THREADS": "1",
            "GIT_AUTHOR_NAME": "test",
            "GIT_AUTHOR_EMAIL": "test@localhost",
            "GIT_COMMITTER_NAME": "test",
            "GIT_COMMITTER_EMAIL": "test@localhost",
        }

    def run(self, *command: str, code: int = 0, **environment: str) -> str:
        """Run a command in the clone and return what it printed."""
        finished = subprocess.run(
            command, cwd=self.folder, env=self.environment | environment, capture_output=True, text=True, timeout=400
        )
        printed = finished.stdout + finished.stderr
        assert finished.returncode == code, f"{' '.join(command)} exited with {finished.returncode}:\n{printed}"
        return printed

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command in a session of its own."""
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def params(self) -> Any:
        """Read params.yaml."""
        return yaml.safe_load((self.folder / "params.yaml").read_text())

    def write_params(self, params: Any) -> None:
        """Write params.yaml."""
        (self.folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    def commit(self) -> None:
        """Commit everything."""
        if not (self.folder / ".git").exists():
            self.run("git", "init", "-q", "-b", "main")
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", "as it is")


def shrink(params: Any) -> None:
    """Keep one representation and two methods, short: what is tested is the graph."""
    params["seeds"] = [0]
    params["plan"] |= {"epochs": 2, "warmup": 0}
    params["extract"]["views"] = 2
    params["representations"] = {"gradual": params["representations"]["gradual"]}
    params["methods"] = {name: params["methods"][name] for name in ("graloss", "glag")}
    params["methods"]["glag"]["balancer"]["plan"]["epochs"] = 2
