"""Chain of custody: the observed service, the observing program, and document, ledger, key and tokens."""

from __future__ import annotations

import hashlib

from mailwatch.evidence.outage_case import OutageEvidence
from mailwatch.evidence.report.facts import NodeFacts, ReportFacts, TokenFacts
from mailwatch.evidence.report.formatting import Rows, digest_groups, texts
from mailwatch.i18n import Formatter
from mailwatch.times import parse_duration


def service_rows(evidence: OutageEvidence, facts: ReportFacts, writing: Formatter) -> Rows:
    """Return the rows on the observed service: its configuration, and how it answered."""
    w, service_ = texts(writing.language), evidence.statement["service"]
    rows: Rows = []
    if service_ is None:
        rows.append([w["server"], w["not_configured"]])
    else:
        if service_.get("port") is not None:
            rows.append([w["port"], str(service_["port"])])
        if service_.get("tls") is not None:
            rows.append([w["tls"], w.section("tls_modes")[service_["tls"]]])
        rows += [
            [w[key], writing.format_duration(round(parse_duration(service_[key]) * 1000))]
            for key in ("interval", "timeout")
            if service_.get(key) is not None
        ]
        rows.insert(0, [w["server"], str(service_.get("host") or service_.get("url") or "–")])
        rows.append([w["login"], w["yes"] if service_["with_login"] else w["no"]])
    peers = sorted(facts.addresses, key=lambda peer: -facts.addresses[peer])[:8]
    rows.append([w["addresses"], ", ".join(f"{peer} ({facts.addresses[peer]})" for peer in peers) or "–"])
    prints = sorted(set(facts.fingerprints.values()))[:4]
    rows.append([w["tls_seen"], "; ".join(sorted(facts.ciphers)[:4]) or "–"])
    rows.append([w["certificate"], " ".join(digest_groups(one) for one in prints) or "–"])
    return rows


def observer_rows(facts: ReportFacts, writing: Formatter) -> Rows:
    """Return the rows on the observing program and its restarts and reloads."""
    w = texts(writing.language)
    nodes = facts.nodes
    known = w["custody_none"]
    if nodes:
        events = {event: sum(node.event == event for node in nodes) for event in ("start", "reload", "stop")}
        known = w["custody_text"].format(**events, configs=len({node.config for node in nodes}))
    latest = nodes[-1] if nodes else facts.node_before or NodeFacts()
    program = [f"MailWatch {latest.version}"] if latest.version else []
    program += [f"Python {latest.python}"] if latest.python else []
    program += [latest.system] if latest.system else []
    return [
        [w["program"], ", ".join(program) or w["not_known"]],
        [w["config"], digest_groups(latest.config) if latest.config else w["not_known"]],
        [w["custody"], known],
        [w["not_recorded"], w["not_recorded_text"]],
    ]


def integrity_rows(evidence: OutageEvidence, digest: str, writing: Formatter) -> Rows:
    """Return the rows on the document and the ledger."""
    w, found, stated = texts(writing.language), evidence.range, evidence.statement
    record = evidence.record
    return [
        [w["document"], f"{record.id}, {stated['format']}, {stated['made_by']}"],
        [w["as_of"], writing.local_and_utc_of(stated["as_of"])],
        [w["statement_digest"], digest_groups(digest)],
        [w["ledger"], stated["ledger"]],
        [w["key"], digest_groups(hashlib.sha256(f"{evidence.key}\n".encode()).hexdigest())],
        [w["range"], f"{found.start.size} – {found.end.size - 1}"],
        [w["entries"], f"{record.first_index} – {record.last_index}"],
        [w["checkpoints"], str(len(found.checkpoints))],
        [w["last_root"], found.end.note.split("\n")[2]],
    ]


def token_rows(evidence: OutageEvidence, facts: ReportFacts, writing: Formatter) -> Rows:
    """Return a row for each timestamp token: authority, time, serial number, and entries covered."""
    w, rows = texts(writing.language), []
    for token in evidence.range.tokens:
        entry = facts.tokens.get(token.entry, TokenFacts())
        whose = [token.authority, *filter(None, (entry.signer, entry.policy))]
        time = writing.local_and_utc(token.time)
        if entry.accuracy_ms is not None:
            time += f" ± {entry.accuracy_ms} ms"
        if entry.distrust:
            whose.append(w["token_distrusted"])
        rows.append(["; ".join(whose), time, entry.serial, f"0 – {token.checkpoint - 1}"])
    return rows


def outside_times_text(evidence: OutageEvidence, facts: ReportFacts, writing: Formatter) -> str:
    """Return the outside times that bound the record, and how far they can be trusted, in words."""
    times, w = evidence.statement["outside_times"], texts(writing.language)
    a, b = times["not_before"], times["not_after"]
    kind = {(True, True): "both", (True, False): "before", (False, True): "after", (False, False): "none"}
    text = w[f"outside_{kind[bool(a), bool(b)]}"]
    names = ", ".join(dict.fromkeys(token.authority for token in evidence.range.tokens))
    sentence = text.format(
        a=a and writing.local_and_utc_of(a), b=b and writing.local_and_utc_of(b, up=True), names=names
    )
    distrusted = {index for index, token in facts.tokens.items() if token.distrust}
    doubted = {token.authority for token in evidence.range.tokens if token.entry in distrusted}
    return sentence + (" " + w["outside_distrusted"].format(names=", ".join(sorted(doubted))) if doubted else "")
