#!/usr/bin/env python3
"""Checks a MailWatch bundle with nothing but Python (3.8 or newer): python3 verify.py [BUNDLE.zip]

Checked: the files; the hashes of the ledger (RFC 6962); that observations and rules give each outage as stated.

Not compared here: signatures (VERIFY.md: openssl); times and bounds over a restart, or where the clock was set;
estimate, gaps, unobserved time, replies; shares and intervals of a window; times of entries outside the outages;
clock_error; claim, service, maintenance, made_by, as_of; the pages of report.pdf. For the rest: mailwatch verify.
"""

import base64
import copy
import datetime
import json
import re
import sys
import zipfile
from hashlib import sha256

if sys.version_info < (3, 8):  # noqa: UP036
    sys.exit("verify.py needs Python 3.8 or newer; this is Python {}.{}".format(*sys.version_info))
FAULTS, DEFAULTS = [], {"proven_afterwards": False, "clock": {}}
canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode  # RFC 8785
sys.excepthook = lambda *error: print("WRONG: this is not a MailWatch bundle:", ascii(error[1])[:200])
bundle = zipfile.ZipFile(sys.argv[1] if len(sys.argv) > 1 else "bundle.zip")
for info in bundle.infolist():  # A few kilobytes may unpack to anything; extra fields may hold other names.
    most = 1 << 36 if info.filename == "entries.jsonl" else 1 << 26
    if info.file_size > min(most, 200 * info.compress_size + 4096) or info.extra[:2] not in (b"", b"\1\0"):
        sys.exit(f"WRONG: {info.filename[:80]!r} would unpack to {info.file_size} bytes, or has extra fields")


def check(what, holds, detail=""):
    """Print one line, and remember what does not hold."""
    line = f"{'ok   ' if holds else 'WRONG'} {what} {detail}"
    print("".join(one if one.isprintable() else "?" for one in line))
    return holds or FAULTS.append(what.strip())


def unique(pairs):
    """An object in which no name stands twice."""
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name stands twice in an object")
    return dict(pairs)


def read(name):
    """The JSON in a file; int accepts neither NaN nor Infinity."""
    return json.loads(bundle.read(name).decode(), object_pairs_hook=unique, parse_constant=int)


def join(hashes, times):
    """Join the last perfect subtrees, so many times (RFC 6962)."""
    for _ in range(times):
        hashes = [*hashes[:-2], sha256(b"\x01" + hashes[-2] + hashes[-1]).digest()]
    return hashes


def milliseconds(text):
    """2026-01-22T21:55:00.000Z in milliseconds since 1970."""
    return text and round(datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000)


class Row:
    """The failures after a good observation, up to the next good one (`end`); each is an index and a payload."""

    def __init__(self, good=None):
        self.good, self.bad, self.end, self.clock, self.causes, self.phases = good, [], None, None, {}, {}
        self.kind = self.open = self.streak = self.down = self.up = self.unknown = self.stepped = self.reboots = 0
        self.go_on(*good or (0, {}))

    def go_on(self, index, fact):
        """Go on to the end of a fact: meanwhile the wall clock may have been set, or the machine restarted."""
        clock, was = fact.get("clock"), self.clock
        self.last, self.clock = index, (clock["boot"], fact["end"] - clock["end"]) if clock else was
        moved = abs(self.clock[1] - was[1]) if was and was[0] == self.clock[0] else 0
        self.reboots += bool(was) and was[0] != self.clock[0]
        self.stepped += moved if moved > 500 else 0
        self.clock = was if 0 < moved <= 500 else self.clock

    def outage(self, state):
        """The id, which follows from the first failure, and the outage."""
        (index, first), self.state, self.end = self.bad[0], state, self.end if state == "closed" else None
        text = "\n".join(filter(None, (self.kind, first["target"], str(index), str(first["start"]))))
        return [(sha256(text.encode()).hexdigest()[:12], copy.copy(self))]


