"""What keeps a stage safe on disk: one writer per row, outputs that appear whole, checkpoints that outlive a kill."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

import longtail
from longtail import distributed


def home() -> Path:
    """Return the repository that a run belongs to: $LONGTAIL_HOME, else $DVC_ROOT (set by DVC), else this folder.

    `dvc exp run --temp` runs stages in a copy; DVC_ROOT still names the repository, so what must survive the copy
    (checkpoints, the MLflow file) is anchored here.
    """
    return Path(os.environ.get("LONGTAIL_HOME") or os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


@contextmanager
def only_writer(name: str, folder: Path) -> Iterator[None]:
    """Hold the lock of a stage's row; wait, and say for whom, if another process (an orphan) holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock, owner = FileLock(folder / f"{name}.lock"), folder / f"{name}.owner"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        whom = owner.read_text() if owner.exists() else "another process"
        print(f"{name}: waiting for {whom}, which is writing the same outputs", flush=True)
        lock.acquire()
    try:
        owner.write_text(f"process {os.getpid()}")
        yield
    finally:
        lock.release()


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield an empty `<target>.tmp` and rename it to `target` at the end, so that half an output never exists."""
    temporary = target.with_name(target.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def digest_of(*values: Any) -> str:
    """Return 16 hex digits that identify JSON-like values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


def code_digest() -> str:
    """Identify this package's source, so that a checkpoint of other code is never continued."""
    package = Path(longtail.__file__).parent
    files = sorted(package.rglob("*.py"))
    return digest_of(
        [(str(file.relative_to(package)), hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]
    )


@contextmanager
def checkpoints(digest: str) -> Iterator[Path]:
    """Yield the checkpoint folder of a run, and remove it once the block has succeeded.

    Checkpoints live outside DVC's outs (DVC deletes outs before a stage runs). If DVC was killed meanwhile, nothing
    records this stage's outputs and DVC will run it again: then the last checkpoint stays, and the second run
    finds everything done. Experiments that train the same thing at once (`dvc queue start --jobs 2`) share the
    folder, though each has a copy of the workspace and its own row's lock: they take turns. Of several processes that
    train together the first one looks after the folder: none starts before it is there or loses it before the end.
    """
    state = home() / ".longtail"
    folder = state / "checkpoints" / digest
    ancestors = psutil.Process().parents()
    if distributed.rank() > 0:
        distributed.meet()
        yield folder
        distributed.meet()
        return
    with only_writer(f"checkpoint {digest}", state / "locks"):
        folder.mkdir(parents=True, exist_ok=True)
        distributed.meet()
        yield folder
        distributed.meet()
        if all(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in ancestors):
            shutil.rmtree(folder, ignore_errors=True)
