"""What gets notifications: a webhook receiver over real sockets that can be closed and opened again."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.servers import free_port


class Webhook:
    """Takes what Apprise posts to json://; `status` is what it answers. GET counts as a ping."""

    def __init__(self) -> None:
        self.port = free_port()
        self.received: list[dict[str, Any]] = []
        self.refused: list[dict[str, Any]] = []
        self.pings: list[str] = []
        self.status = 200
        self.answers: Callable[[dict[str, Any]], int] = lambda _: self.status
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        """The address with a secret in its path."""
        return f"json://127.0.0.1:{self.port}/canary-7f3a"

    def open(self) -> Webhook:
        """Begin to listen."""
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                reported = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status = webhook.answers(reported)
                (webhook.received if status == 200 else webhook.refused).append(reported)
                self._answer(status)

            def do_GET(self) -> None:
                webhook.pings.append(self.path)
                self._answer(webhook.status)

            def _answer(self, status: int) -> None:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def close(self) -> None:
        """Refuse connections."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    @property
    def titles(self) -> list[str]:
        """What it received, in order."""
        return [message["title"] for message in self.received]
