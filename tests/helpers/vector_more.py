"""Vectors of single bundles: what a second reading of the specification found that no vector showed."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mailwatch.analysis.availability import AvailabilityMeter
from mailwatch.evidence.bundle import pretty_json
from mailwatch.ledger.cosignature import cosigner_key
from mailwatch.ledger.entry import login_name_commitment, target_id
from mailwatch.ledger.payloads import FACT_KINDS, fact_from
from mailwatch.ledger.witness_register import RegisterStatement, mailbox_commitment
from mailwatch.model import TargetEvent
from mailwatch.times import parse_rfc3339
from tests.helpers.bundle_files import Files
from tests.helpers.joint_parts import least_pdf
from tests.helpers.ledger_factory import MINUTE, SECOND, change
from tests.helpers.vector_cases import Change, Json, in_json, put
from tests.helpers.vector_ledger import BEGIN, VectorLedger

WITNESS = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
MAILBOX = "mario.rossi@example.org"
NAME_KEY = bytes(range(32))


def _rounded(ledger: VectorLedger) -> None:
    ledger.rounding = itertools.cycle((0, 0, -1, 0, 0, 0, -1, -1, 0, 0, -1))


def _run(ledger: VectorLedger) -> Files:
    """Windows begin and end amid runs of good observations."""
    _rounded(ledger)
    ledger.watch(TargetEvent.BEGIN)
    ledger.observe("+" * 12 + "?" + "+" * 9 + "---" + "+" * 7)
    ledger.watch(TargetEvent.CONTINUE)
    ledger.observe("+" * 12)
    return ledger.period(3 * MINUTE + 30 * SECOND, 37 * MINUTE + 10 * SECOND)


def _pairwise(files: Files, _key: Ed25519PrivateKey) -> Files:
    """The availability that follows if each pair of good observations makes a segment of its own."""
    stated = json.loads(files["period.json"])
    start, end = (parse_rfc3339(stated["window"][key]) for key in ("from", "to"))
    (one,), (target,) = stated["availability"], stated["targets"]
    meter = AvailabilityMeter(start, end, interval=target["interval"], infer=True)
    for line in files["entries.jsonl"].splitlines():
        entry = json.loads(line)
        if entry["header"]["kind"] in FACT_KINDS:
            meter.feed(fact_from(entry["header"]["kind"], entry["payload"]))
    made = meter.result().as_json() | {key: one[key] for key in ("mttr", "mtbf")}
    assert made != {key: value for key, value in one.items() if key != "target"}
    stated["availability"] = [{"target": one["target"], **made}]
    return files | {"period.json": pretty_json(stated)}


def _with_report(ledger: VectorLedger) -> Files:
    ledger.observe("++---++")
    files = ledger.outage()
    return files | {"report.pdf": least_pdf(files["outage.json"], "outage.json")}


def _twice_lost(ledger: VectorLedger) -> Files:
    for _ in range(2):
        ledger.observe("+++")
        ledger.lose()
    ledger.observe("+" * 5)
    ledger.sign()
    ledger.observe("+---++")
    return ledger.outage()


def _statement(ledger: str, name: str = MAILBOX) -> str:
    seconds = BEGIN // 1000
    return RegisterStatement(
        witness=cosigner_key(WITNESS.public_key()).name, time=seconds + 200, ledger=ledger, first_size=3,
        first_at=seconds + 60, size=5, at=seconds + 180, refused=0, commitment=mailbox_commitment(name),
        since=seconds + 30, others_count=1, others=(f"mailwatch/{'0' * 16}",),
    ).sign(WITNESS)  # fmt: skip


def _stated(ledger: VectorLedger) -> Files:
    """A witness states since when it knows the ledger, and who else came for the mailbox, which is disclosed."""
    keys = ledger.store.keys
    made = change(TargetEvent.BEGIN, ledger.at, MINUTE, host="192.0.2.1")
    ledger.settings = dataclasses.replace(made.settings, login_name=login_name_commitment(NAME_KEY, MAILBOX))
    ledger.observe("++")
    ledger.entry("register", {
        "witness": str(cosigner_key(WITNESS.public_key())), "statement": _statement(keys.origin),
        "targets": [target_id(keys.secret, "mail")],
    })  # fmt: skip
    ledger.observe("+---++")
    files = ledger.outage()
    stated = json.loads(files["outage.json"])
    stated["service"] = None
    stated["user_name"] = {"name": MAILBOX, "key": NAME_KEY.hex()}
    return files | {"outage.json": pretty_json(stated)}


def _other_statement(**more: str) -> Change:
    def changed(files: Files, key: Ed25519PrivateKey) -> Files:
        def edit(stated: Json) -> None:
            given = {"ledger": stated["ledger"], **more}
            stated["witnesses"][0]["statement"] = _statement(**given)

        return in_json("outage.json", edit)(files, key)

    return changed


def _unsigned_statement(stated: Json) -> None:
    one = stated["witnesses"][0]
    one["statement"] = (
        one["statement"].replace("\nothers 1 ", "\nothers 0").replace(f"mailwatch/{'0' * 16}", "", 1)
    )


GOOD: dict[str, tuple[Callable[[VectorLedger], Files], str]] = {
    "run": (_run, "two clocks that are rounded each on its own, and a window that cuts runs of good observations"),
    "report": (_with_report, "with a report.pdf to which the statement is attached"),
    "successor-twice": (_twice_lost, "the third of a chain of three ledgers"),
    "stated": (_stated, "a witness states what it knows of the ledger, and of the mailbox that is disclosed"),
}
BAD: dict[str, tuple[str, Change, str, str]] = {
    "run": ("run", _pairwise, "period", "each pair of good observations counts as a segment of its own"),
    "report-attached": (
        "report",
        lambda files, _: files | {"report.pdf": least_pdf(b"{}", "outage.json")},
        "report",
        "another statement is attached to report.pdf",
    ),
    "chain-order": (
        "successor-twice",
        in_json("outage.json", lambda stated: stated["chain"].reverse()),
        "chain",
        "the predecessors are stated newest first",
    ),
    "statement-ledger": (
        "stated",
        _other_statement(ledger=f"mailwatch/{'1' * 16}"),
        "witness",
        "a witness states something of another ledger",
    ),
    "statement-mailbox": (
        "stated",
        _other_statement(name="luigi.verdi@example.org"),
        "witness",
        "a witness states something of another mailbox than the one disclosed",
    ),
    "statement-signature": (
        "stated",
        in_json("outage.json", _unsigned_statement),
        "witness",
        "other ledgers are left out of what a witness signed",
    ),
    "user-name": (
        "stated",
        in_json("outage.json", put("user_name/name", "luigi.verdi@example.org")),
        "outage",
        "another login name is disclosed than the one on record",
    ),
}
