"""The client against servers that answer oddly or not at all; tests/services/test_remote_served.py asks a real one."""

import base64
import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from longtail.serving import client
from longtail.serving.client import Answer, Client, ClientError

TRACED = {
    "message": "Encountered an unexpected error",
    "stack_trace": 'Traceback (most recent call last):\n  File "prediction.py", line 85\n'
    "longtail.spec.InputError: image 1 (of 2, counted from 0) cannot be read: truncated\n",
}
CRASHED = {"message": "Encountered an unexpected error", "stack_trace": "Traceback:\nRuntimeError: out of memory\n"}
ANSWERED = {"predictions": [{"ant": 0.25, "bee": 0.75}, {"ant": 0.6, "bee": 0.4}]}


class Speaker(ThreadingHTTPServer):
    """A server that gives one answer to everything and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.body = 200, b""
        self.asked: list[tuple[str, bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def says(self, status: int, body: object) -> Client:
        self.status = status
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        return Client(self.url)


class Handler(BaseHTTPRequestHandler):
    """Answers what its server was told to."""

    server: Speaker

    def do_POST(self) -> None:
        self.server.asked.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture
def speaker() -> Iterator[Speaker]:
    with Speaker() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A socket that connects and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def test_bytes_and_files_go_as_base64_in_one_request_and_answers_come_in_order(
    speaker: Speaker, tmp_path: Path
) -> None:
    file = tmp_path / "image.png"
    file.write_bytes(bytes(range(256)))
    answers = speaker.says(200, ANSWERED).predict([b"\x89PNG", file])
    assert answers == [Answer("bee", 0.75, {"ant": 0.25, "bee": 0.75}), Answer("ant", 0.6, {"ant": 0.6, "bee": 0.4})]
    ((path, asked),) = speaker.asked
    table = json.loads(asked)["dataframe_split"]
    assert (path, table["columns"]) == ("/invocations", ["image"])
    assert [base64.b64decode(row[0]) for row in table["data"]] == [b"\x89PNG", bytes(range(256))]


def test_an_address_with_a_slash_is_the_same(speaker: Speaker) -> None:
    speaker.says(200, {"predictions": [{"ant": 1.0}]})
    assert Client(f"{speaker.url}/").predict([b""])[0].class_name == "ant"
    assert speaker.asked[0][0] == "/invocations"


def test_no_images_are_no_question(speaker: Speaker) -> None:
    assert speaker.says(500, b"").predict([]) == []
    assert not speaker.asked


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (400, TRACED, "refused: image 1 (of 2, counted from 0) cannot be read: truncated"),
        (400, CRASHED, "refused: RuntimeError: out of memory"),
        (400, {"message": "Model is missing inputs ['image']."}, "refused: Model is missing inputs ['image']."),
        (504, b"Request processing time exceeded limit", "refused: Request processing time exceeded limit"),
        (404, {"detail": "Not Found"}, "refused: 404 Not Found"),
        (502, b"", "refused: 502 Bad Gateway"),
        (500, [1], "refused: [1]"),
    ],
)
def test_what_the_server_refuses_is_said_in_its_own_sentence(
    speaker: Speaker, status: int, body: object, said: str
) -> None:
    with pytest.raises(ClientError) as caught:
        speaker.says(status, body).predict([b"a", b"b"])
    assert str(caught.value) == f"{speaker.url} {said}"


@pytest.mark.parametrize("body", [b"<html>", {}, [], {"predictions": [3]}, {"predictions": [{}]}, {"predictions": 1}])
def test_what_is_no_answer_of_a_model_is_refused(speaker: Speaker, body: object) -> None:
    with pytest.raises(ClientError, match="does not answer as a longtail model does"):
        speaker.says(200, body).predict([b"a"])


def test_fewer_answers_than_images_are_refused(speaker: Speaker) -> None:
    with pytest.raises(ClientError, match="2 answers for 3 images"):
        speaker.says(200, ANSWERED).predict([b"a", b"b", b"c"])


def test_where_nobody_listens_the_address_is_named(silent: socket.socket) -> None:
    url = f"http://127.0.0.1:{silent.getsockname()[1]}"
    silent.close()
    with pytest.raises(ClientError, match=rf"No model answers at {url} .*refused.*mlflow models serve"):
        Client(url).predict([b"a"])


@pytest.mark.parametrize("url", ["localhost:5001", "127.0.0.1", "http://[", "http://"])
def test_what_is_no_address_is_named(url: str) -> None:
    with pytest.raises(ClientError) as caught:
        Client(url).predict([b"a"])
    assert f"No model answers at {url} (" in str(caught.value)


def test_a_server_that_says_nothing_is_not_waited_for_forever(silent: socket.socket) -> None:
    with pytest.raises(ClientError, match=r"took longer than 0\.2 s"):
        Client(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.2).predict([b"a"])


def test_a_file_that_cannot_be_read_is_named_before_anything_is_asked(speaker: Speaker, tmp_path: Path) -> None:
    with pytest.raises(ClientError, match=r"missing\.png cannot be read \(No such file"):
        speaker.says(200, ANSWERED).predict([b"a", tmp_path / "missing.png"])
    assert not speaker.asked


# --- the command ----------------------------------------------------------------------------------------------------


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a copy of the client's file where nothing but the standard library can be imported."""
    shutil.copy(client.__file__, folder / "client.py")
    command = [sys.executable, "-I", "-S", "client.py", *arguments]
    return subprocess.run(command, cwd=folder, env={}, capture_output=True, text=True)


def test_alone_on_another_machine_it_prints_the_most_probable_classes(speaker: Speaker, tmp_path: Path) -> None:
    speaker.says(200, {"predictions": [{"ant": 0.05, "bee": 0.7, "cat": 0.25}]})
    (tmp_path / "image.png").write_bytes(b"a")
    done = run(tmp_path, "--url", speaker.url, "--top", "2", "image.png")
    assert (done.returncode, done.stdout) == (0, "image.png: bee 0.700, cat 0.250\n"), done.stderr


def test_as_json_it_prints_everything(speaker: Speaker, tmp_path: Path) -> None:
    speaker.says(200, ANSWERED)
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"a")
    done = run(tmp_path, "--url", speaker.url, "--json", "a.png", "b.png")
    assert [row["image"] for row in json.loads(done.stdout)] == ["a.png", "b.png"]
    assert [row["probabilities"] for row in json.loads(done.stdout)] == ANSWERED["predictions"]
    assert [row["class_name"] for row in json.loads(done.stdout)] == ["bee", "ant"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.png"], "missing.png cannot be read (No such file or directory)"),
        (["--top", "0", "image.png"], "argument --top"),
        (["--url", "nowhere", "image.png"], "No model answers at nowhere"),
        ([], "IMAGE"),
    ],
)
def test_what_the_user_can_mend_ends_with_two_and_a_sentence(tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "image.png").write_bytes(b"a")
    done = run(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr and "Traceback" not in done.stderr
