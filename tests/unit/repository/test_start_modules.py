"""What a command loads before it does anything: modules are counted, not seconds."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

REPORTS = {"pyhanko", "typst", "pikepdf", "mailwatch.evidence.verify"}
"""What only reports need."""
ON_USE = {"apprise", "httpx", "dns", "asn1crypto", "rfc3161_client", "dkim", "psycopg", "alembic"}
"""What messages, grants, failed names, tokens, round trips, PostgreSQL and the first start need."""
SERVICE = {"fastapi", "uvicorn", "starlette", "uvloop", "apscheduler", "jinja2", "prometheus_client"}
"""What only the running service needs."""
LEDGER = {"sqlalchemy", "pydantic", "yaml", "cryptography", "mailwatch.config", "mailwatch.store"}
"""What a command needs that reads the config or the ledger."""


def loaded_by(verb: str) -> set[str]:
    """The modules and packages that a command has loaded when its help is printed."""
    program = f"import sys; sys.argv[1:] = {verb.split()!r}\nfrom mailwatch.__main__ import main\n" + (
        "try: main()\nexcept SystemExit: pass\nfinally: print('modules:', *sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    names = output.partition("modules: ")[2].split()
    assert "mailwatch.cli" in names
    return {*names, *(name.split(".")[0] for name in names)}


@pytest.mark.parametrize(
    ("verb", "not_needed"),
    [
        ("--help", REPORTS | ON_USE | SERVICE | LEDGER | {"asyncio", "rich"}),
        ("outages --help", REPORTS | ON_USE | SERVICE),
        ("availability --help", REPORTS | ON_USE | SERVICE),
        ("run --help", REPORTS | ON_USE),
        ("report --help", {"pyhanko", "typst"} | ON_USE | SERVICE),
    ],
)
def test_a_command_does_not_load_what_it_does_not_need(verb: str, not_needed: set[str]) -> None:
    assert sorted(not_needed & loaded_by(verb)) == []


def test_a_command_rarely_searches_for_reference_cycles() -> None:
    program = (
        "import gc, sys; sys.argv[1:] = ['--version']\nfrom mailwatch.__main__ import main\n"
        "try: main()\nexcept SystemExit: print(gc.get_threshold()[0])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) >= 20_000


def test_a_benchmark_starts_commands_with_compiled_modules() -> None:
    program = "import benchmarks, os; print('PYTHONDONTWRITEBYTECODE' in os.environ)"
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False"]


def test_the_service_loads_the_rest_once_it_serves() -> None:
    program = (
        "import asyncio, sys, mailwatch.cli.run\n"
        "from mailwatch.monitor.late_modules import load_late_modules\n"
        "asyncio.run(load_late_modules()); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    late = {"httpx", "dns.asyncresolver", "asn1crypto", "rfc3161_client", "mailwatch.setup.search"}
    assert sorted(late - set(done.stdout.split())) == []
