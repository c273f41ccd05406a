"""Which tests one worker runs together: those that share what takes long to make, else those of a file."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

_PAGES = "pages of the recorded outage"
_EVIDENCE = "evidence of the recorded outage"
TOGETHER = {
    "browser/test_pages": _PAGES,
    "e2e/test_web": _PAGES,
    "integration/evidence/test_evidence": _EVIDENCE,
    "integration/evidence/test_pdf_signature": _EVIDENCE,
    "integration/evidence/test_attacks": _EVIDENCE,
    "integration/evidence/test_periods": _EVIDENCE,
    "integration/evidence/test_joint": _EVIDENCE,
    "unit/evidence/test_claims": _EVIDENCE,
}
"""Files whose tests share the recorded outage, which a worker makes in half a minute."""
ALONE = {
    "campaign/test_campaign",
    "e2e/test_backup",
    "e2e/test_end_to_end",
    "e2e/test_notify",
    "e2e/test_reload",
    "e2e/test_resource_limits",
    "e2e/test_watchdog",
    "e2e/test_watched_targets",
    "integration/evidence/test_mutations",
    "integration/guard/test_expiry",
    "unit/monitor/test_self_check",
}
"""Files whose tests share nothing, and take long: any worker may run any of them."""


class WorkPacking(LoadFileScheduling):
    """`--dist loadfile`, with the exceptions above."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        name = file.removeprefix("tests/").removesuffix(".py")
        return TOGETHER.get(name, nodeid if name in ALONE else file)
