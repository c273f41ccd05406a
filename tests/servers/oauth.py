"""An OAuth 2 authorization server on loopback: it grants at once, rotates refresh tokens, and breaks on demand."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.helpers.patience import PATIENCE

CLIENT_ID = "mailwatch-of-the-tests"
CLIENT_SECRET = "canary-client-secret-81c2"


class AuthorizationServer:
    """Endpoints `/authorize`, `/token`, `/device` (RFC 6749, 7636, 8628) and `/introspect` (RFC 7662).

    `fault` is what the token endpoint does instead of its work: "" nothing, "500", "slow" (answers once `released`
    is set), "garbage", "endless", "error CODE", "redirect"; `down()` closes the port. `deny` makes the owner say
    no. `pending` is how often the device flow says that the owner has not typed yet. Each refresh token is good
    once. `asked` are the grant types asked for.
    """

    def __init__(self, user: str) -> None:
        self.user = user
        self.fault = ""
        self.deny = False
        self.pending = 1
        self.life = 3600
        self.asked: list[str] = []
        self.queries: list[dict[str, str]] = []
        self.issued: list[str] = []
        """All secrets that were ever handed out."""
        self.refresh: set[str] = set()
        self.access: set[str] = set()
        self.reject: set[str] = set()
        """Access tokens that introspection calls inactive."""
        self.codes: dict[str, dict[str, str]] = {}
        self.waiting, self.released = threading.Event(), threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self.port = self._server.server_address[1]
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def section(self) -> dict[str, str]:
        """The oauth2 section of a config."""
        return {
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "device_endpoint": f"{self.url}/device",
            "client_id": CLIENT_ID,
            "client_secret_env": "MAILWATCH_TEST_CLIENT",
            "scope": "mail offline",
        }

    def up(self) -> None:
        """Serve, on the same port as before."""
        if self._thread is None:
            if self._server.socket.fileno() < 0:
                self._server = _Server(("127.0.0.1", self.port), _Handler)
                self._server.owner = self
            self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
            self._thread.start()

    def down(self) -> None:
        """Refuse connections."""
        if self._thread is not None:
            self.released.set()
            self._server.shutdown()
            self._thread.join()
            self._thread = None
            self._server.server_close()
            self.waiting, self.released = threading.Event(), threading.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator[Self]:
        """Serving, and stopped in any case."""
        self.up()
        try:
            yield self
        finally:
            self.down()
            self._server.server_close()

    def granted(self) -> str:
        """A refresh token, as a login would give it."""
        return self._secret("refresh", self.refresh)

    def revoke(self) -> None:
        """The owner takes the grant back: every token is dead."""
        self.refresh.clear()
        self.access.clear()

    def _secret(self, kind: str, among: set[str]) -> str:
        token = f"canary-{kind}-{secrets.token_urlsafe(400 if kind == 'access' else 24)}"
        among.add(token)
        self.issued.append(token)
        return token

    def tokens(self) -> dict[str, Any]:
        """A successful answer (RFC 6749, section 5.1)."""
        return {
            "access_token": self._secret("access", self.access),
            "refresh_token": self._secret("refresh", self.refresh),
            "token_type": "Bearer",
            "expires_in": self.life,
        }


class _Server(ThreadingHTTPServer):
    owner: AuthorizationServer
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no matter."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        owner, target = self.server.owner, urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(target.query).items()}
        owner.queries.append(query)
        if target.path != "/authorize" or query.get("client_id") != CLIENT_ID:
            return self._say(404, {})
        answer = {"state": query["state"]}
        if owner.deny:
            answer |= {"error": "access_denied", "error_description": "the owner said no"}
        else:
            answer["code"] = owner._secret("code", set())
            owner.codes[answer["code"]] = query
        self.send_response(302)
        self.send_header("Location", f"{query['redirect_uri']}?{urlencode(answer)}")
        self.send_header("Content-Length", "0")
        self.end_headers()
        return None

    def do_POST(self) -> None:
        owner = self.server.owner
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        form = {key: values[0] for key, values in parse_qs(body).items()}
        match urlsplit(self.path).path:
            case "/introspect":
                token = form.get("token", "")
                active = token in owner.access and token not in owner.reject
                self._say(200, {"active": active, **({"email": owner.user} if active else {})})
            case "/device":
                code = owner._secret("device", set())
                owner.codes[code] = {}
                self._say(
                    200,
                    {
                        "device_code": code,
                        "user_code": "ABCD-EFGH",
                        "verification_uri": f"{owner.url}/type-here",
                        "expires_in": 60,
                        "interval": 0.05,
                    },
                )
            case "/token":
                owner.asked.append(form.get("grant_type", ""))
                self._token(owner, form)
            case _:
                self._say(404, {})

    def _token(self, owner: AuthorizationServer, form: dict[str, str]) -> None:
        match owner.fault.split():
            case ["500"]:
                return self._say(500, {"error": "server_error"})
            case ["slow"]:
                owner.waiting.set()
                owner.released.wait(60)
            case ["garbage"]:
                return self._raw(200, b"<html>maintenance of " + form.get("refresh_token", "").encode())
            case ["endless"]:
                return self._endless()
            case ["redirect"]:
                self.send_response(307)
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.end_headers()
                return None
            case ["error", code]:
                words = f"{code} because of {form.get('refresh_token', '')}"
                return self._say(400, {"error": code, "error_description": words})
        if form.get("client_id") != CLIENT_ID or form.get("client_secret") != CLIENT_SECRET:
            return self._say(401, {"error": "invalid_client"})
        match form.get("grant_type"):
            case "refresh_token":
                if form["refresh_token"] not in owner.refresh:
                    return self._say(400, {"error": "invalid_grant", "error_description": "Token revoked"})
                owner.refresh.discard(form["refresh_token"])
            case "authorization_code":
                asked = owner.codes.pop(form["code"], {})
                digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
                challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
                bound = {"code_challenge_method": "S256", "code_challenge": challenge}
                bound["redirect_uri"] = form["redirect_uri"]
                if {key: asked.get(key) for key in bound} != bound:
                    return self._say(400, {"error": "invalid_grant"})
            case _:
                if form.get("device_code") not in owner.codes:
                    return self._say(400, {"error": "expired_token"})
                if owner.deny:
                    return self._say(400, {"error": "access_denied"})
                if owner.pending:
                    owner.pending -= 1
                    return self._say(400, {"error": "authorization_pending"})
        return self._say(200, owner.tokens())

    def _endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        deadline = time.monotonic() + PATIENCE
        with contextlib.suppress(OSError):
            while time.monotonic() < deadline:
                self.wfile.write(b" " * 65536)

    def _say(self, status: int, answer: dict[str, Any]) -> None:
        self._raw(status, json.dumps(answer).encode())

    def _raw(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
