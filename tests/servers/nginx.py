"""nginx: a webmail's front page, and what it says when it is down."""

from __future__ import annotations

import gzip
import os
import socket
import ssl
from pathlib import Path

from tests.helpers.patience import PATIENCE
from tests.servers.certificates import Certificate, Certificates
from tests.servers.program import HOST, Program, free_port

NGINX = Path("/usr/sbin/nginx")
LOGIN = "<html><title>Webmail</title><form>Password: <input type=password></form>" + " " * 2000 + "Città</html>"

NGINX_CONF = """\
{user}
daemon off;
worker_processes 1;
pid {directory}/pid;
error_log {directory}/log info;
events {{
  worker_connections 64;
}}
http {{
  access_log {directory}/access;
  client_body_temp_path {directory}/tmp-body;
  proxy_temp_path {directory}/tmp-proxy;
  fastcgi_temp_path {directory}/tmp-fastcgi;
  uwsgi_temp_path {directory}/tmp-uwsgi;
  scgi_temp_path {directory}/tmp-scgi;
  default_type text/html;
  root {directory}/pages;
  limit_req_zone $binary_remote_addr zone=probes:64k rate=1r/m;
  server {{
    listen {host}:{port} ssl;
    ssl_certificate {certificate.chain};
    ssl_certificate_key {certificate.key};
    ssl_protocols TLSv1.2 TLSv1.3;
    {settings}
    location ~ "^/login.html;" {{ try_files /login.html =404; }}
    location = /latin {{ charset iso-8859-1; try_files /latin.html =404; }}
    location = /compressed {{ gzip on; charset utf-8; try_files /login.html =404; }}
    location = /bomb {{ add_header Content-Encoding gzip; try_files /bomb.gz =404; }}
    location = /moved {{ return 302 /login.html?session=abc; }}
    location = /elsewhere {{ return 302 "https://localhost:{port}/login.html;jsessionid=abc?session=abc"; }}
    location = /nowhere {{ return 302 https://does-not-exist.invalid/; }}
    location = /refuses {{ return 307 https://localhost:{dead}/; }}
    location = /plain {{ return 301 http://{host}/login.html; }}
    location = /circle {{ return 302 /circle; }}
    location = /cookie {{
      if ($http_cookie = "seen=yes") {{ rewrite ^ /login.html last; }}
      add_header Set-Cookie seen=yes;
      return 302 /cookie;
    }}
    location = /limited {{ limit_req zone=probes; limit_req_status 429; try_files /login.html =404; }}
    location = /private {{ auth_basic mail; auth_basic_user_file {directory}/users; }}
    location = /dead {{ proxy_pass http://{host}:{dead}; }}
    location = /slow {{ proxy_pass http://{host}:{silent}; proxy_read_timeout 1s; }}
    location = /maintenance {{
      add_header Retry-After 1800 always;
      return 503 "<title>Sito in manutenzione</title>";
    }}
  }}
}}
"""


class Nginx(Program):
    """HTTPS on `port`; `settings` go into the server's configuration, above the pages."""

    def __init__(self, directory: Path, certificates: Certificates) -> None:
        pages = directory / "pages"
        pages.mkdir(parents=True, exist_ok=True)
        (pages / "login.html").write_text(LOGIN, encoding="utf-8")
        (pages / "latin.html").write_text(LOGIN, encoding="iso-8859-1")
        (pages / "bomb.gz").write_bytes(gzip.compress(b"\0" * 64 * 1024 * 1024, 9))
        (directory / "users").write_text("mario:{PLAIN}secret\n")
        self.port, self._dead, self._silent = free_port(), free_port(), free_port()
        self._upstream: socket.socket | None = None
        self._config = directory / "nginx.conf"
        self._certificate = certificates.server
        command = (str(NGINX), "-c", str(self._config), "-e", str(directory / "log"))
        super().__init__(directory, command, {self.port: True})
        self.configure()

    def configure(self, settings: str = "", certificate: Certificate | None = None) -> None:
        """Write the configuration; a running server is restarted for it."""
        self._config.write_text(
            NGINX_CONF.format(
                directory=self.directory,
                host=HOST,
                port=self.port,
                dead=self._dead,
                silent=self._silent,
                certificate=certificate or self._certificate,
                settings=settings,
                user="user nobody nogroup;" if os.geteuid() == 0 else "",
            )
        )
        if self._process is not None:
            self.restart()

    def start(self) -> None:
        """Start it, and an upstream that takes connections and never answers."""
        self._upstream = socket.create_server((HOST, self._silent))
        super().start()

    def stop(self) -> None:
        """Stop both."""
        super().stop()
        if self._upstream is not None:
            self._upstream.close()

    def _serves(self, port: int, tls: bool) -> bool:
        """Whether it shakes hands: it says nothing before it is asked."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            with socket.create_connection((HOST, port), timeout=PATIENCE) as plain, context.wrap_socket(plain):
                return True
        except OSError:
            return False
