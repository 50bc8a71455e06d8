"""Ask a served model about images: python -m longtail.serving.client [--url URL] [--top N] [--json] IMAGE...

It needs nothing but Python: this file may be copied to a machine where nothing else of longtail is. The server is
`mlflow models serve -m models:/NAME@champion`; see docs/serving.md.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

URL = "http://127.0.0.1:5001"
PATIENCE = 60.0  # seconds, as long as the server gives itself


class ClientError(Exception):
    """No answer was got; the message says why in one sentence, and what can be done."""


@dataclass(frozen=True)
class Answer:
    """What the model says of one image.

    Args:
        class_name: the most probable class.
        probability: of that class.
        probabilities: of every class by its name, in the model's order; they sum to 1.
    """

    class_name: str
    probability: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Client:
    """A model behind an address.

    Args:
        url: of the server, as `mlflow models serve` prints it.
        timeout: seconds to wait for an answer.
    """

    url: str = URL
    timeout: float = PATIENCE

    def predict(self, images: Sequence[bytes | Path]) -> list[Answer]:
        """Send images, all in one request.

        Args:
            images: encoded images of any format, size and mode (the bytes of a file), or files.

        Returns:
            An answer per image, in their order.

        Raises:
            ClientError: a file cannot be read, nobody answers, the server refuses (for instance an image that it cannot
                read), or what answers is no such model.
        """
        encoded = [[base64.b64encode(_bytes_of(image)).decode("ascii")] for image in images]
        if not encoded:
            return []
        answered = self._post(json.dumps({"dataframe_split": {"columns": ["image"], "data": encoded}}))
        try:
            answers = [_answer(row) for row in json.loads(answered)["predictions"]]
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ClientError(f"{self.url} does not answer as a longtail model does; correct the address.") from None
        if len(answers) != len(encoded):
            raise ClientError(f"{self.url} gave {len(answers)} answers for {len(encoded)} images; restart it.")
        return answers

    def _post(self, document: str) -> bytes:
        try:
            request = urllib.request.Request(
                f"{self.url.rstrip('/')}/invocations", document.encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                return bytes(response.read())
        except urllib.error.HTTPError as error:
            with error:
                raise ClientError(f"{self.url} refused: {_sentence(error)}") from None
        except TimeoutError:
            raise ClientError(f"{self.url} took longer than {self.timeout:g} s; send fewer images at a time.") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = getattr(error, "reason", error)
            raise ClientError(
                f"No model answers at {self.url} ({why}). Start one with `mlflow models serve`, or correct the address."
            ) from None


def _bytes_of(image: bytes | Path) -> bytes:
    if isinstance(image, bytes):
        return image
    try:
        return image.read_bytes()
    except OSError as error:
        raise ClientError(f"{image} cannot be read ({error.strerror}); give the path of an image.") from None


def _answer(row: dict[str, float]) -> Answer:
    probabilities = {name: float(probability) for name, probability in row.items()}
    best = max(probabilities, key=probabilities.__getitem__)
    return Answer(best, probabilities[best], probabilities)


def _sentence(error: urllib.error.HTTPError) -> str:
    """Return what the model said, which MLflow puts last into the stack trace; else MLflow's own message."""
    text = error.read().decode(errors="replace")
    try:
        document: dict[str, Any] = json.loads(text)
        traced, message = document.get("stack_trace"), document.get("message")
    except (ValueError, AttributeError):
        traced, message = None, text
    lines = str(traced or message or "").strip().splitlines()
    if not lines:
        return f"{error.code} {error.reason}"
    return re.sub(r"^[\w.]*InputError: ", "", lines[-1] if traced else lines[0])


def _line(path: Path, answer: Answer, top: int) -> str:
    ranked = sorted(answer.probabilities.items(), key=lambda item: -item[1])
    return f"{path}: " + ", ".join(f"{name} {probability:.3f}" for name, probability in ranked[:top])


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 1")
    return int(text)


def main() -> int:
    """Print answers; exit code 2 and a sentence where there are none."""
    parser = argparse.ArgumentParser(
        prog="python -m longtail.serving.client", description="Ask a served model about images."
    )
    parser.add_argument("--url", default=URL, help=f"address of the server ({URL})")
    parser.add_argument("--top", type=_at_least_one, default=3, metavar="N", help="classes to print per image (3)")
    parser.add_argument("--json", action="store_true", help="print every probability, as JSON")
    parser.add_argument("images", metavar="IMAGE", type=Path, nargs="+", help="an image of any format, size and mode")
    said = parser.parse_args()
    try:
        answers = Client(said.url).predict(said.images)
    except ClientError as error:
        print(error, file=sys.stderr)
        return 2
    named = list(zip(said.images, answers, strict=True))
    if said.json:
        print(json.dumps([{"image": str(path), **asdict(answer)} for path, answer in named], indent=2))
    else:
        print("\n".join(_line(path, answer, said.top) for path, answer in named))
    return 0


if __name__ == "__main__":
    sys.exit(main())