def observe(row, index, kind, fact, rules):
    """The row after the next fact of a target, and the outages that it ends. Gaps and unknowns break no row."""
    here, outcome = (index, fact), fact.get("outcome")
    if kind == "watch":
        row.last = index if fact["event"] in ("begin", "end") else -1
        return (row, []) if row.last < 0 else (Row(), row.outage("unwatched") if row.open and not row.kind else [])
    if outcome == "up" and not row.open:
        return Row(here), []
    row = row if outcome != "down" or row.good or row.bad else Row()
    row.go_on(index, fact)
    if outcome == "up":
        row.closing, row.streak = (row.closing, row.streak + 1) if row.end else (copy.copy(row), 1)
        row.end, row.up = row.end or here, row.up + 1
        row.closing.end = row.end
        if row.streak >= rules["close_after"]:
            return Row(here), row.closing.outage("closed")
    elif outcome == "down":
        row.bad, row.end, row.down = [(row.bad or [here])[0], here], None, row.down + 1
        for counts, name in (row.causes, fact.get("cause")), (row.phases, fact.get("failed_phase")):
            counts.update({name: counts.get(name, 0) + 1} if name else {})
        row.streak += not row.open
        row.open = row.open or row.streak >= rules["open_after"]
    else:
        row.unknown += kind == "observation" or bool(row.kind)
        answered = {"resolve", "connect", "tls", "greeting", "auth" if fact.get("login") else "tls"}
        if fact.get("cause") == "credentials" and not row.open and answered >= set(row.phases):
            row.bad, row.streak, row.down, row.causes, row.phases = [], 0, 0, {}, {}
    return row, []


def log_in(row, index, kind, fact, is_open):
    """The same of a target's logins: a failure is one rejected with the secret accepted before."""
    secret, cause, outcome = fact.get("login") and fact.get("secret"), fact.get("cause"), fact.get("outcome")
    decides = max(reversed(fact.get("attempts") or [{}]), key=lambda one: one.get("cause") == cause)
    same = secret and row.good and row.good[1]["secret"] == secret
    later = fact.get("failed_phase") in ("mailbox", "fetch", "submit") or "owner" in (decides.get("facts") or {})
    rejected = same and cause == "credentials" and not later
    if (rejected and outcome == "down" and is_open) or (secret and outcome == "up" and not same):
        row.bad, row.open, rejected = [], False, False
    row.kind, row.unknown = "proven afterwards", row.unknown if row.bad else 0
    judged = "down" if rejected else "up" if secret and outcome == "up" else "unknown"
    fact = dict(fact, outcome=judged, cause=cause if rejected else None)
    return observe(row, index, kind, fact, {"open_after": 1, "close_after": 1})


# 1. The files
names, manifest = bundle.namelist(), read("manifest.json")["files"]
files = [name for name in names if not name.startswith("manifest.")]
check("each file once, and in the manifest", sorted(files) == sorted(manifest) and len(set(names)) == len(names))
digests = {name: sha256(bundle.read(name) if name != "entries.jsonl" else b"") for name in files}

