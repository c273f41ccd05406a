"""The overview: whether mail works now, a card for each provider, and a row for each target."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote, urlencode

from mailwatch.times import Millis, parse_rfc3339
from mailwatch.web.public_shapes import PublicTargetJson
from mailwatch.web.templating import provider_name

MAX_NAMES = 5
_NO_PROVIDER = "*"
STATES = ("down", "unknown", "up", "paused")
"""The states that the list can be filtered by; `unknown` includes all targets that are being rechecked."""
ROWS_PER_PAGE = 100
COLLAPSE_ABOVE = 50
"""Targets above which a provider of which all is up is collapsed until the visitor opens it."""


@dataclass(frozen=True, slots=True)
class Headline:
    """The headline of the overview. It comes first on the page, so it must be true and plain.

    `text`: key of its words (`headline` and `headline_text` in en.yaml). `state`: its colour and symbol.
    """

    text: str
    state: str
    count: int
    of: int
    names: tuple[str, ...]
    """Some of the targets that are not up: those that are down, else those of unknown state."""
    more: int
    """Number of those targets that are not in `names`."""


def headline(targets: Sequence[PublicTargetJson], *, stale: bool, offline_since: Millis | None = None) -> Headline:
    """Summarise the states of all targets. `stale`: the data may be old, so no state of mail is given.

    `offline_since`: since when no server asked for comparison answers. If no mail server answers either, our own
    line is down, which comes before all that it keeps from being known.

    One target that is down outweighs all others. An unknown target does not count as up, and does not make the
    others unknown. A paused target is not counted; that all are paused is our own act, and stays known.
    """
    known = targets
    targets = [target for target in known if target["state"] != "paused"]
    if known and not targets:
        return Headline("all_paused", "paused", len(known), len(known), (), 0)
    up = [target["target"] for target in targets if target["state"] == "up"]
    down = [target["target"] for target in targets if target["state"] == "down"]
    doubtful = [target["target"] for target in targets if target["state"] not in ("up", "down")]
    of = len(targets)
    if stale or not targets:
        return Headline("stale" if stale else "no_targets", "unknown", 0, of, (), 0)
    if offline_since is not None:
        answered = [one["target"] for one in targets if one["state"] == "up" and _seen(one) > offline_since]
        return Headline("no_controls" if answered else "offline", "unknown", len(answered), of, (), 0)
    if down:
        return _named("all_down" if len(down) == of else "some_down", "down", len(down), of, down)
    if doubtful:
        return _named("none_down" if up else "all_unknown", "unknown", len(up), of, doubtful)
    return Headline("all_up", "up", len(up), of, (), 0)


def _seen(target: PublicTargetJson) -> Millis:
    at = target["last_observation"]
    return 0 if at is None else parse_rfc3339(at)


def _named(text: str, state: str, count: int, of: int, names: Sequence[str]) -> Headline:
    return Headline(text, state, count, of, tuple(names[:MAX_NAMES]), len(names[MAX_NAMES:]))


@dataclass(frozen=True, slots=True)
class OverviewQuery:
    """What the visitor wants to see of the list, as it stands in the address bar."""

    text: str = ""
    state: str = ""
    provider: str | None = None
    collapsed: frozenset[str] | None = None
    """The collapsed providers; None until the visitor has collapsed or opened one."""
    page: int = 1

    @property
    def is_filter(self) -> bool:
        """Whether it leaves targets out."""
        return bool(self.text or self.state or self.provider is not None)

    def matches(self, target: PublicTargetJson) -> bool:
        """Return whether a target has the state and the provider, and each word in one of its names."""
        if self.state and group_state(target) != self.state:
            return False
        if self.provider is not None and target["provider"] != self.provider:
            return False
        named = f"{target['target']} {target['provider']} {provider_name(target['provider'])} {target['kind']}"
        return all(word in named.casefold() for word in self.text.casefold().split())

    def url(self) -> str:
        """Return the address of this query, relative to the overview."""
        fields = {"q": self.text or None, "state": self.state or None, "provider": self.provider}
        fields["collapse"] = None if self.collapsed is None else _joined(self.collapsed)
        fields["page"] = str(self.page) if self.page > 1 else None
        return "?" + urlencode({key: text for key, text in fields.items() if text is not None})

    def with_state(self, state: str) -> str:
        """Return the address of the same list in another state."""
        return replace(self, state=state, page=1).url()

    def with_provider(self, provider: str | None) -> str:
        """Return the address of the list of one provider, or of all."""
        return replace(self, provider=provider, page=1).url()

    def with_page(self, page: int) -> str:
        """Return the address of a page of the list."""
        return replace(self, page=page).url()


def _joined(collapsed: Iterable[str]) -> str:
    # A name may hold a comma; only what has no provider has an empty key.
    return ",".join(sorted(quote(key, safe="") or _NO_PROVIDER for key in collapsed))


def collapsed_in(text: str) -> frozenset[str]:
    """Return the collapsed providers that an address names."""
    return frozenset("" if key == _NO_PROVIDER else unquote(key) for key in text.split(",") if key)


def group_state(target: PublicTargetJson) -> str:
    """Return which of STATES a target counts to."""
    return target["state"] if target["state"] in STATES else "unknown"


@dataclass(frozen=True, slots=True)
class ProviderGroup:
    """A provider with its targets."""

    key: str
    name: str
    counts: Mapping[str, int]
    """Targets by state."""
    since: Millis | None
    """The first failed check of the longest open outage; None if nothing is down."""

    @property
    def of(self) -> int:
        """The number of its targets that are not paused."""
        return sum(self.counts.values()) - self.counts.get("paused", 0)

    @property
    def state(self) -> str:
        """The state of the whole: down if anything is, else unknown if anything is."""
        return next((state for state in STATES if self.counts.get(state)), "up")


def provider_groups(targets: Iterable[PublicTargetJson], since: Mapping[str, Millis]) -> list[ProviderGroup]:
    """Return the providers of targets: those with the most targets down first, then unknown, then by name."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    begin: dict[str, Millis] = {}
    for target in targets:
        key = target["provider"]
        counts[key][group_state(target)] += 1
        if target["state"] == "down" and (at := since.get(target["target"])) is not None:
            begin[key] = min(at, begin.get(key, at))
    found = [ProviderGroup(key, provider_name(key), counted, begin.get(key)) for key, counted in counts.items()]
    return sorted(found, key=lambda one: (-one.counts["down"], -one.counts["unknown"], one.name.casefold()))


