"""Which messages on disk belong to which channel when names or places in the list have changed. Pure.

Messages wait under the name of their channel, and a channel without a name of its own is named by its place. What
identifies it is its address: if the address is known under another name, its messages go with it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Mapping, Sequence

from mailwatch.settings import Channel

GONE = " (removed)"
"""The end of the name under which messages wait whose channel is gone, and whose name another channel now has."""


def address_id(secret: bytes, channel: Channel) -> str:
    """Return a keyed digest of a channel's address, which is mostly a secret."""
    text = b"channel\0" + channel.url.get_secret_value().encode("utf-8", "surrogateescape")
    return hmac.new(secret, text, hashlib.sha256).hexdigest()[:16]


def renamed_channels(
    channels: Sequence[Channel], addresses: Mapping[str, str], known: Mapping[str, str]
) -> dict[str, str]:
    """Return the new name of each former name whose messages must move.

    `addresses` and `known` are address ids by name: of these channels, and of those before; `known` is empty for a
    version that did not note them, whose channels were all named by their place.
    """
    if not known:
        taken = addresses.keys()
        return {each.place: each.name for each in channels if each.place and each.place not in taken}
    before, here = Counter(known.values()), Counter(addresses.values())
    former = {address: name for name, address in known.items() if before[address] == 1}
    moved = {
        former[address]: name
        for name, address in addresses.items()
        if here[address] == 1 and address in former and former[address] != name
    }
    # The name of a channel that is gone may be that of another one now, which must not get its messages.
    gone = {
        name: f"{name}{GONE}"
        for name, address in known.items()
        if name in moved.values() and name not in moved and address not in here
    }
    return moved | gone
