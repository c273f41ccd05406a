"""Real servers for the tests that ask for them, and targets that name those servers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, TypeVar

import hypothesis
import pytest

from tests.helpers.marks import MARKS, marks_of, running
from tests.helpers.packing import WorkPacking
from tests.helpers.paths import MEMORY, TESTS
from tests.helpers.patience import tolerate_stalls
from tests.helpers.places import (  # noqa: F401 - fixtures
    _ledgers_where_asked,
    in_postgresql,
    place,
    places_in_postgresql,
    postgresql,
    postgresql_place,
    postgresql_template,
    sqlite_place,
)
from tests.helpers.recorded_outage import bundle, recorded_outage, trust  # noqa: F401 - fixtures
from tests.helpers.requirements import need
from tests.helpers.seed import SEED
from tests.helpers.targets import Targets
from tests.servers import (
    DOVECOT,
    POSTFIX,
    ROOTS,
    Certificates,
    Courier,
    Cyrus,
    Dovecot,
    Exim,
    OpenSmtpd,
    Postfix,
    server_folder,
)

# No test is timed: a machine that is busy is no defect.
hypothesis.settings.register_profile("untimed", hypothesis.settings(), deadline=None)
hypothesis.settings.register_profile("fast", hypothesis.settings.get_profile("untimed"), max_examples=25)
hypothesis.settings.load_profile("fast" if "MAILWATCH_TEST_FAST" in os.environ else "untimed")

LONGEST_FIRST = (
    "browser/test_pages", "integration/evidence/test_evidence", "integration/evidence/test_report_cases",
    "campaign/test_campaign", "integration/probes/test_network_faults", "unit/monitor/test_self_check",
    "integration/probes/test_other_servers", "integration/metrics/test_grafana",
    "integration/monitor/test_roundtrip", "integration/probes/test_roundtrip", "e2e/test_clock_steps",
    "unit/web/test_access", "integration/evidence/test_mutations", "e2e/test_startup", "chaos/test_chaos",
    "e2e/test_end_to_end", "integration/guard/test_expiry", "unit/cli/test_demo_provider", "e2e/test_notify",
    "e2e/test_reload", "e2e/test_watched_targets", "unit/store/test_recorded_targets",
    "unit/probes/test_hostile_servers", "unit/probes/test_cleartext", "integration/probes/test_dialogues",
    "e2e/test_hostile_questions", "e2e/test_backup", "integration/cli/test_probe",
    "unit/evidence/test_claims", "integration/metrics/test_prometheus", "unit/repository/test_docs",
    "unit/repository/test_patterns", "e2e/test_resource_limits", "contracts/test_contracts",
    "integration/analysis/test_incidents", "integration/evidence/test_pdf_signature",
    "integration/evidence/test_joint", "integration/evidence/test_periods", "integration/cli/test_init",
    "e2e/test_watchdog", "integration/evidence/test_dishonest_operator",
)  # fmt: skip
"""Files by how long they take: no worker is left alone with a long one at the end."""


def pytest_configure(config: pytest.Config) -> None:
    """Make the marks known. Have the folders of the tests in memory, unless another place is named."""
    if MEMORY:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
    for name, meaning in MARKS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
    config.addinivalue_line("markers", "stalls(module): is about stalls, and keeps the real limit of that module")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> WorkPacking | None:
    """Give each worker tests that share what takes long to make."""
    return WorkPacking(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_report_header() -> str:
    """Say by which seed a failure can be repeated."""
    return f"what is random is drawn from MAILWATCH_TEST_SEED={SEED}"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logstart() -> None:
    """Between two tests none runs."""
    running(None)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test may start what its marks say, and nothing else."""
    running(item)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by what it reaches. Put the long files first, the longest before all."""
    for item in items:
        if isinstance(item, pytest.Function):
            for mark in sorted(marks_of(item)):
                item.add_marker(mark)
            if in_postgresql() and item.get_closest_marker("sqlite"):
                # Here, and not in a fixture of the test: those of its module are made before.
                item.add_marker(pytest.mark.skip(reason="about SQLite's files"))
    order = {TESTS / f"{name}.py": number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


@pytest.fixture(autouse=True)
def _stalls_tolerated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = request.node.get_closest_marker("stalls")
    tolerate_stalls(monkeypatch, kept.args if kept else ())


@pytest.fixture(scope="session")
def certificates() -> Iterator[Certificates]:
    """Certificates of a known authority and of one that nobody knows."""
    with server_folder() as folder:
        yield Certificates(folder)


@pytest.fixture(scope="session")
def dovecot(certificates: Certificates) -> Iterator[Dovecot]:
    """A Dovecot that all tests share: leave it as it was."""
    need(DOVECOT)
    with server_folder() as folder, Dovecot(folder, certificates).running() as server:
        yield server


@pytest.fixture
def own_dovecot(certificates: Certificates) -> Iterator[Dovecot]:
    """A Dovecot of the test's own, to stop and to break."""
    need(DOVECOT)
    with server_folder() as folder, Dovecot(folder, certificates).running() as server:
        yield server


