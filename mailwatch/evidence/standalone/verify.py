#!/usr/bin/env python3
"""Checks this bundle with nothing but Python 3: python3 verify.py [BUNDLE.zip]

1. each file has the SHA-256 of manifest.json
2. the entries of the ledger follow one another, and hash (RFC 6962) to the root of each signed checkpoint
3. each payload shown is the one its header seals, in canonical form; each target's own numbers run without a hole
4. every entry of the targets of outage.json or period.json is shown; the observations give what is stated there
5. the readings of the clock that nobody can set never run backwards in a boot; each stated duration fits them, and
   the times that the tokens on both sides give
What signs checkpoints and tokens is checked with openssl, as VERIFY.md tells.
"""

import base64
import datetime
import hashlib
import json
import sys
import zipfile

FAULTS = []
sys.excepthook = lambda kind, error, _: print(
    "WRONG: this is not a MailWatch bundle:", kind.__name__, str(error)[:200]
)
bundle = zipfile.ZipFile(sys.argv[1] if len(sys.argv) > 1 else "bundle.zip")
for info in bundle.infolist():
    # A zip of a few kilobytes may unpack to anything.
    most = 1 << 36 if info.filename == "entries.jsonl" else 1 << 26
    if info.file_size > min(most, 200 * info.compress_size + 4096):
        sys.exit(f"WRONG: {info.filename[:80]!r} would unpack to {info.file_size} bytes")


def check(what, holds, detail=""):
    """Print one line, and remember what does not hold."""
    said = f"{'ok   ' if holds else 'WRONG'} {what} {detail}"
    print("".join(one if one.isprintable() else "?" for one in said))
    if not holds:
        FAULTS.append(what)


def sha(data):
    """SHA-256, raw."""
    return hashlib.sha256(data).digest()


def grow(size, hashes, leaf):
    """Append a leaf to a compact range: the roots of perfect subtrees, as a binary counter carries."""
    while size & 1:
        leaf, size = sha(b"\x01" + hashes.pop() + leaf), size >> 1
    hashes.append(leaf)


def root_of(hashes):
    """The root over a compact range."""
    root = hashes[-1] if hashes else sha(b"")
    for left in reversed(hashes[:-1]):
        root = sha(b"\x01" + left + root)
    return root


