"""A home and the world in network namespaces of their own, joined by one cable; faults are nftables rules.

Nothing of it touches this machine's own network. A thread that has entered a namespace (setns(2)) stays in it, and
so do the threads and processes that it starts: probes and servers run there as they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import trustme

from tests.helpers.command import enter_network
from tests.servers import Certificate, Certificates, Dovecot

T = TypeVar("T")

HOME, PROVIDER, CONTROL, RESOLVER, PORTAL = (f"10.77.0.{n}" for n in range(1, 6))
HOME6, PROVIDER6, CONTROL6 = (f"fd77::{n}" for n in range(1, 4))
TRUTH = {"one.one.one.one": "1.1.1.1", "dns.quad9.net": "9.9.9.9", "dns.google": "8.8.8.8"}
"""What every resolver should say of the names that the guard asks for."""
MAIL, MAIL6, CONTROL_NAME = "imap.provider.test", "imap6.provider.test", "control.test"


def command(*words: str) -> None:
    """Run a command that must work."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stderr)


class Namespace:
    """A network namespace, with a thread in it that does what it is given, one thing after the other."""

    MARK = "root"

    def __init__(self, name: str) -> None:
        self.name = name
        self.prefix = ("ip", "netns", "exec", name)
        command("ip", "netns", "add", name)
        self._thread = ThreadPoolExecutor(1, initializer=self._enter)
        self.run(command, "ip", "link", "set", "lo", "up")

    def _enter(self) -> None:
        enter_network(f"/run/netns/{self.name}")

    def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do it in the namespace."""
        return self._thread.submit(work, *arguments).result()

    def run_async(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine in an event loop in the namespace."""
        return self.run(lambda: asyncio.run(work()))

    def nft(self, *rules: str) -> None:
        """Give commands to nftables. From any thread."""
        command(*self.prefix, "nft", "; ".join(rules))

    def close(self) -> None:
        """Leave nothing of it."""
        self._thread.shutdown()
        command("ip", "netns", "delete", self.name)
        shutil.rmtree(f"/etc/netns/{self.name}", ignore_errors=True)


class Issued(Certificates):
    """Certificates for the names of this world."""

    def __init__(self, directory: Path, *more: str) -> None:
        self._directory = directory
        known, unknown = trustme.CA(), trustme.CA()
        self.ca_file = directory / "ca.pem"
        known.cert_pem.write_to_path(self.ca_file)
        names = ("localhost", "127.0.0.1", PROVIDER, PROVIDER6, MAIL, MAIL6, *more)
        self.server = self._keep("server", known.issue_cert(*names))
        self.control = self._keep("control", known.issue_cert(CONTROL_NAME))
        self.portal = self._keep("portal", unknown.issue_cert("portal.test", CONTROL_NAME, MAIL))


class FarDovecot(Dovecot):
    """Dovecot on the provider's addresses, and on the loopback of its namespace."""

    def _configure(self) -> None:
        super()._configure()
        self._config.write_text(
            self._config.read_text().replace(
                "listen = 127.0.0.1\n", f"listen = 127.0.0.1, {PROVIDER}, {PROVIDER6}\n"
            )
        )