@pytest.fixture(scope="session")
def postfix(certificates: Certificates, dovecot: Dovecot) -> Iterator[Postfix]:
    """A Postfix that all tests share, with the users of `dovecot`."""
    need(POSTFIX, root=True)
    with server_folder() as folder, Postfix(folder, certificates, dovecot.auth_socket).running() as server:
        yield server


R = TypeVar("R", Cyrus, Courier, Exim, OpenSmtpd)


@contextlib.contextmanager
def _in_its_root(server: type[R], certificates: Certificates) -> Iterator[R]:
    need(ROOTS / server.__name__.lower(), root=True)
    with server_folder() as folder, server(folder, certificates).running() as running:
        yield running


@pytest.fixture(scope="session")
def cyrus(certificates: Certificates) -> Iterator[Cyrus]:
    """A Cyrus that all tests share: leave it as it was."""
    with _in_its_root(Cyrus, certificates) as server:
        yield server


@pytest.fixture
def own_cyrus(certificates: Certificates) -> Iterator[Cyrus]:
    """A Cyrus of the test's own, to stop and to break."""
    with _in_its_root(Cyrus, certificates) as server:
        yield server


@pytest.fixture(scope="session")
def courier(certificates: Certificates) -> Iterator[Courier]:
    """A Courier that all tests share: leave it as it was."""
    with _in_its_root(Courier, certificates) as server:
        yield server


@pytest.fixture
def own_courier(certificates: Certificates) -> Iterator[Courier]:
    """A Courier of the test's own, to stop and to break."""
    with _in_its_root(Courier, certificates) as server:
        yield server


@pytest.fixture(scope="session")
def exim(certificates: Certificates) -> Iterator[Exim]:
    """An Exim that all tests share: leave it as it was."""
    with _in_its_root(Exim, certificates) as server:
        yield server


@pytest.fixture
def own_exim(certificates: Certificates) -> Iterator[Exim]:
    """An Exim of the test's own, to stop and to break."""
    with _in_its_root(Exim, certificates) as server:
        yield server


@pytest.fixture(scope="session")
def opensmtpd(certificates: Certificates) -> Iterator[OpenSmtpd]:
    """An OpenSMTPD that all tests share: leave it as it was."""
    with _in_its_root(OpenSmtpd, certificates) as server:
        yield server


@pytest.fixture
def own_opensmtpd(certificates: Certificates) -> Iterator[OpenSmtpd]:
    """An OpenSMTPD of the test's own, to stop and to break."""
    with _in_its_root(OpenSmtpd, certificates) as server:
        yield server


@pytest.fixture(scope="session")
def targets(certificates: Certificates) -> Targets:
    """The maker of targets."""
    return Targets(certificates)
