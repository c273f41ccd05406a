// A joint zip: its members one by one, and joint.json again from them.

import { Refused, check, hex, iso, sha } from "./basics.mjs";
import { canonical, parse } from "./json.mjs";
import { attached, bundle, unzip } from "./verify.mjs";

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
  return { surely, possibly, up: upOf(member, channel) };
}

function upOf(member, channel) {
  return member.segmentsOf(channel.target).filter((one) => one.state === "up").map((one) => [one.from, one.to]);
}

function grouped(members) {
  const groups = new Map();
  for (const member of members)
    for (const channel of member.channels) {
      const name = JSON.stringify([channel.provider || member.key.name, channel.kind]);
      if (!groups.has(name)) groups.set(name, new Map());
      const ledgers = groups.get(name);
      const ledger = member.key.name;
      if (!ledgers.has(ledger))
        ledgers.set(ledger, { ledger, vantage: member.vantage, outages: new Map(), surely: [], possibly: [], up: [] });
      const view = ledgers.get(ledger);
      for (const json of channel.json) view.outages.set(json.id, json);
      for (const [key, spans] of Object.entries(timesOf(member, channel))) view[key].push(...spans);
    }
  const text = (one, other) => (one < other ? -1 : one > other ? 1 : 0);
  return [...groups]
    .map(([name, ledgers]) => {
      const [provider, kind] = JSON.parse(name);
      const views = [...ledgers.values()].sort((a, b) => text(a.vantage, b.vantage) || text(a.ledger, b.ledger));
      return groupJson(provider, kind, views);
    })
    .sort((a, b) => b.vantage_points.length - a.vantage_points.length || text(a.provider, b.provider) || text(a.kind, b.kind));
}

function groupJson(provider, kind, views) {
  const surely = steps(views.map((one) => one.surely));
  const possibly = steps(views.map((one) => one.possibly));
  const outages = views.flatMap((view) => [...view.outages.values()].map((json) => ({ view, json })));
  outages.sort((a, b) => (a.json.first_bad < b.json.first_bad ? -1 : a.json.first_bad > b.json.first_bad ? 1 : a.view.ledger < b.view.ledger ? -1 : 1));
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
  contradictions.sort((a, b) => a.low - b.low || a.high - b.high || (a.json.ledger < b.json.ledger ? -1 : 1));
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
    check(same(digests, [...new Set(digests)].sort()), "the members are not in order");
    const enclosed = [...files.keys()].filter((name) => name.startsWith("members/"));
    const lines = stated.members.map((one) => `${one.sha256}  ${enclosed.length ? `members/${one.sha256}.zip` : one.file}\n`);
    check(files.get("members.sha256").toString() === lines.join(""), "members.sha256 lists others");
    check(enclosed.length === stated.members.length, "the members are not enclosed");
    attached(files.get("report.pdf"), files.get("joint.json"), notCompared);
  });
  if (!listed) return { claims, notCompared };
  const all = stated.members.map((one) => step(`member ${one.sha256.slice(0, 12)}`, () => {
    const content = files.get(`members/${one.sha256}.zip`);
    check(content && hex(sha(content)) === one.sha256, "another file");
    const member = bundle(content);
    const failed = Object.entries(member.claims).find(([, why]) => why);
    check(!failed, `${failed?.[0]}: ${failed?.[1]}`);
    check((member.stated.clock_error ?? 0) <= 600, "its clock was off");
    const { start, entries } = member;
    const range = { first: start.size, end: start.size + entries.length };
    const known = { file: one.file, sha256: one.sha256, size: content.length, ledger: member.key.name, vantage_point: member.vantage, range };
    for (const [key, value] of Object.entries(known)) check(same(one[key], value), `another ${key} is stated`);
    members.push(member);
  }));
  step("joint", () => {
    check(all.every(Boolean), "a member is not valid");
    const roots = new Map();
    for (const member of members)
      for (const [size, signed] of member.signed) {
        const name = `${member.key.name} ${size}`;
        check((roots.get(name) ?? hex(signed.root)) === hex(signed.root), "a ledger signs two histories");
        roots.set(name, hex(signed.root));
      }
    check(same(stated.groups, grouped(members)), "the groups do not follow from the members");
  });
  return { claims, notCompared };
}