# 2. The ledger
proof, stated = read("proof.json"), read("period.json" if "period.json" in names else "outage.json")
outages = stated["outages"] if "window" in stated else [stated["outage"]]
window = [milliseconds(stated["window"][edge]) for edge in ("from", "to")] if "window" in stated else [0, 0]
origin, _, key = bundle.read("keys/ledger.pub").decode().strip().split("+", 2)
key_id = base64.b64encode(sha256(f"{origin}\n".encode() + base64.b64decode(key)).digest()[:4]).decode()[:5]
form = re.compile(f"{origin}\n([1-9][0-9]*)\n(.{{44}})\n\n— {origin} {re.escape(key_id)}.{{87}}\n")
notes = {int(form.fullmatch(note)[1]): note for note in proof["checkpoints"] if form.fullmatch(note)}
roots = {size: base64.b64decode(note.split("\n")[2]) for size, note in notes.items()}
grow = list(roots) == sorted(roots) and len(roots) == len(proof["checkpoints"])
check("checkpoints grow, and each names its signer", grow and {origin} == {proof["ledger"], stated["ledger"]})
start = size = proof["start"]["size"]
hashes, tokens, named = [bytes.fromhex(one) for one in proof["start"]["hashes"]], [], {}
fits = {size: join(hashes, len(hashes) - 1) == [roots[size]]} if size else {}
for one in proof["tokens"]:
    # TSTInfo of RFC 3161: its type, the digest that it is over, its time
    info = rb"\*\x86H\x86\xf7\r\x01\t\x10\x01\x04\xa0.{9,80}?\x04 (.{32})\x02.{2,22}?\x18.([0-9.]+)Z"
    ((over, moment),) = re.findall(info, bundle.read(one["file"]), re.DOTALL)
    check("a token is over its checkpoint", over == sha256(notes[one["checkpoint"]].encode()).digest(), moment)
    second = datetime.datetime.strptime(moment[:14].decode() + "+0000", "%Y%m%d%H%M%S%z").timestamp()
    tokens.append((one["entry"], one["checkpoint"], round((second + float(b"0" + moment[14:])) * 1000)))
rows = {one["target"]: (Row(), Row()) for one in stated.get("targets", outages)}
counts = {name: {"up": 0, "down": 0, "unknown": 0} for name in rows}
rules, here, found, recorded = stated.get("rules_before", stated["rules"]), None, {}, {}
times = [1 << 62, -1 << 62]
numbers, ids, hidden, boots, in_order, sealed, no_hole, steady, ruled = {}, {}, set(), {}, *[True] * 5
lines = bundle.open("entries.jsonl")
for line in iter(lambda: lines.readline(1 << 20), b""):
    digests["entries.jsonl"].update(line)
    entry = json.loads(line, parse_constant=int)
    header, payload = entry["header"], entry.get("payload", {})
    index, kind, target, boot, clock = (header.get(name) for name in ("index", "kind", "target", "boot", "clock"))
    in_order &= index == size and (kind != "observation" or payload.get("end", header["time"]) == header["time"])
    no_hole &= target is None or header["number"] == numbers.get(target, header["number"] - 1) + 1
    steady &= clock is None if boot is None else type(clock) is int and clock >= boots.get(boot, 0)
    steady &= boot == here or (boot not in boots and boot is not None)
    here, boots[boot], numbers[target] = boot, clock, header["number"]
    times = [min(times[0], times[0] if kind == "gap" else header["time"]), max(times[1], header["time"])]
    hashes, size = [*hashes, sha256(b"\x00" + canonical(header).encode()).digest()], size + 1
    hashes = join(hashes, (size & -size).bit_length() - 1)
    fits.update({size: join(hashes, len(hashes) - 1) == [roots[size]]} if size in roots else {})
    sealed &= line.decode() == canonical(entry) + "\n"
    sealed &= "payload" not in entry or sha256(canonical(payload).encode()).hexdigest() == header["payload"]
    hidden.update([] if "payload" in entry else [target])
    named.update({index: (payload["checkpoint"], payload["time"])} if kind == "token" else {})
    rules, name = payload.get("rules", rules) if kind == "node" else rules, payload.get("target")
    if target is None or name not in rows:
        continue
    ids.setdefault(name, set()).add(target)
    if kind == "outage":
        recorded[payload["id"]] = payload
        ruled &= payload.get("rules", rules) == rules or not {"window", "rules_before"} & set(stated)
        continue
    if kind == "observation":
        counts[name][payload["outcome"]] += window[0] <= payload["start"] < window[1]
    row, over = observe(rows[name][0], index, kind, payload, rules)
    logins, proven = log_in(rows[name][1], index, kind, payload, row.open)
    rows[name] = row, logins
    found.update(over + proven)
found.update(one for row, _ in rows.values() if row.open for one in row.outage("open"))
in_order &= all(named.get(entry, tuple(stamp)) == tuple(stamp) for entry, *stamp in tokens)
for name in files:
    check(name, digests[name].hexdigest() == manifest.get(name, {}).get("sha256"), digests[name].hexdigest())