@dataclass(frozen=True, slots=True)
class ListedGroup:
    """A provider in the list. `toggle`: the address that collapses or opens it."""

    group: ProviderGroup
    is_collapsed: bool
    toggle: str
    targets: Sequence[PublicTargetJson]
    """Its targets on this page of the list, those that are down first."""


@dataclass(frozen=True, slots=True)
class TargetList:
    """A page of the list of targets that match a query."""

    groups: Sequence[ListedGroup]
    found: int
    """Targets that match, on all pages."""
    page: int
    pages: int


def list_targets(
    targets: Sequence[PublicTargetJson], query: OverviewQuery, since: Mapping[str, Millis]
) -> TargetList:
    """Return the page of the list that a query names. Collapsed targets take no place on it."""
    matching = [target for target in targets if query.matches(target)]
    groups = provider_groups(matching, since)
    collapsed = query.collapsed
    if collapsed is None:
        fold = len(matching) > COLLAPSE_ABOVE and not query.is_filter and len(groups) > 1
        collapsed = frozenset(group.key for group in groups if fold and group.state in ("up", "paused"))
    of_group: dict[str, list[PublicTargetJson]] = defaultdict(list)
    for target in matching:
        of_group[target["provider"]].append(target)
    rows = sum(len(of_group[group.key]) for group in groups if group.key not in collapsed)
    pages = max(1, -(-rows // ROWS_PER_PAGE))
    page = min(query.page, pages)
    first = (page - 1) * ROWS_PER_PAGE
    last = first + ROWS_PER_PAGE
    listed, place = [], 0
    for group in groups:
        is_collapsed = group.key in collapsed
        members = (
            [] if is_collapsed else sorted(of_group[group.key], key=lambda one: STATES.index(group_state(one)))
        )
        visible = members[max(0, first - place) : max(0, last - place)]
        # A collapsed group is where the one before it ends.
        if visible or (is_collapsed and (first <= place < last or (page == pages and place == last))):
            toggle = replace(query, collapsed=collapsed ^ {group.key}, page=1).url()
            listed.append(ListedGroup(group, is_collapsed, toggle, visible))
        place += len(members)
    return TargetList(listed, len(matching), page, pages)