def canonical(value):
    """RFC 8785 for text, whole numbers, true, false and null."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def milliseconds(text):
    """2026-01-22T21:55:00.000Z in milliseconds since 1970."""
    return round(datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000)


def parts(der):
    """Take DER apart (X.690): a list of what is in it."""
    found, at = [], 0
    while at < len(der):
        length, at = der[at + 1], at + 2
        if length > 127:
            length, at = int.from_bytes(der[at : at + length - 128], "big"), at + length - 128
        found.append(der[at : at + length])
        at += length
    return found


def stamped(reply):
    """The SHA-256 that a token is over, and its time in milliseconds (RFC 3161, TSTInfo)."""
    signed = parts(parts(parts(parts(parts(reply)[0])[1])[1])[0])
    told = parts(parts(parts(parts(signed[2])[1])[0])[0])
    second, _, rest = told[4].decode().rstrip("Z").partition(".")
    second = datetime.datetime.strptime(second + "+0000", "%Y%m%d%H%M%S%z")
    return parts(told[2])[1], round(second.timestamp() * 1000) + int((rest + "000")[:3])


# 1. The files
names = bundle.namelist()
check("each file once", len(set(names)) == len(names))
manifest = json.loads(bundle.read("manifest.json"))["files"]
files = [name for name in names if not name.startswith("manifest.")]
check("the files are those of the manifest", sorted(files) == sorted(manifest))
for name in files:
    with bundle.open(name) as file:
        digest = hashlib.sha256()
        while part := file.read(1 << 20):
            digest.update(part)
    check(name, digest.hexdigest() == manifest.get(name, {}).get("sha256"), digest.hexdigest())

# 2. and 3. The ledger
proof = json.loads(bundle.read("proof.json"))
stated = json.loads(bundle.read("period.json" if "period.json" in names else "outage.json"))
outages = stated["outages"] if "outages" in stated else [stated["outage"]]
wanted = {one["target"] for one in stated.get("targets", outages)}
window = [milliseconds(stated["window"][edge]) for edge in ("from", "to")] if "window" in stated else [0, 0]
start = size = proof["start"]["size"]
hashes = [bytes.fromhex(one) for one in proof["start"]["hashes"]]
roots = {int(size): base64.b64decode(root) for _, size, root, *_ in (n.split("\n") for n in proof["checkpoints"])}
check("the range begins and ends at a checkpoint", (start == 0 or start in roots) and max(roots) == proof["end"])
fits = {size: root_of(hashes) == roots[size]} if size in roots else {}
numbers, own_ids, hidden, times, tokens = {}, {}, set(), [], []
here, ticked, steady, boots = None, 0, True, set()
notes = {int(note.split("\n")[1]): note for note in proof["checkpoints"]}
stamps = {}
for one in proof["tokens"]:
    over, moment = stamped(bundle.read(one["file"]))
    check("a token is over its checkpoint", over == sha(notes[one["checkpoint"]].encode()), str(one["checkpoint"]))
    stamps[one["entry"]] = (one["checkpoint"], moment)
own = {name: [] for name in wanted}
counts = {name: {"up": 0, "down": 0, "unknown": 0} for name in wanted}
in_order = sealed = no_hole = True
with bundle.open("entries.jsonl") as lines:
    for line in iter(lambda: lines.readline(1 << 20), b""):
        entry = json.loads(line)
        header = entry["header"]
        sealed &= line == canonical(entry) + b"\n"
        in_order &= header["index"] == size
        target, number = header["target"], header["number"]
        first, last = times or [header["time"]] * 2
        times = [first if header["kind"] == "gap" else min(first, header["time"]), max(last, header["time"])]
        if target is not None:
            no_hole &= number == numbers.get(target, number - 1) + 1
            numbers[target] = number
        boot, clock = header.get("boot"), header.get("clock")
        if here is not None or boot is not None:
            whole = isinstance(clock, int) and not isinstance(clock, bool) and isinstance(boot, str)
            steady &= whole and (clock >= ticked if boot == here else boot not in boots)
            here, ticked = boot, clock if whole else 0
            boots.add(boot)
        grow(size, hashes, sha(b"\x00" + canonical(header)))
        if (size := size + 1) in roots:
            fits[size] = root_of(hashes) == roots[size]
        if "payload" not in entry:
            hidden.add(target)
            continue
        payload = entry["payload"]
        sealed &= hashlib.sha256(canonical(payload)).hexdigest() == header["payload"]
        if header["kind"] == "token" and header["index"] in stamps:
            tokens.append((header["index"], *stamps.pop(header["index"])))
            in_order &= tokens[-1][1:] == (payload["checkpoint"], payload["time"])
        if target is not None and payload["target"] in wanted:
            own_ids.setdefault(payload["target"], set()).add(target)
            if header["kind"] == "observation":
                in_order &= header["time"] == payload["end"]
                looks, outcome = own[payload["target"]], payload["outcome"]
                counts[payload["target"]][outcome] += window[0] <= payload["start"] < window[1]
                # Of good looks in a row the first is enough.
                if outcome != "unknown" and not (looks and looks[-1][1] == outcome == "up"):
                    looks.append(
                        (header["index"], outcome, payload["start"], payload["end"], payload.get("clock"))
                    )
# The entry that names the last token lies behind the range.
tokens += [(size, *stamp) for stamp in stamps.values()]
check("entries follow one another", in_order, f"{start} to {size - 1}")
check("entries hash to the root of every checkpoint", size == proof["end"] and all(fits.get(n) for n in roots))
check("each payload is the one that was sealed, in canonical form", sealed)
check("each target's numbers run without a hole", no_hole)
check("the clock that nobody can set never runs backwards", steady, f"{len(boots)} boots")
for name in wanted:
    check(f"no observation of {name} is left out", len(own_ids.get(name, ())) == 1 and not own_ids[name] & hidden)

# 4. Each outage: between its first and last entry the looks must give the stated times and counts.
for outage in outages:
    where, looks = outage["ledger"], own[outage["target"]]
    check("outage", True, f"{outage['id']} of {outage['target']}")
    if outage.get("proven_afterwards"):
        continue  # Its looks were unknown when they were taken: only MailWatch replays those.
    bad = [look for look in looks if where["first"] <= look[0] <= where["last"] and look[1] == "down"]
    check("failed observations", len(bad) == outage["observations"]["down"], str(len(bad)))
    clock, first, end = outage.get("clock", {}), bad[0], bad[-1]
    first_bad, last_bad = milliseconds(outage["first_bad"]), milliseconds(outage["last_bad"])
    least = outage["duration"]["min"]
    if not clock.get("stepped"):
        check("first failed observation", first[3] == first_bad, outage["first_bad"])
        check("last failed observation", max(end[2], first[3]) == last_bad, outage["last_bad"])
    if first[4] and end[4] and first[4]["boot"] == end[4]["boot"]:
        ran = max(0, end[4]["start"] - first[4]["end"]) / 1000
        check("it lasted at least, by the clock that nobody can set", least == ran, f"{ran} seconds")
    elif first[4] and end[4]:
        check(
            "it lasted at least, over a restart of the machine",
            True,
            f"{least} seconds: computed by MailWatch only",
        )
    else:
        # Written before 2026-11: only the wall clock, and how far it was set.
        wall = (last_bad - first_bad) / 1000
        check("it lasted at least", least <= wall if clock else least == wall, f"{least} seconds")
    before = max((time for index, _, time in tokens if index <= where["first"]), default=None)
    behind = min((time for _, covered, time in tokens if covered > where["last"]), default=None)
    off = 60_000 + round(stated.get("clock_error", 0) * 1000)
    off += round(clock["stepped"] * 1000) if clock.get("wall") else 0
    if before is not None:
        check("the first failure is not before the token before it", first_bad >= before - off)
    if behind is not None:
        check("the last failure is not after the token after it", last_bad <= behind + off)
    if before is not None and behind is not None:
        fits = least * 1000 <= max(0, behind - before) + 2000
        check(
            "it lasted no longer than the tokens around it are apart", fits, f"{(behind - before) / 1000} seconds"
        )
    after = [look for look in looks if look[0] > bad[-1][0] and look[1] == "up"]
    if outage["first_good"]:
        first_good = max(after[0][3], last_bad)
        fits = first_good == milliseconds(outage["first_good"]) or bool(clock.get("stepped"))
        check("first successful observation afterwards", fits, outage["first_good"])
    else:
        check("no success afterwards", not after or outage["state"] != "closed")
reaches = (start == 0 or times[0] <= window[0]) and times[-1] >= window[1]
check("the entries reach over the window on both sides", reaches or "window" not in stated)
for one in stated.get("availability", []):
    check(f"observations of {one['target']} in the window", one["observations"] == counts[one["target"]])

print("\nNot checked here: the signatures of checkpoints and tokens. The commands in VERIFY.md check them.")
print("WRONG: " + "; ".join(FAULTS) if FAULTS else "All checks that plain Python can do have passed.")
sys.exit(1 if FAULTS else 0)
