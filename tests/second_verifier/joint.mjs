// A joint zip: its members one by one, and joint.json again from them.

import { Refused, byPoints, check, hex, integer, iso, sha } from "./basics.mjs";
import { canonical, parse } from "./json.mjs";
import { MERGER_FILES, Tree, attached, bundle, leafOf, manifest, originOf, unzip, verifierKey } from "./verify.mjs";

const same = (one, other) => canonical(one) === canonical(other);
const NAMES = /^(joint\.json|report\.pdf|members\.sha256|manifest\.(json|sig)|keys\/merger\.pub|members\/[0-9a-f]{64}\.zip)$/;
const KEYS = ["id", "vantage_point", "state", "last_good", "first_bad", "last_bad", "first_good", "duration"];

function merged(spans) {
  const found = [];
  for (const [from, to] of [...spans].sort((one, other) => one[0] - other[0] || one[1] - other[1])) {
    if (from >= to) continue;
    const last = found[found.length - 1];
    if (last && from <= last[1]) last[1] = Math.max(last[1], to);
    else found.push([from, to]);
  }
  return found;
}

// How many of the ledgers at each time: [time, count], ending with 0.
function steps(ledgers) {
  const changes = new Map();
  const change = (at, by) => changes.set(at, (changes.get(at) ?? 0) + by);
  for (const spans of ledgers)
    for (const [from, to] of merged(spans)) {
      change(from, 1);
      change(to, -1);
    }
  let count = 0;
  return [...changes]
    .sort(([one], [other]) => one - other)
    .filter(([, by]) => by)
    .map(([at, by]) => [at, (count += by)]);
}

function leastOf(counted, k) {
  const found = [];
  let since = null;
  for (const [at, count] of counted) {
    if (since === null && count >= k) since = at;
    if (since !== null && count < k) {
      found.push([since, at]);
      since = null;
    }
  }
  return found;
}

const spansJson = (spans) => ({
  seconds: spans.reduce((all, [from, to]) => all + to - from, 0) / 1000,
  times: spans.map(([from, to]) => [iso(from), iso(to)]),
});

// When a target was surely and possibly down, and surely up.
function timesOf(member, channel) {
  const facts = member.entries.filter(
    (one) => ["observation", "gap"].includes(one.kind) && one.content?.target === channel.target,
  );
  const begun = Math.min(...facts.map((one) => one.content.start));
  const ended = Math.max(...facts.map((one) => one.content.end));
  const [surely, possibly] = [[], []];
  for (const { firstBad, lastBad, lastGood, firstGood, min, wall } of channel.outages) {
    const apart = Math.max(0, lastBad - firstBad - min);
    if (!apart || !wall) surely.push([firstBad + apart, lastBad - apart]);
    possibly.push([lastGood ?? Math.min(begun, firstBad), firstGood ?? Math.max(ended, lastBad)]);
  }
  const up = member.segmentsOf(channel.target).filter((one) => one.state === "up").map((one) => [one.from, one.to]);
  return { surely, possibly, up };
}

// Full case folding: almost all of CaseFolding.txt follows from the two cases of a letter.
const folded = (text) => [...text].map((one) => (one === "ı" ? one : one.toUpperCase().toLowerCase())).join("");
const plain = (provider) => folded(provider.normalize("NFKC")).split(/\s+/u).filter(Boolean).join(" ");

// One spelling of each provider: the plain one if a member has it, else the first one.
function spellings(providers) {
  const found = new Map();
  for (const one of [...new Set(providers)].sort(byPoints)) {
    const key = plain(one);
    if (key === one || !found.has(key)) found.set(key, one);
  }
  return found;
}

function grouped(members, countedAs, alike, target) {
  const groups = new Map();
  const names = spellings(members.flatMap((one) => one.channels.map((channel) => channel.provider)));
  for (const member of members)
    for (const channel of member.channels) {
      const ledger = countedAs.get(member.key.name);
      const provider = alike ? names.get(plain(channel.provider)) : channel.provider;
      const shared = target && target === channel.target ? target : ledger;
      const name = JSON.stringify([provider || shared, channel.kind]);
      if (!groups.has(name)) groups.set(name, new Map());
      const ledgers = groups.get(name);
      if (!ledgers.has(ledger))
        ledgers.set(ledger, { ledger, vantage: member.vantage, outages: new Map(), surely: [], possibly: [], up: [] });
      const view = ledgers.get(ledger);
      for (const json of channel.json) view.outages.set(json.id, json);
      for (const [key, spans] of Object.entries(timesOf(member, channel))) view[key].push(...spans);
    }
  return [...groups]
    .map(([name, ledgers]) => {
      const [provider, kind] = JSON.parse(name);
      const views = [...ledgers.values()].sort((a, b) => byPoints(a.vantage, b.vantage) || byPoints(a.ledger, b.ledger));
      return groupJson(provider, kind, views);
    })
    .sort(
      (a, b) =>
        b.vantage_points.length - a.vantage_points.length || byPoints(a.provider, b.provider) || byPoints(a.kind, b.kind),
    );
}