check("entries follow one another, as stated", in_order and stated["range"] == {"first": start, "end": size})
check("entries hash to each checkpoint's root", size == proof["end"] == max(roots) and all(map(fits.get, roots)))
check("each payload is the one that was sealed, in canonical form", sealed)
check("each target's numbers run without a hole", no_hole)
check("the clock that nobody can set never runs backwards", steady, f"boots: {len(boots)}")
for name in rows:
    check(f"no observation of {name} is left out", len(ids.get(name, ())) == 1 and not ids[name] & hidden)

# 3. Each outage
for outage in outages:
    row, given = found.get(outage["id"] in recorded and outage["id"]), {**DEFAULTS, **outage, **outage["duration"]}
    if not check("outage", row, f"{outage['id']} of {outage['target']} follows from the observations and rules"):
        continue
    (_, first), (_, last), good, end = *row.bad, row.good and row.good[1], row.end and row.end[1]
    known = {"state": row.state, "proven_afterwards": bool(row.kind), "causes": row.causes, "phases": row.phases}
    known["observations"] = {"down": row.down, "up": row.up, "unknown": row.unknown}
    known["ledger"] = {"first": (row.good or row.bad[0])[0], "last": row.last}
    begun, until, looks = first["end"], max(last["start"], first["end"]), [first, last, *filter(None, (good, end))]
    if not row.stepped and not row.reboots:
        known.update(first_bad=begun, last_bad=until, last_good=good and min(good["start"], begun))
        known["first_good"] = end and max(end["end"], until)
    if "clock" in first and "clock" in last:
        known["clock"] = {"stepped": row.stepped / 1000, "reboots": row.reboots}
    if not row.reboots and all("start" in look.get("clock", {}) for look in looks):
        known["min"] = max(0, last["clock"]["start"] - first["clock"]["end"]) / 1000
        known["max"] = (end["clock"]["end"] - good["clock"]["start"]) / 1000 if good and end else None
    for name, value in known.items():
        fit = (milliseconds(given[name]) if name.startswith(("first_", "last_")) else given[name]) == value
        check(f"  {name.replace('_', ' ')}", fit, given[name])
    before = max((time for at, _, time in tokens if at <= known["ledger"]["first"] and at in named), default=None)
    behind = min((time for _, covers, time in tokens if covers > row.last), default=None)
    off = 60 + stated.get("clock_error", 0) + ("wall" in given["clock"] and given["clock"]["stepped"])
    fit = before is None or milliseconds(given["first_bad"]) >= before - off * 1000
    fit &= behind is None or milliseconds(given["last_bad"]) <= behind + off * 1000
    check("its failures lie between the tokens around it", fit, f"+- {off} s" if before or behind else "none")
    fit = None in (before, behind) or given["min"] * 1000 <= max(0, behind - before) + 2000
    check("it lasted no longer than the tokens around it are apart", fit, "" if before and behind else "not two")
    rules = rules if "window" in stated else recorded.get(outage["id"], {}).get("rules", rules)
check("the rules are those on record", ruled and ("window" in stated or stated["rules"] == rules))
if "window" in stated:
    check("the window lies within the entries", (start == 0 or times[0] <= window[0]) and times[1] >= window[1])
    left = [row for one, row in found.items() if one in recorded and one not in {one["id"] for one in outages}]
    over = [row.state != "open" and (row.end or row.bad[1])[1]["end"] <= window[0] for row in left]
    late = [bool(row.reboots or row.stepped) or row.bad[0][1]["end"] >= window[1] for row in left]
    check("no outage of the window is left out", all(map(max, over, late)), f"{len(outages)} stated")
    for one in stated["availability"]:
        check(f"observations of {one['target']} in the window", one["observations"] == counts[one["target"]])
print("\n" + __doc__.split("\n\n")[2])
print("WRONG: " + "; ".join(FAULTS) if FAULTS else "All checks that plain Python can do have passed.")
sys.exit(1 if FAULTS else 0)
