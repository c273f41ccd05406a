"""Label sets and metric families, and their text form."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client.core import Metric

LINES_PER_PIECE = 2000
"""Lines in a piece: ten thousand targets fill a hundred megabytes, which must not be in memory at once."""


@dataclass(frozen=True, slots=True)
class Labels:
    """A label set with its text, escaped once; most of a scrape is label text."""

    pairs: tuple[tuple[str, str], ...]
    text: str

    @classmethod
    def of(cls, **values: str) -> Labels:
        """Create a label set in the given order."""
        return cls(tuple(values.items()), ",".join(f'{k}="{_escape(v)}"' for k, v in values.items()))


NO_LABELS = Labels((), "")

Row = tuple[str, Labels, Labels, float]
"""A row: the suffix of the family's name, the target's labels, further labels, the value."""


@dataclass(frozen=True, slots=True)
class Family:
    """All series of one metric; `kind` is gauge, counter (whose name ends in _total) or histogram."""

    name: str
    kind: str
    help: str
    rows: Iterable[Row]

    def metric(self) -> Metric:
        """Return the family as a Metric of prometheus_client."""
        metric = Metric(self.name.removesuffix("_total"), self.help, self.kind)
        for suffix, target, further, value in self.rows:
            metric.add_sample(self.name + suffix, dict(target.pairs + further.pairs), value)
        return metric

    def text(self) -> Iterator[str]:
        """Yield the family in the text format of Prometheus, version 0.0.4, in pieces of bounded size."""
        name = self.name
        lines = [f"# HELP {name} {self.help}\n# TYPE {name} {self.kind}\n"]
        for suffix, target, further, value in self.rows:
            if target.text and further.text:
                lines.append(f"{name}{suffix}{{{target.text},{further.text}}} {value}\n")
            elif target.text or further.text:
                lines.append(f"{name}{suffix}{{{target.text}{further.text}}} {value}\n")
            else:
                lines.append(f"{name}{suffix} {'+Inf' if value == math.inf else value}\n")
            if len(lines) >= LINES_PER_PIECE:
                yield "".join(lines)
                lines.clear()
        yield "".join(lines)


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