function groupJson(provider, kind, views) {
  const surely = steps(views.map((one) => one.surely));
  const possibly = steps(views.map((one) => one.possibly));
  const outages = views.flatMap((view) => [...view.outages.values()].map((json) => ({ view, json })));
  outages.sort((a, b) => byPoints(a.json.first_bad, b.json.first_bad) || byPoints(a.view.ledger, b.view.ledger));
  const contradictions = [];
  const down = leastOf(surely, 1);
  for (const view of views)
    for (const [from, to] of merged(view.up))
      for (const [begin, end] of down) {
        const [low, high] = [Math.max(from, begin), Math.min(to, end)];
        if (low >= high) continue;
        const within = surely.filter(([at], number) => at < high && (surely[number + 1]?.[0] ?? Infinity) > low);
        contradictions.push({ low, high, json: {
          ledger: view.ledger, vantage_point: view.vantage, from: iso(low), to: iso(high),
          down: Math.max(...within.map(([, count]) => count)),
        } });
      }
  contradictions.sort((a, b) => a.low - b.low || a.high - b.high || byPoints(a.json.ledger, b.json.ledger));
  return {
    provider, kind,
    vantage_points: views.map((one) => ({ ledger: one.ledger, vantage_point: one.vantage })),
    outages: outages.map(({ view, json }) => ({ ledger: view.ledger, ...Object.fromEntries(KEYS.map((key) => [key, json[key]])) })),
    at_least: views.map((_, number) => ({
      k: number + 1, surely: spansJson(leastOf(surely, number + 1)), possibly: spansJson(leastOf(possibly, number + 1)),
    })),
    contradictions: contradictions.map((one) => one.json),
  };
}

// Which members count

const contentOf = ({ key, start, entries, signed, channels }) => {
  const end = start.size + entries.length;
  const cases = channels.map(({ provider, kind, outages }) => [provider, kind, ...outages.map((one) => one.id).sort()]);
  return JSON.stringify([key.name, start.size, end, hex(signed.get(end).root), cases]);
};

function smallest(texts) {
  return [...new Set(texts)].sort().slice(0, 4096);
}

// What no two ledgers have in common: the digests and salts of entries with a target.
function seals({ entries }) {
  const own = entries.filter((one) => one.target !== null);
  const salts = own.map((one) => one.content?.salt).filter((one) => typeof one === "string" && one.length >= 16);
  return [
    ...smallest(own.map((one) => one.payload.slice(0, 16))).map((one) => `payload ${one}`),
    ...smallest(salts.map((one) => one.slice(0, 16))).map((one) => `salt ${one}`),
  ];
}

// All roots that a bundle gives at certain sizes: those signed, of the subtrees before the range, and of its entries.
function rootsOf({ start, entries, signed }, sizes) {
  const found = new Map([...signed].map(([size, one]) => [size, hex(one.root)]));
  const bits = [...start.size.toString(2)].map((bit, at, all) => (bit === "1" ? 2 ** (all.length - 1 - at) : 0)).filter(Boolean);
  let size = 0;
  bits.forEach((bit, number) => {
    size += bit;
    found.set(size, hex(new Tree(size, start.hashes.slice(0, number + 1)).root()));
  });
  const tree = new Tree(start.size, [...start.hashes]);
  for (const one of entries) {
    tree.append(leafOf(one.raw));
    if (sizes.has(tree.size)) found.set(tree.size, hex(tree.root()));
  }
  return found;
}

function oneHistory(members) {
  const ledgers = new Map();
  for (const one of members) ledgers.set(one.key.name, [...(ledgers.get(one.key.name) ?? []), one]);
  for (const own of ledgers.values()) {
    const sizes = new Set(own.flatMap((one) => [...rootsOf(one, new Set()).keys()]));
    const known = new Map();
    for (const one of own)
      for (const [size, root] of rootsOf(one, sizes)) {
        check((known.get(size) ?? root) === root, "a ledger has two histories");
        known.set(size, root);
      }
  }
}

const chainOf = (member) => member.stated.chain ?? [];

function countedAsOf(members) {
  const ledgers = new Set(members.map((one) => one.key.name));
  const found = new Map([...ledgers].map((ledger) => [ledger, ledger]));
  for (const member of members)
    for (const link of [...chainOf(member)].reverse()) {
      if (!link.appointed) break;
      if (ledgers.has(link.ledger)) found.set(member.key.name, link.ledger);
    }
  return found;
}

