"""A timestamp authority: `openssl ts` behind HTTP."""

from __future__ import annotations

import base64
import contextlib
import http.server
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.servers.program import HOST

CONF = """\
[tsa]
default_tsa = authority
[authority]
serial = {folder}/serial
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
accuracy = secs:1
clock_precision_digits = 3
tsa_name = yes
ess_cert_id_alg = sha256
"""

CA = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n"
AUTHORITY_S = "extendedKeyUsage=critical,timeStamping\nkeyUsage=critical,digitalSignature\n"
SERVER_S = "extendedKeyUsage=serverAuth\nkeyUsage=critical,digitalSignature\n"


class Authority:
    """Answers queries at `url`. `root` is its authority's certificate, `chain` those between, `signer` its own.

    `broken` is what it does instead: "dead" (hangs up), "500", "garbage", "endless", "slow" (a byte now and then),
    "redirect" (to itself), "other" (a token of another query). `login` demands a user and a password. `with_chain`
    puts all certificates into the token, in an order that strict DER does not allow.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.broken = ""
        self.login = ""
        self.with_chain = False
        self.asked = 0
        self.root, self.between, self.chain = folder / "root.pem", folder / "between.pem", folder / "chain.pem"
        self.signer = folder / "signer.pem"
        self._last = b""
        self._make()
        self.server = http.server.ThreadingHTTPServer((HOST, 0), self._handler())
        self.server.daemon_threads = True
        self.url = f"http://{HOST}:{self.server.server_port}/"

    @contextlib.contextmanager
    def running(self) -> Iterator[Authority]:
        """Answering in a thread of its own."""
        thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            thread.join()
            self.server.server_close()

    def answer(self, query: bytes) -> bytes:
        """Return the reply to a query, DER."""
        asked = self.folder / f"{threading.get_ident()}.tsq"
        asked.write_bytes(query)
        chain = ["-chain", str(self.chain)] if self.with_chain else []
        command = ["openssl", "ts", "-reply", "-config", str(self.folder / "tsa.cnf"), "-queryfile", str(asked)]
        command += ["-signer", str(self.signer), "-inkey", str(self.signer.with_suffix(".key")), *chain]
        return subprocess.run(command, capture_output=True, check=True).stdout

    def _make(self) -> None:
        (self.folder / "tsa.cnf").write_text(CONF.format(folder=self.folder))
        (self.folder / "serial").write_text("01\n")
        self._ask("root")
        self._ask("between")
        self._ask("signer")
        self.certify("root", CA, issuer="root")
        self.certify("between", CA, issuer="root")
        self.certify("signer", AUTHORITY_S)
        self.chain.write_bytes(self.between.read_bytes() + self.root.read_bytes())

    def _ask(self, name: str) -> None:
        ask = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        ask += ["-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/O=MailWatch tests/CN=Test {name}"]
        subprocess.run(ask, cwd=self.folder, check=True, capture_output=True)

    def certify(
        self, name: str, extensions: str, *, issuer: str = "between", request: str = "", days: int = 3650,
        serial: int | None = None,
    ) -> None:  # fmt: skip
        """Make a certificate for the key of `request`, which has its own name."""
        (self.folder / f"{name}.ext").write_text(extensions)
        by = ["-CA", f"{issuer}.pem", "-CAkey", f"{issuer}.key", "-CAcreateserial"]
        by = ["-signkey", f"{name}.key"] if name == issuer else by
        numbered = [] if serial is None else ["-set_serial", str(serial)]
        sign = [
            "openssl",
            "x509",
            "-req",
            "-in",
            f"{request or name}.csr",
            "-days",
            str(days),
            "-out",
            f"{name}.pem",
        ]
        sign += [*by, *numbered, "-extfile", f"{name}.ext"]
        subprocess.run(sign, cwd=self.folder, check=True, capture_output=True)

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        authority = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                authority.asked += 1
                query = self.rfile.read(int(self.headers["Content-Length"]))
                if authority.broken == "dead":
                    self.connection.close()
                    return
                expected = "Basic " + base64.b64encode(authority.login.encode()).decode()
                if authority.login and self.headers["Authorization"] != expected:
                    self.send_error(401)
                    return
                if authority.broken == "500":
                    self.send_error(500)
                    return
                if authority.broken == "redirect":
                    self.send_response(302)
                    self.send_header("Location", authority.url)
                    self.end_headers()
                    return
                reply = authority.answer(query)
                if authority.broken == "garbage":
                    reply = b"<html>no token here</html>"
                if authority.broken == "other":
                    reply, authority._last = authority._last, reply
                self.send_response(200)
                self.send_header("Content-Type", "application/timestamp-reply")
                self.end_headers()
                authority._last = reply
                with contextlib.suppress(OSError):
                    while authority.broken == "slow":
                        self.wfile.write(b"0")
                        time.sleep(0.2)
                    self.wfile.write(reply)
                    while authority.broken == "endless":
                        self.wfile.write(b"\0" * 4096)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler
