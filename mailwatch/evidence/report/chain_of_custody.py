"""Chain of custody: the observed service, the observing program, and document, ledger, key and tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from mailwatch.evidence.ledger_range import TokenFile
from mailwatch.evidence.outage_case import OutageEvidence
from mailwatch.evidence.report.facts import NodeFacts, ReportFacts, TokenFacts, WitnessFacts
from mailwatch.evidence.report.formatting import Rows, digest_groups, texts
from mailwatch.evidence.report.public_address import public_address_rows
from mailwatch.evidence.stated import WitnessStatementJson
from mailwatch.evidence.warnings import MAX_CLOCK_ERROR_MS
from mailwatch.i18n import Formatter, Texts
from mailwatch.ledger.cosignature import parse_verifier_key
from mailwatch.ledger.succession import ChainJson
from mailwatch.ledger.witness_register import read_statement
from mailwatch.times import Millis, parse_duration


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
    """Return the rows on the observing program, its restarts and reloads, and where it was in the network."""
    w = texts(writing.language)
    nodes = facts.nodes
    known = w["custody_none"]
    if nodes:
        events = {event: sum(node.event == event for node in nodes) for event in ("start", "reload", "stop")}
        known = w["custody_text"].format(**events, configs=len({node.config for node in nodes}))
        if handovers := sum(bool(node.former) for node in nodes):
            known += " " + w["custody_handovers"].format(n=handovers)
    latest = nodes[-1] if nodes else facts.node_before or NodeFacts()
    program = [f"MailWatch {latest.version}"] if latest.version else []
    program += [f"Python {latest.python}"] if latest.python else []
    program += [latest.system] if latest.system else []
    return [
        [w["program"], ", ".join(program) or w["not_known"]],
        [w["config"], digest_groups(latest.config) if latest.config else w["not_known"]],
        [w["custody"], known],
        *public_address_rows(facts.public_addresses, writing),
    ]


def integrity_rows(evidence: OutageEvidence, facts: ReportFacts, digest: str, writing: Formatter) -> Rows:
    """Return the rows on the document and the ledger."""
    w, found, stated = texts(writing.language), evidence.range, evidence.statement
    record = evidence.record
    return [
        [w["document"], f"{record.id}, {stated['format']}, {stated['made_by']}"],
        [w["as_of"], writing.local_and_utc_of(stated["as_of"])],
        [w["statement_digest"], digest_groups(digest)],
        [w["ledger"], stated["ledger"]],
        *predecessor_rows(stated.get("chain", ()), writing),
        *witness_rows(stated.get("witnesses", ()), facts.witnesses, writing, stated.get("own_witness", "")),
        *carried_rows(facts.carried, writing),
        [w["key"], digest_groups(hashlib.sha256(f"{evidence.key}\n".encode()).hexdigest())],
        [w["range"], f"{found.start.size} – {found.end.size - 1}"],
        [w["entries"], f"{record.first_index} – {record.last_index}"],
        [w["checkpoints"], str(len(found.checkpoints))],
        [w["last_root"], found.end.note.split("\n")[2]],
    ]


def predecessor_rows(chain: Iterable[ChainJson], writing: Formatter) -> Rows:
    """Return a row for each ledger before this one, latest first: what it signed, and why it did not go on."""
    w = texts(writing.language)
    reasons, rows = w.section("chain_reasons"), []
    for link in reversed([*chain]):
        known = "chain_text" if link["size"] else "chain_unsigned"
        words = w[known].format(
            ledger=link["ledger"] or w["chain_nameless"], size=link["size"], reason=reasons[link["reason"]]
        )
        words += " " + w["chain_appointed" if link["appointed"] else "chain_not_appointed"]
        rows.append([w["chain"], words])
    return rows


def witness_rows(
    statements: Iterable[WitnessStatementJson],
    cosigned: Mapping[str, WitnessFacts],
    writing: Formatter,
    own_witness: str = "",
) -> Rows:
    """Return a row for each witness: what it cosigned in the range, and what it states about the mailbox.
    `own_witness`: the key of the observer's own.
    """
    w = texts(writing.language)
    words: dict[str, list[str]] = {}
    for key, found in cosigned.items():
        own = words.setdefault(key, [])
        if key == own_witness:
            own.append(w["witness_own"])
        if found.count:
            begin, end = writing.local_and_utc(found.first), writing.local_and_utc(found.last, up=True)
            own.append(w["witness_cosigned"].format(count=found.count, begin=begin, end=end))
        if abs(found.offset) > MAX_CLOCK_ERROR_MS:
            by = writing.format_duration(abs(found.offset))
            own.append(w["witness_ahead" if found.offset > 0 else "witness_behind"].format(time=by))
        if found.refused is not None:
            own.append(w["witness_conflict"].format(size=found.refused))
    for one in statements:
        stated = read_statement(one["statement"], parse_verifier_key(one["key"]))
        begin = writing.local_and_utc(stated.first_at * 1000)
        known = "witness_refused" if stated.refused else "witness_known"
        others = "witness_others" if stated.others else "witness_alone"
        facts = {"begin": begin, "size": stated.first_size, "count": stated.refused}
        words.setdefault(one["key"], []).append(w[known].format(**facts))
        words[one["key"]].append(w[others].format(names=", ".join(stated.others)))
    return [[w["witness"], f"{key.partition('+')[0]}: {'; '.join(own)}"] for key, own in words.items()]


def carried_rows(carried: Mapping[str, Sequence[Millis]], writing: Formatter) -> Rows:
    """Return a row for each domain that signed such messages. `carried`: when its key was looked up."""
    w, rows = texts(writing.language), []
    for domain, times in sorted(carried.items()):
        first, last = writing.local_and_utc(min(times)), writing.local_and_utc(max(times), up=True)
        text = "carried_once" if len(times) == 1 else "carried_span"
        rows.append([w["carried"], w[text].format(domain=domain, n=len(times), first=first, last=last)])
    return rows


def authority_text(token: TokenFile, words: Texts) -> str:
    """Return who signed a token, by the signer's certificate: the name in the config may be any."""
    signer, issuer = token.signer
    if not signer:
        return words["authority_unnamed"]
    return words["authority_named"].format(signer=signer, issuer=issuer)


def token_rows(evidence: OutageEvidence, facts: ReportFacts, writing: Formatter) -> Rows:
    """Return a row for each timestamp token: authority, time, serial number, and entries covered."""
    w, rows = texts(writing.language), []
    for token in evidence.range.tokens:
        entry = facts.tokens.get(token.entry, TokenFacts())
        whose = [authority_text(token, w), *filter(None, [entry.policy])]
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
    names = ", ".join(dict.fromkeys(authority_text(token, w) for token in evidence.range.tokens))
    sentence = text.format(
        a=a and writing.local_and_utc_of(a), b=b and writing.local_and_utc_of(b, up=True), names=names
    )
    distrusted = {index for index, token in facts.tokens.items() if token.distrust}
    doubted = {authority_text(token, w) for token in evidence.range.tokens if token.entry in distrusted}
    return sentence + (" " + w["outside_distrusted"].format(names=", ".join(sorted(doubted))) if doubted else "")