function allCount(members) {
  check(new Set(members.map(contentOf)).size === members.length, "two members have the same content");
  const having = new Map();
  for (const one of members)
    for (const seal of seals(one)) {
      check((having.get(seal) ?? one.key.name) === one.key.name, "two ledgers have an entry in common");
      having.set(seal, one.key.name);
    }
  oneHistory(members);
  const ledgers = new Set(members.map((one) => one.key.name));
  for (const one of members)
    for (const { ledger, appointed } of chainOf(one))
      check(appointed || ledger === one.key.name || !ledgers.has(ledger), "it goes on for another one by its word alone");
}

// Each member was cosigned by another one before its first outage; who was not, is no witness of others.
function allWitnessed(members) {
  const firstOf = ({ channels, start, entries }) =>
    Math.min(start.size + entries.length, ...channels.flatMap((one) => one.outages.map((outage) => outage.firstIndex)));
  let rest = members;
  for (let before = -1; before !== rest.length; ) {
    before = rest.length;
    const all = rest;
    rest = rest.filter((one) => {
      const others = all.filter((other) => other.key.name !== one.key.name).map((other) => other.stated.own_witness);
      return one.cosigned.some(({ witness, entry }) => others.includes(witness) && entry <= firstOf(one));
    });
  }
  check(rest.length === members.length, "a member was not cosigned by another one");
}

// What is stated of each member

function publicAddresses(entries) {
  const found = new Map();
  for (const { kind, content } of entries) {
    if (kind !== "address" || !content || typeof content.address !== "string" || !integer(content.at)) continue;
    const { first, count } = found.get(content.address) ?? { first: content.at, count: 0 };
    found.set(content.address, { first, last: content.at, count: count + 1 });
  }
  return [...found].slice(0, 20).map(([address, { first, last, count }]) => ({ address, first: iso(first), last: iso(last), count }));
}

function clockError({ tokens, stated }) {
  const errors = tokens.map((one) => one.off / 1000);
  if ("clock_error" in stated) errors.push(stated.clock_error);
  return errors.length ? Math.max(...errors) : null;
}

function sourceOf(member, countedAs) {
  const { start, entries, tokens, key } = member;
  const peers = new Map();
  for (const { target, content } of entries)
    if (target !== null)
      for (const { peer } of content?.attempts ?? []) if (peer) peers.set(peer, (peers.get(peer) ?? 0) + 1);
  const often = [...peers].sort(([a, many], [b, more]) => more - many || byPoints(a, b));
  const authorities = [...new Set(tokens.map((one) => one.signer))].sort(byPoints).map((authority) => {
    const times = tokens.filter((one) => one.signer === authority).map((one) => one.time);
    return { authority, count: times.length, first: iso(Math.min(...times)), last: iso(Math.max(...times)) };
  });
  const counted = countedAs.get(key.name);
  return {
    ...(counted === key.name ? {} : { counted_as: counted }),
    begun: { entry: start.size, time: iso(entries[0].time) },
    tokens: authorities,
    clock_error: clockError(member),
    addresses: Object.fromEntries(often.slice(0, 20)),
    address_count: often.length,
    public_addresses: publicAddresses(entries),
  };
}

function sameMachine(members) {
  let groups = [];
  for (const { key, entries } of members) {
    let [ledgers, boots] = [[key.name], [...new Set(entries.map((one) => one.boot).filter(Boolean))]];
    const apart = groups.filter((one) => !one.boots.some((boot) => boots.includes(boot)));
    for (const one of groups.filter((each) => !apart.includes(each))) {
      ledgers = [...ledgers, ...one.ledgers];
      boots = [...boots, ...one.boots];
    }
    groups = [...apart, { ledgers, boots: [...new Set(boots)] }];
  }
  return groups
    .map((one) => [...new Set(one.ledgers)].sort())
    .filter((one) => one.length > 1)
    .sort((a, b) => (a.join() < b.join() ? -1 : 1));
}

// What a hub states of its members: those without a reason are the members here.
function hubListed({ hub, merged_by }, members) {
  const keys = ["ledger", "vantage_point", "window", "provider", "kind", "target", "confirmed", "members"];
  check(same(Object.keys(hub).sort(), keys.sort()) && hub.ledger === merged_by, "another one than the hub merged");
  for (const one of hub.members)
    check(
      same(Object.keys(one).sort(), ["agreed", "ledger", "name", "reason", "send", "vantage_point"]) &&
        (one.send === null || ["all", "checkpoints"].includes(one.send) || (integer(one.send) && one.send > 0)),
      "a member of the hub is not listed as such",
    );
  const listed = hub.members.filter((one) => !one.reason).map((one) => one.ledger);
  const here = members.map((one) => one.key.name);
  check(same([...new Set(listed)].sort(), [...new Set(here)].sort()), "the hub lists other members");
}

