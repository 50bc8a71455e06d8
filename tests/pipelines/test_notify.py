import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pipelines.notify import WEBHOOK, tell

LOGGER = logging.getLogger("nightly")


class Webhook(BaseHTTPRequestHandler):
    """Takes messages."""

    received: list[object]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).received.append((self.path, self.headers["Content-Type"], body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """A webhook on loopback; what it received."""
    Webhook.received = []
    with HTTPServer(("127.0.0.1", 0), Webhook) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv(WEBHOOK, f"http://127.0.0.1:{server.server_port}/services/secret")
        yield Webhook.received
        server.shutdown()
        thread.join()


def test_a_message_is_logged_and_posted(webhook: list[object], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        tell("Version 3 was refused: few-shot fell by 12 points.", LOGGER)
    assert webhook == [
        ("/services/secret", "application/json", {"text": "Version 3 was refused: few-shot fell by 12 points."})
    ]
    assert caplog.messages == ["Version 3 was refused: few-shot fell by 12 points."]


def test_without_a_webhook_it_is_a_log_line(
    monkeypatch: pytest.MonkeyPatch, webhook: list[object], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(WEBHOOK)
    with caplog.at_level("INFO"):
        tell("done", LOGGER)
    assert caplog.messages == ["done"] and webhook == []


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/secret", "ftp://example/secret", "secret"])
def test_a_webhook_that_fails_costs_a_warning_that_does_not_tell_its_address(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, address: str
) -> None:
    monkeypatch.setenv(WEBHOOK, address)
    with caplog.at_level("INFO"):
        tell("done", LOGGER)
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert WEBHOOK in caplog.messages[1] and "secret" not in caplog.messages[1]
