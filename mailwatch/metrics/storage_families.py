"""The metric families of what the ledger takes on disk."""

from __future__ import annotations

from collections.abc import Iterator

from mailwatch.analysis.storage_budget import StorageBudget
from mailwatch.metrics.exposition import NO_LABELS, Family, Labels, Row


def storage_families(budget: StorageBudget | None) -> Iterator[Family]:
    """Yield the families; what is not known has no row."""
    forms = {} if budget is None else budget.sizes.by_form()
    rows: list[Row] = [("", NO_LABELS, Labels.of(form=form), value) for form, value in forms.items()]
    yield Family("mailwatch_ledger_bytes", "gauge", "Bytes of the ledger on disk by form.", rows)
    simple = (
        ("bytes_per_day", "Bytes by which the ledger grows a day; absent while unknown.",
         None if budget is None else budget.bytes_a_day),
        ("until_full_seconds", "Time until the ledger fills its disk; +Inf for never; absent while unknown.",
         None if budget is None or budget.days_until_full is None else budget.days_until_full * 86_400),
    )  # fmt: skip
    for name, text, value in simple:
        known: list[Row] = [] if value is None else [("", NO_LABELS, NO_LABELS, value)]
        yield Family(f"mailwatch_ledger_{name}", "gauge", text, known)
