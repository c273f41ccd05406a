"""A verifier written from docs/reference/format.md, in another language, gives each bundle the verdict of ours."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mailwatch.evidence.bundle import pretty_json
from mailwatch.evidence.joint.verify import check_joint, is_joint
from mailwatch.evidence.verify import Trust, examine, verify
from mailwatch.ledger.cosignature import log_key
from mailwatch.store import Store
from mailwatch.store.keys import load_keys
from mailwatch.store.witness_register import WitnessRegister
from mailwatch.witness.cosigner import Cosigner
from mailwatch.witness.keys import load_witness_key
from tests.helpers.bundle_files import files_of
from tests.helpers.bundle_mutations import MUTATIONS, manifested, original
from tests.helpers.joint_parts import START, joined
from tests.helpers.malicious_operator import Operator
from tests.helpers.paths import TESTDATA, TESTS
from tests.helpers.real_clocks import INTERVAL, RealClockLedger, at_random
from tests.helpers.requirements import need_program
from tests.helpers.seed import SEED
from tests.helpers.vector_cases import zip_of
from tests.helpers.vector_claims import claim_of
from tests.helpers.witnesses import cosign_by_hand
from tests.make_vectors import FOLDER

NODE = Path("/usr/bin/node")
PROGRAM = TESTS / "second_verifier" / "verify.mjs"
INDEX: list[dict[str, Any]] = json.loads((FOLDER / "index.json").read_bytes())
STORED = sorted(
    [*(TESTDATA / "old").glob("*.zip"), *(TESTDATA / "contracts" / "expected" / "bundles").glob("*.zip")]
)
"""Bundles of versions since 0.1.0, with real observations, tokens and reports."""


@pytest.fixture(autouse=True)
def _node() -> None:
    need_program(NODE)


def verdicts(paths: Iterable[Path]) -> list[dict[str, str]]:
    """Return what the second verifier finds wrong in each file, by claim."""
    command = [str(NODE), str(PROGRAM), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line)["claims"] for line in done.stdout.splitlines()]
    return [{claim: why for claim, why in claims.items() if why and not unchecked(why)} for claims in found]


def unchecked(why: str) -> bool:
    """Whether a claim depends on another one that does not hold, or on members that are not enclosed."""
    return why.startswith("not checked")


def ours(path: Path) -> dict[str, str]:
    """What `mailwatch verify` finds wrong, by claim."""
    claims = (check_joint if is_joint(path) else verify)(path, Trust())
    return {claim.claim: claim.detail for claim in claims if not claim.valid and not unchecked(claim.detail)}


def test_it_gives_the_vectors_their_verdicts() -> None:
    for vector, wrong in zip(INDEX, verdicts(FOLDER / one["file"] for one in INDEX), strict=True):
        assert vector["fails"] in wrong if vector["fails"] else not wrong, (vector["file"], wrong)


def test_it_agrees_on_bundles_of_all_versions() -> None:
    assert len(STORED) > 15
    assert any(is_joint(path) for path in STORED)
    for path, wrong in zip(STORED, verdicts(STORED), strict=True):
        refused = ours(path)
        assert wrong.keys() == refused.keys(), (path.name, wrong, refused)


def test_it_agrees_on_changed_bundles(tmp_path: Path) -> None:
    """With and without the key, as in test_mutations.py."""
    chance, changed = random.Random(SEED), []
    for number in range(MUTATIONS // 25):
        raw, _ = original().mutant(chance, number)
        changed.append(tmp_path / f"{number}.zip")
        changed[-1].write_bytes(raw)
    for path, wrong in zip(changed, verdicts(changed), strict=True):
        found = ours(path)
        assert bool(wrong) == bool(found), (path.name, wrong, found)


def assert_both_accept(paths: list[Path]) -> None:
    for path, wrong in zip(paths, verdicts(paths), strict=True):
        assert (wrong, ours(path)) == ({}, {}), path.name


def test_it_agrees_where_clocks_are_rounded_each_on_its_own(tmp_path: Path) -> None:
    """Windows that begin and end amid runs of good observations, with intervals on record or inferred."""
    paths = []
    for seed in range(3):
        chance = random.Random(seed)
        ledger = RealClockLedger(
            tmp_path / f"{seed}", chance, at_random(chance, "++--? "), on_record=seed % 2 == 0
        )
        paths += ledger.outages()[:2]
        paths += [ledger.period(*sorted((chance.random(), chance.random()))) for _ in range(2)]
    assert_both_accept(paths)


def down_amid(begin: int, end: int, length: int = 60) -> Any:
    """Down from one number of an observation to another one, and good at all others."""
    return lambda at: "-" if begin <= (at - START) // INTERVAL % length < end else "+"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two that saw it down, one of which lost its ledger, and one that saw it up; each spells the provider so."""
    folder, chance = tmp_path_factory.mktemp("parts"), random.Random(1)
    address: dict[str, Any] = {"address": "8.8.4.4", "family": 4, "server": "stun.example.org:3478"}
    noted = [
        ("address", START + number * INTERVAL, address | {"at": START + number * INTERVAL}) for number in (21, 29)
    ]
    first = RealClockLedger(
        folder / "a", chance, down_amid(20, 40), length=60, provider="Libero", vantage="home-a", entries=noted
    )
    before = RealClockLedger(
        folder / "b", chance, down_amid(25, 45), length=60, provider="ＬＩＢＥＲＯ", vantage="home-b",
        peer="192.0.2.2:993",
    )  # fmt: skip
    up = RealClockLedger(folder / "c", chance, lambda _: "+", length=60, provider="libero ", vantage="home-c")
    made = [*first.outages(), *before.outages(), up.period(0.1, 0.93)]
    after = RealClockLedger(
        folder / "b", chance, down_amid(30, 50, 80), start=before.lose(), length=60, provider="Libero",
        vantage="home-b",
    )  # fmt: skip
    return [*made, *after.outages(), after.period(0.02, 0.9)]


