"""A small DVC project in which stages can be told to misbehave."""

import subprocess
import time
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).parents[2]
STAGES = """
stages:
  report:
    cmd: sh stage.sh report models/ce models/glag
    deps: [models/ce, models/glag]
    outs: [reports/leaderboard.md: {cache: false}]
  train:
    foreach: [ce, glag]
    do:
      cmd: sh stage.sh train@${item} data.txt
      deps: [data.txt]
      params: [plan.epochs]
      outs:
        - models/${item}
  split:
    cmd: sh stage.sh split seed.txt
    deps: [seed.txt]
    outs: [data.txt]
"""
# A stage joins its inputs into its output; before that it does what a file in trouble/ says.
SCRIPT = """
set -e
stage=$1; shift
case $stage in split) out=data.txt ;; report) out=reports/leaderboard.md ;; *) out=models/${stage#train@} ;; esac
echo "working on $stage"
if test -f trouble/$stage; then . trouble/$stage; fi
mkdir -p "$(dirname $out)"
if test $stage = report; then mkdir -p reports/plots; fi
cat "$@" >$out
"""
# This project's own package: its check takes no time, as it need not import torch. Without it, longtail's is used.
CHECK = """
import sys, yaml
if "seeds" not in yaml.safe_load(open(sys.argv[1] if sys.argv[1:] else "params.yaml")):
    print("params.yaml: seeds is missing.", file=sys.stderr)
    sys.exit(2)
"""
# And its own way of keeping results: what the report said, and which methods came.
RESULTS = """
import shutil, sys
from pathlib import Path
folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
with (folder / "added").open("a") as added:
    print(*sys.argv[2:], file=added)
if not sys.argv[2:]:
    shutil.copy("reports/leaderboard.md", folder)
"""


def git(root: Path, *arguments: str) -> str:
    """Run git in root as somebody, and return what it prints."""
    who = ["-c", "user.name=A", "-c", "user.email=a@localhost"]
    return subprocess.run(["git", "-C", root, *who, *arguments], check=True, capture_output=True, text=True).stdout


def has_ended(pid_file: Path) -> bool:
    """Wait a little for a killed process to go (one that nobody collects stays as a zombie)."""
    number = int(pid_file.read_text())
    for _ in range(200):
        if not psutil.pid_exists(number) or psutil.Process(number).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False
