"""The sections of config.yaml for witnesses: who cosigns our ledger, and whose ledgers we cosign."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from mailwatch.config.errors import FieldError
from mailwatch.config.types import Endpoint, Section, checked_by, split_endpoint
from mailwatch.ledger.cosignature import COSIGNER, LOG, MAX_VKEY_CHARS, VerifierKeyError, parse_verifier_key
from mailwatch.net import page_problem

MAX_WITNESSES = 20
MAX_LOGS = 1_000


def _vkey(text: str, kind: bytes, other: str) -> str:
    try:
        found = parse_verifier_key(text)
    except VerifierKeyError as error:
        raise FieldError(str(error)) from None
    if found.kind != kind:
        raise FieldError(other)
    return text


def _witness_key(text: str) -> str:
    return _vkey(text, COSIGNER, "is the key of a ledger; write that of the witness, from its keys/witness.pub")


def _log_key(text: str) -> str:
    return _vkey(text, LOG, "is the key of a witness; write that of the ledger, from its keys/ledger.pub")


def _url_problem(url: str) -> str:
    return page_problem(
        url, "is not the address of a witness", "http://192.168.1.7:9743", schemes=("http", "https")
    )


WitnessUrl = Annotated[str, Field(max_length=2000), checked_by(_url_problem)]
WitnessKey = Annotated[str, Field(max_length=MAX_VKEY_CHARS), AfterValidator(_witness_key)]
LogKey = Annotated[str, Field(max_length=MAX_VKEY_CHARS), AfterValidator(_log_key)]


class WitnessSection(Section):
    """A witness that cosigns checkpoints of the ledger (C2SP tlog-witness): a friend's MailWatch, or another."""

    url: WitnessUrl
    """Its address, to which add-checkpoint is appended. Plain http is enough, as the answer is signed."""
    key: WitnessKey
    """Its key, the line in its keys/witness.pub."""


class WitnessServerSection(Section):
    """A witness of one's own, for the ledgers of others. Its key is keys/witness.pub in the data_dir."""

    listen: Endpoint = "127.0.0.1:9743"
    """The address that the others reach; the default only serves this machine."""
    logs: Annotated[tuple[LogKey, ...], Field(max_length=MAX_LOGS)] = ()
    """The ledgers that may use it: the line in the keys/ledger.pub of each."""

    @property
    def endpoint(self) -> tuple[str, int]:
        """The host and port to listen on."""
        return split_endpoint(self.listen)
