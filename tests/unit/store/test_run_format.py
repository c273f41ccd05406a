"""Runs: whatever the rows are, each text is remade to the byte, or the row is refused beforehand."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from mailwatch.ledger.canonical_json import canonical
from mailwatch.store.run_columns import (
    ColumnBytes,
    choose_predictor,
    read_numbers,
    read_texts,
    write_numbers,
    write_texts,
)
from mailwatch.store.run_format import Row, Run, RunDamagedError, RunEncoder, packable

WHOLE = st.integers(-(2**53) + 1, 2**53 - 1)
LEAVES = st.none() | st.booleans() | WHOLE | st.text(max_size=12) | st.sampled_from(["%s", "a\nb", '"x":1,', "\0"])
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text('abé"%\\:,1', max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
SALTS = st.none() | st.sampled_from(["", "zz", "A" * 32]) | st.binary(min_size=16, max_size=16).map(bytes.hex)
HEX = "0123456789abcdef"


def sealed(at: int, content: dict[str, Any], when: int, version: int, **more: Any) -> Row:
    """A row as the store would write it, of either version of the header."""
    text = canonical(content)
    header: dict[str, Any] = {
        "index": at, "kind": "observation", "number": at + 1, "target": HEX, "time": when, "v": version,
        "payload": hashlib.sha256(text.encode()).hexdigest(),
    }  # fmt: skip
    if version == 2:
        header |= {"boot": HEX, "clock": 10**6 + at, "run": HEX[::-1]}
    header |= more
    outcome = None if header["kind"] == "gap" else "up"
    return Row(at, header["kind"], when, "mail", header["number"], outcome, canonical(header), text)


@st.composite
def rows(draw: st.DrawFn) -> list[Row]:
    forms = draw(st.lists(st.dictionaries(st.text("abz", max_size=3), VALUES, max_size=5), min_size=1, max_size=3))
    made, index, time = list[Row](), draw(st.integers(0, 2**40)), draw(st.integers(0, 2**42))
    for _ in range(draw(st.integers(1, 60))):
        payload = dict(draw(st.sampled_from(forms)))
        if (salt := draw(SALTS)) is not None:
            payload["salt"] = salt
        if draw(st.booleans()):
            payload["start"] = time - draw(st.integers(0, 300))
        kind = draw(st.sampled_from(["observation", "observation", "gap"]))
        made.append(sealed(index, payload, time, draw(st.sampled_from([1, 2, 2])), kind=kind))
        index += draw(st.sampled_from([1, 1, 4, 1000]))
        time = max(0, time + draw(st.sampled_from([60_000, 60_001, 5, -3_600_000])))
    return made


def encoded(encoder: RunEncoder, given_rows: list[Row]) -> bytes:
    given_packable = list(filter(None, map(packable, given_rows)))
    return encoder.encode(given_packable).compress(zstandard.ZstdCompressor(level=3))


def decoded(encoder: RunEncoder, given_rows: list[Row]) -> Run:
    return Run(encoded(encoder, given_rows), zstandard.ZstdDecompressor())


@given(rows())
def test_each_text_is_remade_to_the_byte(made: list[Row]) -> None:
    assert all(map(packable, made))
    encoder = RunEncoder()
    # Structures and predictors that were learned from other rows must do as well.
    for part in (made, made[len(made) // 2 :], made[::-1][:1]):
        run = decoded(encoder, part)
        assert list(run.rows(range(run.count))) == part
        assert (run.kinds, run.outcomes) == ([row.kind for row in part], [row.outcome for row in part])


def test_a_structure_that_recurs_is_taken_apart_by_its_own_pattern() -> None:
    encoder, pick = RunEncoder(), random.Random(1)
    made = [
        sealed(at, {"a": pick.choice(["x", 'é"', "b\\"]), "n": pick.randint(-5, 5), "salt": f"{at:032x}"}, at, 2)
        for at in range(200)
    ]
    run = decoded(encoder, made)
    assert list(run.rows(range(200))) == made


@pytest.mark.parametrize(
    "changes",
    [
        {"extra": 1}, {"v": 3}, {"kind": "node"}, {"number": None}, {"target": "x"}, {"payload": "0" * 64},
        {"boot": "X"}, {"run": None}, {"clock": -1}, {"index": 7}, {"time": 8},
    ],
)  # fmt: skip
def test_a_header_of_another_form_stays_a_row(changes: dict[str, Any]) -> None:
    assert packable(sealed(1, {"a": 1}, 2, 2))
    assert not packable(sealed(1, {"a": 1}, 2, 2, **changes)._replace(idx=1, time_ms=2, number=2))


def test_a_row_whose_columns_differ_from_its_header_stays_a_row() -> None:
    row = sealed(1, {"a": 1}, 2, 2)
    for changed in ({"target": None}, {"outcome": "lost"}, {"outcome": None}, {"payload": "{}"}, {"number": 9}):
        assert not packable(row._replace(**changed))


@given(st.data())
def test_damage_is_found_or_does_no_harm(data: st.DataObject) -> None:
    made = [sealed(at, {"n": at % 7, "salt": f"{at:032x}"}, 60_000 * at, 2) for at in range(40)]
    whole = bytearray(encoded(RunEncoder(), made))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    cut = bytes(whole[: data.draw(st.sampled_from([len(whole), at]))])
    with pytest.raises(RunDamagedError):
        list(Run(cut, zstandard.ZstdDecompressor()).rows(range(40)))


@given(st.lists(WHOLE, min_size=1, max_size=40), st.lists(st.integers(10**6, 2**50), min_size=1, max_size=3))
def test_numbers_are_read_as_written(column: list[int], first: list[int]) -> None:
    others = [[one + at * 3 for at in range(len(column))] for one in first]
    written = ColumnBytes()
    described = write_numbers(column, choose_predictor(column, others), others, written)
    written.finish()
    assert read_numbers(described, len(column), others, written) == column


@given(
    st.lists(
        st.text(st.characters(exclude_characters="\n", categories=("L", "N", "P", "S", "Zs", "Cc"))), min_size=1
    )
)
def test_texts_are_read_as_written(column: list[str]) -> None:
    written = ColumnBytes()
    described = write_texts(column, written)
    written.finish()
    assert read_texts(described, len(column), written) == column
