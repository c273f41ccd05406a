"""Messages between nodes: what is sent comes back the same, and what is not ours is refused, whatever it is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from mailwatch.fleet.messages import (
    MAX_MESSAGE_BYTES,
    Job,
    Message,
    MessageError,
    Result,
    batches,
    check_answer,
    decode,
    encode,
    job_from,
    job_item,
    result_from,
    result_item,
    target_digest,
)
from mailwatch.ledger.payloads import fact_payload
from mailwatch.model import (
    Attempt,
    Cause,
    ClockSpan,
    ConnectivityResult,
    Kind,
    Observation,
    Outcome,
    Phase,
    TlsFacts,
)
from mailwatch.settings import Login, Target

JOB = Job(
    number=7, target="t", digest="d", with_login=True, every_address=False, diagnose=True, scheduled_at=1_000,
    within=3_500,
)  # fmt: skip
ATTEMPT = Attempt(
    started_at=1_001, ended_at=1_900, peer="192.0.2.1:993", phases={Phase.CONNECT: 20, Phase.TLS: 30},
    cause=Cause.TIMEOUT, failed_phase=Phase.AUTH, detail="no answer", replies=("* OK",),
    tls=TlsFacts(version="TLSv1.3", cipher="c", fingerprint="f", not_after=None),
    facts={"password_sent": True},
)  # fmt: skip
OBSERVATION = Observation(
    target="t", scheduled_at=1_000, started_at=1_001, ended_at=1_900, outcome=Outcome.DOWN, cause=Cause.TIMEOUT,
    failed_phase=Phase.AUTH, detail="no answer", attempts=(ATTEMPT,), addresses=("192.0.2.1",),
    partial=("192.0.2.2",), with_login=True, clock=ClockSpan("0" * 16, 5, 904),
    guard=ConnectivityResult(asked_at=1_950, online=True, controls={"a:443": "ok"}, online4=True, resolver="ok"),
    facts={"diagnosis": {"clock_error_bound_us": None}},
)  # fmt: skip
RESULT = Result(number=7, observation=OBSERVATION, attributed=OBSERVATION, offset=-5)


def sent(item: dict[str, object]) -> dict[str, Any]:
    """An item as it comes."""
    message = Message(sent=1, series="s", items=(item,), received=(2, 3))
    came = decode(encode(message))
    assert (came.sent, came.series, came.received) == (1, "s", (2, 3))
    (one,) = came.items
    return dict(one)


def test_jobs_and_results_come_as_they_were_sent() -> None:
    assert job_from(sent(job_item(JOB))) == JOB
    found = result_from(sent(result_item(RESULT)))
    assert found == RESULT
    check_answer(found, JOB)
    refused = Result(number=7, refusal="too late")
    assert result_from(sent(result_item(refused))) == refused


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=20,
)


def paths(value: object, at: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """Where something is in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, one in inner for path in paths(one, (*at, key)))]


@given(st.data())
def test_a_result_with_anything_else_in_one_place_is_refused_or_can_be_recorded(data: st.DataObject) -> None:
    item = json.loads(json.dumps(result_item(RESULT)))
    path = data.draw(st.sampled_from(paths(item)[1:]))
    holder: Any = item
    for key in path[:-1]:
        holder = holder[key]
    if data.draw(st.booleans()):
        holder[path[-1]] = data.draw(JSON)
    elif isinstance(holder, dict):
        del holder[path[-1]]
    else:
        holder.insert(data.draw(st.integers(0, len(holder))), data.draw(JSON))
    try:
        found = result_from(item)
        check_answer(found, JOB)
    except MessageError:
        return
    assert found.observation is not None or found.refusal
    if found.observation is not None:
        # What is accepted has the form of an observation on record, whole numbers and all.
        assert json.loads(json.dumps(fact_payload(found.observation), allow_nan=False))
        assert found.observation.started_at <= found.observation.ended_at


@given(JSON)
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(MessageError):
        decode(json.dumps(value))
    if isinstance(value, dict):
        for parse in (job_from, result_from):
            with pytest.raises(MessageError):
                parse(value)


@given(st.text())
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(MessageError):
        decode(text)


@pytest.mark.parametrize(
    "changes",
    [
        {"target": "other"},
        {"scheduled": 999},
        {"secret": "0" * 16},
        {"interval": 60_000},
        {"node": "abcd"},
        {"outcome": "up"},
        {"cause": "offline"},
        {"end": 1_000},
        {"clock": {"boot": "b", "end": 4, "start": 5}},
    ],
)
def test_a_result_of_another_probe_or_with_what_the_recording_node_says_is_refused(
    changes: dict[str, Any],
) -> None:
    item: Any = result_item(RESULT)
    item["observation"] = {**item["observation"], **changes}
    with pytest.raises(MessageError):
        check_answer(result_from(item), JOB)


def test_a_login_that_was_not_allowed_is_refused() -> None:
    with pytest.raises(MessageError, match="without being allowed"):
        check_answer(RESULT, Job(**{name: getattr(JOB, name) for name in JOB.__slots__} | {"with_login": False}))


def test_items_are_sent_in_messages_of_bounded_size() -> None:
    item = {"x": "y" * (MAX_MESSAGE_BYTES // 3)}
    assert [len(part) for part in batches([item] * 5)] == [2, 2, 1]
    assert batches([]) == []


def test_the_digest_of_a_target_tells_each_setting_and_password_apart_and_shows_none() -> None:
    login = Login(username="ann", password=SecretStr("secret"))
    target = Target(name="t", kind=Kind.IMAP, host="h", port=993, login=login)
    others = [
        Target(name="t", kind=Kind.IMAP, host="h", port=993),
        Target(name="t", kind=Kind.IMAP, host="g", port=993, login=login),
        Target(name="t", kind=Kind.IMAP, host="h", port=993, login=Login(username="ann", password=SecretStr("s"))),
        Target(name="t", kind=Kind.IMAP, host="h", port=993, login=login, timeout=5.0),
    ]
    digests = {target_digest(one, b"key") for one in (target, *others)}
    assert len(digests) == 5
    assert target_digest(target, b"key") == digests.intersection([target_digest(target, b"key")]).pop()
    assert target_digest(target, b"other") not in digests