function compareMembers(stated, members, countedAs, notCompared) {
  const whole = "report" in stated;
  const known = ["format", "made_by", "members", "left_out", "groups", "witnessed", "hub"];
  if (whole) known.push("report", "same_machine", "merged_by");
  for (const key of Object.keys(stated)) check(known.includes(key), `${key} does not belong in joint.json`);
  check(stated.format === "mailwatch-joint/1" && typeof stated.made_by === "string", "another format");
  check(Array.isArray(stated.left_out), "nothing says what was left out");
  if ("hub" in stated) hubListed(stated, members);
  check(stated.witnessed === undefined || stated.witnessed === true, "witnessed is not true");
  members.forEach((member, number) => {
    const { start, entries, raw } = member;
    const { file, sha256, caveats, ...rest } = stated.members[number];
    const range = { first: start.size, end: start.size + entries.length };
    const made = { size: raw.length, ledger: member.key.name, vantage_point: member.vantage, range };
    if (whole) {
      Object.assign(made, sourceOf(member, countedAs));
      if (!("public_addresses" in rest)) delete made.public_addresses;
      check(Array.isArray(caveats), `${file}: no caveats`);
      notCompared.push("`caveats` of the members");
    } else check(caveats === undefined, `${file}: caveats`);
    for (const key of new Set([...Object.keys(made), ...Object.keys(rest)]))
      check(key in made && key in rest && same(made[key], rest[key]), `${file}: another ${key} is stated`);
  });
  if (whole) check(same(stated.same_machine, sameMachine(members)), "other ledgers were on one machine");
}

export function joint(raw) {
  const claims = {};
  const notCompared = [];
  const step = (name, work) => {
    try {
      work();
      claims[name] = "";
    } catch (error) {
      claims[name] = error instanceof Refused ? error.message : `${error.name}: ${error.message}`;
    }
    return claims[name] === "";
  };
  let [files, stated, members] = [null, null, []];
  if (!step("archive", () => {
    files = unzip(raw, NAMES);
    for (const name of ["joint.json", "report.pdf", "members.sha256"]) check(files.has(name), `${name} is missing`);
  })) return { claims, notCompared };
  const listed = step("joint", () => {
    stated = parse(files.get("joint.json"));
    const digests = stated.members.map((one) => one.sha256);
    check(digests.length > 0 && same(digests, [...new Set(digests)].sort()), "the members are not in order");
    const enclosed = [...files.keys()].filter((name) => name.startsWith("members/"));
    const lines = stated.members.map((one) => `${one.sha256}  ${enclosed.length ? `members/${one.sha256}.zip` : one.file}\n`);
    check(files.get("members.sha256").toString() === lines.join(""), "members.sha256 lists others");
    check([0, stated.members.length].includes(enclosed.length), "some members are not enclosed");
    attached(files.get("report.pdf"), "joint.json", files.get("joint.json"), notCompared);
  });
  if (!listed) return { claims, notCompared };
  const enclosed = [...files.keys()].some((name) => name.startsWith("members/"));
  const all = (enclosed ? stated.members : []).map((one) => step(`member ${one.sha256.slice(0, 12)}`, () => {
    const content = files.get(`members/${one.sha256}.zip`);
    check(content && hex(sha(content)) === one.sha256, "another file");
    const member = bundle(content);
    const failed = Object.entries(member.claims).find(([, why]) => why);
    check(!failed, `${failed?.[0]}: ${failed?.[1]}`);
    check((clockError(member) ?? 0) <= 600, "its clock was off");
    check(!member.short, "it states an interval that its observations do not have");
    check(!member.far, "its observations are further apart than its intervals");
    notCompared.push(...member.notCompared.map((what) => `${what} (${one.file})`));
    members.push(member);
  }));
  step("joint", () => {
    check(enclosed, "not checked: the members are not enclosed");
    check(all.every(Boolean), "a member is not valid");
    allCount(members);
    const countedAs = countedAsOf(members);
    compareMembers(stated, members, countedAs, notCompared);
    check(same(stated.groups, grouped(members, countedAs, "report" in stated, stated.hub?.target)), "the groups do not follow from the members");
    if (stated.witnessed) allWitnessed(members);
  });
  step("merger", () => {
    const merger = stated.merged_by ?? null;
    if (merger === null && !MERGER_FILES.some((name) => files.has(name))) return;
    for (const name of MERGER_FILES) check(files.has(name), `${name} is missing`);
    const key = verifierKey(files.get("keys/merger.pub").toString().replace(/\n$/, ""));
    check(key.name === originOf(key), "the name is not that of the key");
    manifest(files, key);
    check(merger === key.name, "another one merged");
  });
  return { claims, notCompared: [...new Set(notCompared)] };
}
