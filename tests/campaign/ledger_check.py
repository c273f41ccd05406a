"""Is the ledger whole, and does all that is known of a target follow from it? Asked at each start."""

from __future__ import annotations

from mailwatch.analysis.detector import Detector, IndexedFact
from mailwatch.ledger.payloads import FACT_KINDS
from mailwatch.monitor.pipeline import Pipeline
from mailwatch.store import Reader, audit
from mailwatch.store.keys import Keys
from mailwatch.store.replay import audit_outages, rule_book


def check_ledger(reader: Reader, keys: Keys, monitor: Pipeline) -> list[str]:
    """Return what is wrong: hashes and signatures, outages that a replay does not give, states restored wrongly.

    A state that was restored from somewhere in the ledger must be the one that a replay from its first entry
    gives. Asked after the restore, when what a kill left unreported must have been reported.
    """
    findings = [f"audit: {finding}" for finding in audit(reader, keys.public, keys.secret)]
    book = rule_book(reader)
    for name in reader.targets():
        findings += [f"replay: {finding}" for finding in audit_outages(reader, book, name)]
    for name, runtime in monitor.targets.items():
        detector = Detector()
        for entry in reader.entries(target=name, kinds=FACT_KINDS):
            fact = entry.fact
            assert fact is not None
            detector, _ = detector.feed(IndexedFact(entry.index, fact), book.at(entry.index))
        if detector != runtime.detector:
            findings.append(f"restored: {name} is at {runtime.detector}, but a replay gives {detector}")
    return findings
