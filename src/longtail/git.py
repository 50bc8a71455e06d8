"""Git, by its command."""

import subprocess
from pathlib import Path


class GitError(Exception):
    """Git failed, or is not installed; the message is its own words."""


def git(root: Path, *arguments: str) -> str:
    """Run git in a folder and return what it prints, without blanks around it.

    Raises:
        GitError: git failed, or there is no git.
    """
    try:
        finished = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise GitError(f"git {arguments[0]} could not start: {error}") from None
    if finished.returncode:
        raise GitError(f"git {arguments[0]} failed: {finished.stderr.strip()}")
    return finished.stdout.strip()