class IsolatedNetwork:
    """`home` probes what is in `far`: a provider with a real Dovecot, a control, maybe a resolver.

    The provider's certificate is good for `names` too.
    """

    def __init__(self, folder: Path, *names: str) -> None:
        self.folder = folder
        self.certificates = Issued(folder, *names)
        self._stack = contextlib.ExitStack()
        token = secrets.token_hex(4)
        try:
            self.home = self._namespace(f"mwh-{token}")
            self.far = self._namespace(f"mwf-{token}")
            self._connect(token)
            self.dovecot: Dovecot = self.far.run(FarDovecot, folder / "dovecot", self.certificates)
            self._stack.callback(lambda: self.far.run(self.dovecot.stop))
            self.far.run(self.dovecot.start)
            self.serve(CONTROL, 443, self.certificates.control)
            self.serve(CONTROL6, 443, self.certificates.control)
        except BaseException:
            self.close()
            raise

    def _namespace(self, name: str) -> Namespace:
        made = Namespace(name)
        self._stack.callback(made.close)
        return made

    def _connect(self, token: str) -> None:
        near, far = f"mwa{token}", f"mwb{token}"
        ends = (
            (self.home, near, [HOME], [HOME6]),
            (self.far, far, [PROVIDER, CONTROL, RESOLVER, PORTAL], [PROVIDER6, CONTROL6]),
        )
        command(
            "ip", "link", "add", near, "netns", self.home.name, "type", "veth", "peer", far, "netns", self.far.name
        )
        for space, link, four, six in ends:
            command("ip", "-n", space.name, "link", "set", link, "up")
            for address in four:
                command("ip", "-n", space.name, "address", "add", f"{address}/24", "dev", link)
            for address in six:
                command("ip", "-n", space.name, "address", "add", f"{address}/64", "dev", link, "nodad")
        self.far.nft(
            "table inet faults { chain input { type filter hook input priority 0; }; "
            "chain output { type filter hook output priority 0; }; "
            "chain before { type nat hook prerouting priority -100; }; }"
        )

    def fault(self, *rules: str) -> None:
        """Add rules at the far end: "input ..." for what comes from home, "output ..." for the way back."""
        self.far.nft(*(f"add rule inet faults {rule}" for rule in rules))

    def clear_faults(self) -> None:
        """Take all faults away."""
        self.far.nft("flush table inet faults")

    def cut_line(self) -> None:
        """The line is dead: nothing comes through any more."""
        self.fault("input drop", "output drop")

    def serve(self, host: str, port: int, certificate: Certificate) -> None:
        """Answer with TLS, and hang up."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.chain, certificate.key)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = self.far.run(lambda: socket.create_server((host, port), family=family))
        ending = threading.Event()

        def serve() -> None:
            while True:
                connection, _ = listener.accept()
                with connection:
                    if ending.is_set():
                        return
                    connection.settimeout(2)
                    with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True):
                        pass

        thread = threading.Thread(target=serve)
        thread.start()

        def end() -> None:
            self.clear_faults()
            ending.set()
            self.far.run(lambda: socket.create_connection((host, port)).close())
            thread.join()
            listener.close()

        self._stack.callback(end)

    @contextlib.contextmanager
    def resolver(self, names: Mapping[str, str], *more: str) -> Iterator[None]:
        """A real dnsmasq that knows these names, one address each or several with commas; "#" is every name.

        `more` are lines of dnsmasq.conf(5).
        """
        lines = ["port=53", "no-hosts", "no-resolv", f"listen-address={RESOLVER}", "bind-interfaces", "user=root"]
        lines += [f"address=/{name}/{a}" for name, addresses in names.items() for a in addresses.split(",")]
        config = self.folder / "dnsmasq.conf"
        config.write_text("".join(f"{line}\n" for line in (*lines, *more)))
        words = [
            shutil.which("dnsmasq") or "/usr/sbin/dnsmasq",
            "--keep-in-foreground",
            "--pid-file",
            f"--conf-file={config}",
        ]
        server = self.far.run(lambda: subprocess.Popen(words, stderr=subprocess.PIPE, text=True))
        try:
            assert server.stderr is not None
            for line in server.stderr:
                if "started" in line:
                    break
            yield
        finally:
            server.terminate()
            server.communicate()

    def resolv_conf(self) -> None:
        """Let programs that run in `home` ask the resolver."""
        folder = Path("/etc/netns", self.home.name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "resolv.conf").write_text(f"nameserver {RESOLVER}\noptions timeout:1 attempts:1\n")

    def close(self) -> None:
        """Stop everything and leave nothing."""
        self._stack.close()
        with contextlib.suppress(OSError):
            os.rmdir("/etc/netns")  # noqa: PTH106
