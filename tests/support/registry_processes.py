"""Commands of the registry in fresh processes, forked from one that has imported mlflow (seconds).

A process can be told to kill itself before its k-th call that changes something in MLflow, as a power cut would.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

VARIABLES = {"DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "ERROR"}
READING = ("get_", "search_", "list_", "load_", "download_")


@dataclass(frozen=True)
class Ended:
    """How a command ended; the code is minus the signal if one has killed it."""

    code: int
    said: str


class Processes:
    """The process that forks the others; end it with `close`.

    Args:
        warm: a database that it opens; the others, which open different ones, then need half the time.
    """

    def __init__(self, warm: Path) -> None:
        ours = ("LONGTAIL_", "MLFLOW_", "DVC_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        self._parent = subprocess.Popen(
            [sys.executable, __file__, str(warm)],
            env=environment | VARIABLES,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, folder: Path, *arguments: str, die_before: int = 0, **variables: str) -> Ended:
        """Run one command in a folder.

        Args:
            arguments: of `python -m longtail.tracking.registry`; or `register NAME RUN`; or `predict MODEL IMAGES`,
                which prints MLflow's own answer as JSON.
            die_before: the call that changes something, counted from 1, before which it dies; 0 for none.
        """
        return self.run_all(folder, [arguments], die_before, **variables)[0]

    def run_all(
        self, folder: Path, commands: Sequence[Sequence[str]], die_before: int = 0, **variables: str
    ) -> list[Ended]:
        """Run commands at once."""
        assert self._parent.stdin and self._parent.stdout
        print(json.dumps([str(folder), commands, die_before, variables]), file=self._parent.stdin, flush=True)
        answer = self._parent.stdout.readline()
        return [Ended(code, said) for code, said in json.loads(answer)]

    def close(self) -> None:
        """End the process."""
        self._parent.communicate()


def _answer(folder: str, commands: list[list[str]], die_before: int, variables: dict[str, str]) -> list[Any]:
    files = [Path(folder, f"said.{i}.txt") for i in range(len(commands))]
    children = []
    for command, file in zip(commands, files, strict=True):
        child = os.fork()
        if child == 0:
            os.chdir(folder)
            os.environ.update(variables)
            _redirect(file)
            _die_before(die_before)
            os._exit(_ended(command))
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return [(code, file.read_text()) for code, file in zip(codes, files, strict=True)]


def _redirect(file: Path) -> None:
    with file.open("w") as opened:
        os.dup2(opened.fileno(), 1)
        os.dup2(opened.fileno(), 2)


def _ended(command: list[str]) -> int:
    try:
        return OPERATIONS.get(command[0], _command)(*command)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _die_before(k: int) -> None:
    from mlflow import MlflowClient

    calls = count(1)

    def counted(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if next(calls) == k:
                os.kill(os.getpid(), signal.SIGKILL)
            return method(*arguments, **named)

        return call

    for name, method in vars(MlflowClient).items():
        if callable(method) and not name.startswith(("_", *READING)):
            setattr(MlflowClient, name, counted(method))


def _command(*arguments: str) -> int:
    from longtail.tracking.registry import main

    return main(arguments)


def _register(_: str, name: str, run: str) -> int:
    from longtail.tracking.registered_model import open_registry

    print(open_registry(Path.cwd(), name).register(run, {"longtail.data": "abc"}).number)
    return 0


def _predict(_: str, model: str, images: str) -> int:
    import pandas  # type: ignore[import-untyped]
    from mlflow import pyfunc

    files = sorted(Path(images).glob("*.png"))
    table = pandas.DataFrame({"image": [file.read_bytes() for file in files]})
    print(json.dumps(pyfunc.load_model(model).predict(table).to_numpy().tolist()))
    return 0


OPERATIONS: dict[str, Callable[..., int]] = {"register": _register, "predict": _predict}


if __name__ == "__main__":
    for module in ("mlflow.pyfunc", "mlflow.store.model_registry.sqlalchemy_store", "longtail.tracking.registry"):
        import_module(module)
    import_module("mlflow").MlflowClient(f"sqlite:///{sys.argv[1]}").search_registered_models()
    for line in sys.stdin:
        print(json.dumps(_answer(*json.loads(line))), flush=True)
