"""Inputs that once were failures, and a few thousand of one seed; `make fuzz` tries many more."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz.campaign import CORPUS, failure_of, kind_of, run, table, targets
from tests.fuzz.mutation import mutate
from tests.fuzz.target import Target, Wrong

KEPT = sorted(path for path in CORPUS.rglob("*") if path.is_file())
EACH = 40


@pytest.fixture(scope="module")
def known() -> dict[str, Target]:
    return {target.name: target for target in targets()}


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_once_failed_is_read(known: dict[str, Target], path: Path) -> None:
    error = failure_of(known[path.parent.name], path.read_bytes())
    assert error is None, repr(error)


def test_a_few_inputs_of_each_reader_are_read(known: dict[str, Target]) -> None:
    for target in known.values():
        chance = random.Random(f"gate/{target.name}")
        for data in [*target.seeds[:EACH], *(mutate(target, chance) for _ in range(EACH))]:
            error = failure_of(target, data)
            assert error is None, (target.name, data, repr(error))


def test_a_reader_that_raises_is_found_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fuzz import campaign

    def odd(data: bytes) -> None:
        if b"!" in data:
            raise Wrong("an exclamation mark")

    monkeypatch.setattr(campaign, "FOUND", tmp_path)
    target = Target("odd", odd, [b"what is this"], words=[b"!"])
    figures = run([target], seed=1, count=300, seconds=60.0)
    assert figures["odd"].inputs == 300
    (kept,) = figures["odd"].found.values()
    assert b"!" in kept[0].read_bytes()
    assert "odd" in table(figures)
    again = failure_of(target, kept[0].read_bytes())
    assert again is not None
    assert kind_of(again) in figures["odd"].found


def test_an_input_follows_from_the_seed() -> None:
    target = Target("x", lambda _: None, [b"abc def 123\n456", b"zz"], words=[b"word"])
    made = [[mutate(target, random.Random(f"{seed}")) for seed in range(50)] for _ in range(2)]
    assert made[0] == made[1]
    assert len(set(made[0])) > 25
