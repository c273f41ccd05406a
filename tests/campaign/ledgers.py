"""Is the ledger whole, and does all that is known of a target follow from it? Asked at each start."""

from __future__ import annotations

from mailwatch.analysis.detector import IndexedFact, State, advance
from mailwatch.analysis.login_outages import LoginHistory, advance_login_history
from mailwatch.ledger.payloads import FACT_KINDS
from mailwatch.monitor.pipeline import Pipeline
from mailwatch.store import Reader, audit
from mailwatch.store.keys import Keys
from mailwatch.store.replay import audit_outages, rule_book


def check_ledger(reader: Reader, keys: Keys, monitor: Pipeline) -> list[str]:
    """Return what is wrong: hashes and signatures, outages that a replay does not give, states taken up wrongly.

    A state that was taken up from somewhere in the ledger must be the one that a replay from its first entry
    gives. Asked after the restore, when what a kill left unreported must have been reported.
    """
    findings = [f"audit: {finding}" for finding in audit(reader, keys.public, keys.secret)]
    book = rule_book(reader)
    for name in reader.targets():
        findings += [f"replay: {finding}" for finding in audit_outages(reader, book, name)]
    for name, watch in monitor.targets.items():
        state, proof = State(), LoginHistory()
        for entry in reader.entries(target=name, kinds=FACT_KINDS):
            fact = entry.fact
            assert fact is not None
            state, _ = advance(state, IndexedFact(entry.index, fact), book.at(entry.index))
            proof, _ = advance_login_history(proof, entry.index, fact, state.is_open)
        if state != watch.state:
            findings.append(f"taken up: {name} stands at {watch.state}, but a replay gives {state}")
        if proof != watch.detector.login_history:
            findings.append(
                f"taken up: the login of {name} stands at {watch.detector.login_history}, a replay gives {proof}"
            )
    return findings
