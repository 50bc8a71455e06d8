"""A way to a server that takes its time."""

import socket
import threading
import time
from contextlib import suppress
from typing import Self

from running import HOST

PIECE = 65536  # bytes


class Crawling:
    """Listens on a port and passes everything on to another one, late.

    Args:
        port: of the real server.
        seconds: between a request and its way to the server.
    """

    def __init__(self, port: int, seconds: float) -> None:
        self.requests: list[str] = []
        self._port, self._seconds = port, seconds
        self._listening = socket.create_server((HOST, 0))
        self._open: list[socket.socket] = []

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://{HOST}:{self._listening.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for connection in [self._listening, *self._open]:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for it
            connection.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                self._open.append(client)
                self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        real = socket.create_connection((HOST, self._port))
        self._open.append(real)
        threading.Thread(target=self._pass, args=(client, real, True), daemon=True).start()
        threading.Thread(target=self._pass, args=(real, client, False), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, late: bool) -> None:
        with suppress(OSError):
            while piece := source.recv(PIECE):
                words = piece.split(b" ", 2)
                if late and words[0] in (b"GET", b"POST", b"PUT"):
                    self.requests.append(b" ".join(words[:2]).decode())
                    time.sleep(self._seconds)
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)