def test_it_agrees_on_joint_cases(parts: list[Path], tmp_path: Path) -> None:
    """Contradictions, a successor, spellings, windows, addresses; signed and not, with the members and without."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    paths = [
        joined(parts, tmp_path / "signed.zip", key=key),
        joined(parts[::-1], tmp_path / "unsigned.zip"),
        joined(parts, tmp_path / "apart.zip", enclose=False),
    ]
    stated = json.loads(files_of(paths[0])["joint.json"])
    (group,) = stated["groups"]
    assert (group["provider"], len(group["vantage_points"]), len(group["outages"])) == ("Libero", 3, 3)
    assert {one["vantage_point"] for one in group["contradictions"]} == {"home-a", "home-b", "home-c"}
    assert len([one for one in stated["members"] if "counted_as" in one]) == 2
    assert [len(one["public_addresses"]) for one in stated["members"] if one["vantage_point"] == "home-a"] == [1]
    assert stated["same_machine"]
    assert_both_accept(paths)


def test_it_refuses_what_a_joint_case_does_not_give(parts: list[Path], tmp_path: Path) -> None:
    def later(stated: dict[str, Any]) -> None:
        one = stated["groups"][0]["contradictions"][-1]
        one["to"] = one["to"][:-2] + ("1Z" if one["to"][-2] == "0" else "0Z")

    def spelled(stated: dict[str, Any]) -> None:
        stated["groups"][0]["provider"] = "LIBERO"

    def alone(stated: dict[str, Any]) -> None:
        for one in stated["members"]:
            one.pop("counted_as", None)

    def addressed(stated: dict[str, Any]) -> None:
        stated["members"][0]["addresses"] = {"192.0.2.9:993": 1}

    def witnessed(stated: dict[str, Any]) -> None:
        stated["witnessed"] = True

    lies = (later, spelled, alone, addressed, witnessed)
    paths = [joined(parts, tmp_path / f"{lie.__name__}.zip", change=lie) for lie in lies]
    for path, wrong in zip(paths, verdicts(paths), strict=True):
        assert ([*wrong], [*ours(path)]) == (["joint"], ["joint"]), (path.name, wrong, ours(path))


def rule_at_random(chance: random.Random) -> dict[str, Any]:
    """A rule of a provider, with some of its keys or all."""
    tiers = sorted(chance.sample(("99.999", "99.99", "99.95", "99.5", "99"), 3), key=float, reverse=True)
    optional: dict[str, Any] = {
        "channels": [chance.choice(("imap", "smtp"))],
        "target": chance.choice(("99.99", "99.95", "99.5", "50")),
        "minimum_minutes": chance.randrange(4),
        "single_event_percent": chance.choice(("50", "0.5", "33.3")),
        "scheduled_excluded": chance.random() < 0.5,
        "tiers": [{"below": one, "percent": chance.choice(("10", "12.5", "100"))} for one in tiers[:2]]
        + [{"below": tiers[2], "days": 15}],
        "deadline": chance.choice(
            ({"month_end": 2}, {"days": 30, "after": "outage"}, {"days": 10, "after": "window"})
        ),
        "window": "quadrimestre",
    }
    plain: dict[str, Any] = {"key": "lab", "name": "Lab", "source_url": "x", "seen_on": "x", "verified": False}
    if optional["channels"] == ["smtp"] or chance.random() < 0.5:
        del optional["window"]
    chosen = plain | {key: value for key, value in optional.items() if chance.random() < 0.8}
    if "target" not in chosen:
        chosen.pop("single_event_percent", None)
    return chosen


def test_it_agrees_on_readings_of_rules(tmp_path: Path) -> None:
    chance = random.Random(1)
    ledger = RealClockLedger(tmp_path / "ledger", chance, down_amid(20, 40, 33), length=40)
    (path, *_), key = ledger.outages(), load_keys(ledger.folder).private
    (record,), files = examine(path, Trust()).outages, files_of(path)
    fair, lies = [], []
    for number in range(20):
        stated = json.loads(files["outage.json"])
        fee = {
            "amount": chance.choice(("9.99", "120", "0.5")),
            "currency": "EUR",
            "period": chance.choice(("month", "year")),
        }
        stated["claim"] = claim_of(rule_at_random(chance), {"fee": fee} if number % 4 else {}, record)
        fair.append(tmp_path / f"{number}.zip")
        fair[-1].write_bytes(zip_of(manifested(files | {"outage.json": pretty_json(stated)}, key)))
        window = stated["claim"]["reading"]["windows"][0]
        window.get("counted", window["raw"])["down"]["min"] += 0.001
        lies.append(tmp_path / f"{number}-lie.zip")
        lies[-1].write_bytes(zip_of(manifested(files | {"outage.json": pretty_json(stated)}, key)))
    assert_both_accept(fair)
    assert [[*wrong] for wrong in verdicts(lies)] == [["outage"]] * len(lies)


def test_it_agrees_on_members_that_witness_each_other(tmp_path: Path) -> None:
    bundles, made = [], []
    for name in "ab":
        (tmp_path / name / "keys").mkdir(parents=True)
        private = load_witness_key(tmp_path / name)
        store = Store.open(tmp_path / name)
        register = WitnessRegister(tmp_path / name)
        made.append((store, Operator(store, tmp_path / name), register, Cosigner(private, register, [])))
    for *_, cosigner in made:
        cosigner.allow([log_key(store.keys.origin, store.keys.public) for store, *_ in made])
    for (store, operator, register, _), (*_, other) in zip(made, made[::-1], strict=True):
        operator.observe("++")
        known = cosign_by_hand(operator, other)
        operator.observe("++----++")
        cosign_by_hand(operator, other, known)
        bundles.append(operator.bundle())
        register.close()
        store.close()
    assert_both_accept([joined(bundles, tmp_path / "witnessed.zip", witnessed=True)])
