"""Has the messages of round trips carry the newest checkpoint, and records those that a provider signed by DKIM.

The provider's own signature then stands over the state of the ledger. A message that no one signed, or whose
signature does not cover the checkpoint, is not recorded.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mailwatch import monotonic
from mailwatch.ledger.checkpoint import CheckpointError
from mailwatch.monitor.recorder import Recorder
from mailwatch.probes import SignedArrival
from mailwatch.store import Reader, StoreError
from mailwatch.times import Millis, now

logger = logging.getLogger(__name__)

KIND = "carried"
KEEP_EVERY_MS: Millis = 3_600_000
"""Least milliseconds between two entries of one domain and provider, unless an outage opened or ended."""


class CheckpointCarrier:
    """Gives round trips the newest checkpoint, and records what arrived. `public` verifies the ledger's notes."""

    def __init__(self, recorder: Recorder, reader: Reader, public: Ed25519PublicKey) -> None:
        self._recorder, self._reader, self._public = recorder, reader, public
        self._kept: dict[tuple[str, str], Millis] = {}
        """When the latest entry of each provider and domain was recorded, on the steady clock."""
        # The evidence of an outage should have one from soon after each change.
        recorder.on_outage_recorded.append(self._kept.clear)

    async def note(self) -> str:
        """Return the newest checkpoint, "" without one."""
        try:
            signed = await asyncio.to_thread(self._reader.last_checkpoint)
        except StoreError:
            # The probe does not depend on it.
            return ""
        return signed.note if signed is not None else ""

    async def keep(self, provider: str, arrivals: Sequence[SignedArrival]) -> None:
        """Record the signed arrivals that carry a checkpoint. Failures are logged: no probe fails by them."""
        for arrival in arrivals:
            key, here = (provider, arrival.domain), monotonic.milliseconds()
            if here - self._kept.get(key, -KEEP_EVERY_MS) < KEEP_EVERY_MS:
                continue
            payload = await asyncio.to_thread(self._payload, provider, arrival)
            if payload is None:
                continue
            try:
                await self._recorder.append(KIND, now(), None, payload)
            except Exception:
                logger.exception("a carried checkpoint was not recorded")
            else:
                self._kept[key] = here

    def _payload(self, provider: str, arrival: SignedArrival) -> dict[str, object] | None:
        """Return the entry's payload, None where it would not verify later."""
        # Imported on first use: the library takes a while to load.
        from mailwatch.ledger.carried import CarriedPayload, read_carried
        from mailwatch.ledger.declaration import declared_checkpoint
        from mailwatch.ledger.dkim_signature import DkimError

        try:
            payload: CarriedPayload = {
                "checkpoint": declared_checkpoint(arrival.message, self._public).size,
                "provider": provider,
                "domain": arrival.domain,
                "selector": arrival.selector,
                "key": arrival.key.decode("ascii"),
                "at": arrival.at,
                "message": arrival.message.decode(),
            }
            if arrival.stored_at is not None:
                payload["arrived"] = arrival.stored_at
            read_carried(payload, self._public)
        except (CheckpointError, DkimError, UnicodeDecodeError) as error:
            logger.debug("the message of %s is no evidence: %s", provider, error)
            return None
        except Exception:
            logger.exception("a carried checkpoint was not recorded: internal error")
            return None
        return dict(payload)
