"""The peers, each doing the same dialogue: connect, TLS, LOGIN, EXAMINE INBOX, LOGOUT.

openssl s_time stops after the handshake: it is the limit, not a monitor.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.process import cpu_seconds
from tests.servers import HOST, free_port

BLACKBOX = "/usr/bin/prometheus-blackbox-exporter"
CHECK_IMAP = "/usr/lib/nagios/plugins/check_imap"
OPENSSL = "/usr/bin/openssl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """What the peers probe: an IMAP server with implicit TLS, and its users with their passwords."""

    port: int
    ca_file: Path
    passwords: dict[str, str]

    def account(self, number: int) -> tuple[str, str]:
        """The accounts in turn."""
        accounts = list(self.passwords.items())
        return accounts[number % len(accounts)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one peer needed. `logins` is false for what stops after the handshake."""

    name: str
    probes: int
    cpu_seconds: float
    logins: bool = True

    @property
    def per_probe(self) -> float:
        """CPU milliseconds for one probe."""
        return self.cpu_seconds / self.probes * 1000


Probe = Callable[[int], Awaitable[None]]


async def drive(count: int, rate: float, probe: Probe) -> None:
    """Run `count` probes at an even `rate` a second, as a schedule would; the first failure is raised."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            await asyncio.sleep(began + number / rate - loop.time())
            group.create_task(_within(10.0, probe(number)))


async def _within(seconds: float, probe: Awaitable[None]) -> None:
    async with asyncio.timeout(seconds):
        await probe


async def bare(lab: Lab, count: int, rate: float) -> Cost:
    """An asyncio script that keeps no record: what Python itself costs."""
    context = ssl.create_default_context(cafile=str(lab.ca_file))

    async def probe(number: int) -> None:
        user, password = lab.account(number)
        reader, writer = await asyncio.open_connection("localhost", lab.port, ssl=context)
        try:
            greeting = await reader.readline()
            assert greeting.startswith(b"* OK"), greeting
            for tag, command in enumerate((f"LOGIN {user} {password}", "EXAMINE INBOX", "LOGOUT")):
                writer.write(f"a{tag} {command}\r\n".encode())
                while not (line := await reader.readline()).startswith(b"a"):
                    assert line, f"disconnected at {command.split()[0]}"
                assert line.startswith(f"a{tag} OK".encode()), line
        finally:
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()

    began = time.process_time()
    await drive(count, rate, probe)
    return Cost(name="bare asyncio script", probes=count, cpu_seconds=time.process_time() - began)


async def check_imap(lab: Lab, count: int, rate: float) -> Cost:
    """monitoring-plugins: a process for each probe. It checks no certificate, and has the password in argv."""

    async def probe(number: int) -> None:
        user, password = lab.account(number)
        script = rf"a1 LOGIN {user} {password}\r\na2 EXAMINE INBOX\r\na3 LOGOUT\r\n"
        process = await asyncio.create_subprocess_exec(
            *(CHECK_IMAP, "-H", "localhost", "-p", str(lab.port), "-S", "-E", "-s", script, "-e", "a3 OK"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
        assert process.returncode == 0, out.decode(errors="replace")

    began = _children_seconds()
    await drive(count, rate, probe)
    return Cost(name="check_imap", probes=count, cpu_seconds=_children_seconds() - began)


async def blackbox(lab: Lab, count: int, rate: float, folder: Path) -> Cost:
    """Prometheus' blackbox exporter with a scripted dialogue, scraped as Prometheus would."""

    async def probe(number: int) -> None:
        module = number % len(lab.passwords)
        body = await _get(port, f"/probe?module=m{module}&target=localhost:{lab.port}")
        assert "\nprobe_success 1" in body, body

    async with _exporter(lab, folder) as (port, pid):
        await drive(len(lab.passwords), rate, probe)  # warm, as MailWatch is when it is measured
        began = cpu_seconds(pid)
        await drive(count, rate, probe)
        return Cost(name="blackbox_exporter", probes=count, cpu_seconds=cpu_seconds(pid) - began)


@contextlib.asynccontextmanager
async def _exporter(lab: Lab, folder: Path) -> AsyncIterator[tuple[int, int]]:
    config = folder / "blackbox.json"
    modules = {f"m{number}": _module(lab, number) for number in range(len(lab.passwords))}
    config.write_text(json.dumps({"modules": modules}))
    config.chmod(0o600)
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(BLACKBOX, f"--config.file={config}", f"--web.listen-address={HOST}:{port}", "--log.level=error")
    )
    try:
        async with asyncio.timeout(15):
            while True:
                try:
                    await _get(port, "/-/healthy")
                    break
                except OSError:
                    await asyncio.sleep(0.05)
        yield port, process.pid
    finally:
        process.terminate()
        await process.wait()


def _module(lab: Lab, number: int) -> dict[str, object]:
    user, password = lab.account(number)
    return {
        "prober": "tcp",
        "timeout": "10s",
        "tcp": {
            "preferred_ip_protocol": "ip4",
            "tls": True,
            "tls_config": {"ca_file": str(lab.ca_file), "server_name": "localhost"},
            "query_response": [
                {"expect": r"^\* OK"},
                {"send": f"a1 LOGIN {user} {password}\r"},
                {"expect": "^a1 OK"},
                {"send": "a2 EXAMINE INBOX\r"},
                {"expect": "^a2 OK"},
                {"send": "a3 LOGOUT\r"},
                {"expect": "^a3 OK"},
            ],
        },
    }


async def _get(port: int, path: str) -> str:
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {HOST}\r\n\r\n".encode())
        return (await reader.read()).decode()
    finally:
        writer.close()


def handshake(lab: Lab, seconds: int) -> Cost:
    """openssl s_time: nothing but connections and full handshakes, one after the other."""
    command = [OPENSSL, "s_time", "-connect", f"localhost:{lab.port}", "-new", "-time", str(seconds)]
    began = _children_seconds()
    done = subprocess.run(
        [*command, "-CAfile", str(lab.ca_file), "-verify", "2"], capture_output=True, text=True, check=True
    )
    used = _children_seconds() - began
    # "1234 connections in 0.56s; 2203.57 connections/user sec, ..."
    count = next(line.split()[0] for line in done.stdout.splitlines() if "connections in" in line)
    return Cost(name="openssl s_time (handshake only)", probes=int(count), cpu_seconds=used, logins=False)


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
