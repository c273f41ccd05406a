"""A hub with members whose ledgers were written beforehand, and are pushed as time goes by."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from mailwatch.analysis.confirmation import Confirmation
from mailwatch.hub.client import build_push, verified_tree
from mailwatch.hub.ledgers import MemberLedgers
from mailwatch.hub.quorum import QuorumBoard
from mailwatch.hub.receiver import Agreed, Pushed, Receiver
from mailwatch.hub.successions import Successions
from mailwatch.ledger.consent import Consent, Scope
from mailwatch.ledger.cosignature import cosigner_key, log_key
from mailwatch.ledger.enrolment import JoinRequest
from mailwatch.model import TargetEvent
from mailwatch.store import NewEntry, Reader, Store
from mailwatch.store.hub_register import HubRegister
from mailwatch.store.place import Place, place_of
from mailwatch.store.witness_register import WitnessRegister
from mailwatch.times import Millis
from mailwatch.witness.cosigner import Answer, Cosigner
from mailwatch.witness.keys import load_witness_key
from tests.helpers.ledger_factory import MINUTE, Pattern, change, write

START: Millis = 1_772_000_000_000 // MINUTE * MINUTE


class WrittenMember:
    """A vantage point whose whole ledger is known from the beginning: one target, and `others`."""

    def __init__(
        self,
        folder: Path,
        pattern: Pattern,
        minutes: int,
        target: str = "mail",
        *,
        others: Mapping[str, Pattern] = MappingProxyType({}),
        provider: str = "lab",
        vantage: str = "here",
    ) -> None:
        self.folder, patterns = folder, {target: pattern, **others}
        begun = [(name, change(TargetEvent.BEGIN, START, MINUTE, name, provider=provider)) for name in patterns]
        store = Store.open(folder)
        store.read_clock = lambda: START
        store.append_batch([NewEntry(kind="watch", time=START, target=name, payload=one) for name, one in begun])
        store.close()
        self.store = write(
            folder, patterns, START, START + minutes * MINUTE, every=1, durable=False, provider=provider,
            vantage=vantage,
        )  # fmt: skip
        with contextlib.closing(Reader.open(folder)) as reader:
            self.times = [entry.time for entry in reader.entries()]

    @property
    def origin(self) -> str:
        return self.store.keys.origin

    @property
    def log(self) -> str:
        """Its name as a hub is asked for it."""
        return hashlib.sha256(self.origin.encode()).hexdigest()

    def size_at(self, at: Millis) -> int:
        """How many entries there were at a time."""
        return sum(time <= at for time in self.times)

    def request(self, token: str, name: str) -> bytes:
        """To join a hub."""
        keys = self.store.keys
        witness = cosigner_key(load_witness_key(self.folder).public_key())
        return JoinRequest(token, log_key(keys.origin, keys.public), witness, name).sign(keys.private).encode()


class LivingHub:
    """A hub that decides about what its members push. `at` is its clock."""

    def __init__(self, where: Path | Place, k: int = 2) -> None:
        place = self.place = place_of(where)
        data_dir = self.data_dir = place.data_dir
        self.k, self.at = k, START
        self.store = Store.open(place)
        self.store.append_batch([NewEntry(kind="node", time=START, target=None, payload={"event": "start"})])
        self.store.checkpoint()
        self.reader = Reader.open(place)
        self.register, witnessed = HubRegister(place), WitnessRegister(place)
        self.cosigner = Cosigner(load_witness_key(data_dir), witnessed, [], lambda: self.at)
        self.ledgers = MemberLedgers(place)
        self.arrived: list[Pushed] = []
        self.decided: list[Confirmation] = []
        """What the latest decision changed."""
        self.receiver = Receiver(
            self.store.keys, self.reader, self.register, self.ledgers, self.cosigner,
            on_push=self.arrived.append, on_agreed=self._record, read_clock=lambda: self.at,
        )  # fmt: skip
        self.board = QuorumBoard(place, self.reader, self.store.keys.origin, k)
        self._undo = contextlib.ExitStack()
        for one in (self.store, self.reader, self.register, witnessed, self.ledgers):
            self._undo.callback(one.close)

    def _record(self, agreed: Agreed) -> None:
        self.store.append_batch([NewEntry(kind="consent", time=self.at, target=None, payload=agreed.payload())])

    def agree(self, member: WrittenMember, send: Scope) -> Answer:
        """Have a member state what it agrees to send."""
        keys = member.store.keys
        note = Consent(keys.origin, self.store.keys.origin, self.at, send).sign(keys.private)
        return self.receiver.agree(member.log, note.encode())

    def join(self, member: WrittenMember, name: str) -> None:
        """Take a member in."""
        token = self.register.invite(name, self.at)
        assert self.receiver.join(member.request(token, name)).status == 200

    def take(self, member: WrittenMember, size: int, targets: frozenset[str] | None = None) -> None:
        """Take what a member has up to a size: of `targets`, None for all."""
        with contextlib.closing(Reader.open(member.folder)) as reader:
            first = next((one.size for one in self.register.members() if one.origin == member.origin), 0)
            if first >= size:
                return
            tree = verified_tree(reader, member.store.keys, first)
            built = build_push(reader, member.store.keys, tree, size, targets)
        assert built is not None
        assert self.receiver.push(member.log, str(first), built.body).status == 200

    def counted(self) -> dict[str, Millis]:
        """The members that count, with their last pushes."""
        return Successions(self.place).counted(self.register.members())

    def decide(self, *, observes: bool = True) -> list[tuple[bool, int]]:
        """Decide now, and record the changes; return whether each is confirmed and how many are down.

        `observes`: the hub has targets of its own.
        """
        for pushed in self.arrived:
            self.board.feed(pushed.member.origin, pushed.entries, pushed.checkpoint.size, pushed.at)
        for ledger in self.board.members.keys() - self.counted().keys() - {self.board.origin}:
            self.board.forget(ledger)
        if observes:
            self.board.follow_own(self.at)
        self.arrived.clear()
        changed = self.decided = self.board.changes(self.at)
        for one in changed:
            payload = self.board.payload(one)
            self.store.append_batch([NewEntry(kind="quorum", time=self.at, target=None, payload=payload)])
        return [(one.confirmed, sum(view.sight == "down" for view in one.views)) for one in changed]

    def close(self) -> None:
        self._undo.close()
