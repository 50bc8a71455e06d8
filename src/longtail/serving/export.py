"""Write a trained model as one file that runs where longtail is not installed: see longtail.serving.exported_program.

    python -m longtail.serving.export MODEL OUT.pt2 [IMAGE ...]

MODEL is a folder with network.json, weights.safetensors and classifier.safetensors, or a registered model by its alias:
models:/longtail@champion. Given images are among those that the program is checked on before it is kept.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError

from longtail.serving.exported_program import export
from longtail.serving.predictor import Predictor
from longtail.spec import InputError
from longtail.tracking.registered_model import reach_registry
from longtail.workspace import home

__all__ = ["export", "load"]

REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)@(?P<alias>champion|previous|challenger)")


def load(model: str) -> Predictor:
    """Read a model.

    Args:
        model: a folder, or models:/NAME@ALIAS with one of the aliases of `longtail.tracking.registry`.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    if not model.startswith("models:"):
        return _load_folder(Path(model))
    named = REGISTERED.fullmatch(model)
    if named is None:
        raise InputError(f"{model} names no model; write models:/NAME@champion, or @previous, or @challenger.")
    registry = reach_registry(home(), named["name"])
    version = {"champion": registry.champion, "previous": registry.previous, "challenger": registry.challenger}
    found = version[named["alias"]]()
    if found is None:
        raise InputError(f"No version of {named['name']} is called {named['alias']}; register or promote one.")
    return registry.predictor(found)


def _load_folder(folder: Path) -> Predictor:
    try:
        return Predictor.load(folder)
    except (OSError, SafetensorError, ValidationError, RuntimeError, KeyError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{folder} holds no model ({why}). Give a folder with network.json, weights.safetensors and "
            "classifier.safetensors: data/predictor of a model that MLflow has logged."
        ) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give the path of an image.") from None


def main() -> int:
    """Export a model; exit code 2 and a sentence for what the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m longtail.serving.export", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("model", metavar="MODEL", help="a model's folder, or models:/NAME@ALIAS")
    parser.add_argument("out", metavar="OUT.pt2", type=Path, help="the file to write")
    parser.add_argument("images", metavar="IMAGE", type=Path, nargs="*", help="check the program on it too")
    said = parser.parse_args()
    try:
        examples = [_read(image) for image in said.images]
        print(export(load(said.model), said.out, examples))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{said.out} cannot be written ({error.strerror}); choose another folder.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
