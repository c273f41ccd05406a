// What outage.json and period.json state, compared with a replay.

import crypto from "node:crypto";
import { check, hex, integer, iso, round } from "./basics.mjs";
import { canonical } from "./json.mjs";
import { readingOf } from "./claim.mjs";
import { Replay, Segments } from "./replay.mjs";

const same = (one, other) => canonical(one) === canonical(other);
const FACTS = ["observation", "gap", "watch"];
const seconds = (millis) => (millis === null ? null : millis / 1000);
const milliseconds = (text) => {
  const time = Date.parse(text);
  check(Number.isFinite(time), `${text} is no time`);
  return time;
};

function rulesOf(stated) {
  const { open_after, close_after, recheck_ms } = stated;
  check(integer(open_after) && integer(close_after) && recheck_ms.every(integer), "rules in another form");
  return stated;
}

// The interval of a service in milliseconds: a number with ms, s, m, h or d; a minute otherwise.
function intervalOf(service) {
  const found = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)$/.exec(service?.interval ?? "");
  return found ? Number(found[1]) * { ms: 1, s: 1000, m: 60000, h: 3600000, d: 86400000 }[found[2]] : 60000;
}

const PHASES = ["resolve", "connect", "tls", "greeting", "auth", "mailbox", "fetch", "submit", "deliver"];
const DOWN = ["dns", "refused", "unreachable", "timeout", "disconnected", "tls", "protocol", "unavailable", "mailbox", "undelivered", "rejected", "credentials"];
const UNKNOWN = ["throttled", "credentials", "offline", "monitor"];

// An observation in its form: its outcome, and a cause that goes with it.
function observed({ outcome, cause, failed_phase, scheduled, login, attempts }, index) {
  check(["up", "down", "unknown"].includes(outcome), `entry ${index}: its outcome`);
  check(outcome === "up" || (outcome === "down" ? DOWN : UNKNOWN).includes(cause), `entry ${index}: its cause`);
  check(failed_phase === undefined || PHASES.includes(failed_phase), `entry ${index}: its phase`);
  check(integer(scheduled) && typeof login === "boolean" && Array.isArray(attempts), `entry ${index}: its form`);
}

// An entry about an outage says what the replay gives at its place; the last good observation may lie before the range.
function sameAsRecorded({ state, last_good, first_bad, last_bad, first_good }, outage, index) {
  const good = outage.lastGood ?? last_good;
  const made = [outage.state, good, outage.firstBad, outage.lastBad, outage.firstGood];
  return same([state, last_good, first_bad, last_bad, first_good], made) ? "" : `entry ${index} is not what the replay gives`;
}

const nodeRules = (entry) => (entry.kind === "node" && entry.content?.rules) || null;

// Widen an outage with wall times only by the steps of the clock within it.
function widened(outage, entries) {
  if (outage.steady) return outage;
  const inside = entries.filter(
    ({ kind, content, index }) =>
      kind === "clock" && content?.event === "step" && outage.firstIndex < index && index <= outage.lastIndex,
  );
  const sum = (sign) => inside.reduce((all, one) => all + Math.max(0, sign * one.content.milliseconds), 0);
  const [ahead, back] = [sum(1), sum(-1)];
  if (!ahead && !back) return outage;
  const min = Math.max(0, outage.min - ahead);
  const max = outage.max === null ? null : Math.max(outage.max + back, min);
  const estimate = max === null ? null : round((min + max) / 2);
  const uncertainty = max === null ? null : round((max - min) / Math.sqrt(3));
  return { ...outage, min, max, estimate, uncertainty, wall: true, stepped: ahead + back, reboots: 0 };
}

export function outageJson(outage, { provider, kind, vantage_point }) {
  const json = {
    id: outage.id, target: outage.target, provider, kind, vantage_point, state: outage.state,
    last_good: iso(outage.lastGood), first_bad: iso(outage.firstBad), last_bad: iso(outage.lastBad),
    first_good: iso(outage.firstGood),
    duration: {
      min: seconds(outage.min), max: seconds(outage.max), estimate: seconds(outage.estimate),
      uncertainty: seconds(outage.uncertainty),
    },
    observations: { down: outage.down, up: outage.up, unknown: outage.unknown },
    largest_gap: outage.gap / 1000, unobserved: outage.unobserved / 1000,
    causes: outage.causes, phases: outage.phases,
    ledger: { first: outage.firstIndex, last: outage.lastIndex },
  };
  if (outage.proven) json.proven_afterwards = true;
  if (outage.steady) json.clock = { stepped: outage.stepped / 1000, reboots: outage.reboots };
  else if (outage.wall) json.clock = { stepped: outage.stepped / 1000, reboots: 0, wall: true };
  return json;
}

export function compareOutage(b) {
  const { stated, entries } = b;
  const { target, id } = stated.outage;
  let rules = rulesOf(stated.rules_before ?? stated.rules);
  rulesOf(stated.rules);
  let unproven = "rules_before" in stated;
  let [recorded, latest] = [null, null];
  const replay = new Replay();
  const segments = new Segments(intervalOf(stated.service));
  for (const entry of entries) {
    const { kind, content, index } = entry;
    const put = nodeRules(entry);
    if (put) {
      [rules, latest, unproven] = [put, put, false];
    }
    if (!content || entry.target === null || content.target !== target) continue;
    if (FACTS.includes(kind)) {
      check(!(unproven && kind === "observation" && replay.all.has(id)), "it opens unrecorded by rules_before");
      if (kind === "observation") observed(content, index);
      const { calm } = replay;
      replay.feed(index, kind, content, rules);
      segments.feed(kind, content, calm);
    } else if (kind === "outage") {
      if (content.rules && "rules_before" in stated) {
        check(same(content.rules, rules), `entry ${index} names other rules than were in force`);
        unproven = false;
      }
      const known = replay.all.get(content.id);
      if (content.id === id) {
        recorded = content;
        check(known, `entry ${index}: there is no such outage yet`);
        check(!sameAsRecorded(content, known, index), `entry ${index} is not what the replay gives`);
      } else check(known || content.ledger?.first < b.start.size, `entry ${index}: there is no such outage`);
    }
  }
  check([...b.names.values()].includes(target), "no entry of the target");
  const known = recorded?.rules ?? latest;
  check(known && same(stated.rules, known), "other rules are on record");
  const found = replay.all.get(id);
  check(found, `a replay of ${replay.count} facts gives no such outage`);
  check(recorded, "no entry records the outage");
  const outage = widened(found, entries);
  const { maintenance, ...rest } = stated.outage;
  check(maintenance === undefined || typeof maintenance === "number", "no maintenance");
  const made = outageJson(outage, recorded);
  for (const key of new Set([...Object.keys(made), ...Object.keys(rest)]))
    check(same(made[key] ?? null, rest[key] ?? null) && key in made === key in rest, `a replay gives another ${key}`);
  check(same(stated.replies, outage.replies), "a replay gives other replies");
  check(stated.first_detail === outage.detail, "a replay gives another first_detail");
  compareClaim(stated, outage, made.kind);
  b.outages = [outage];
  b.channels = [{ provider: made.provider, kind: made.kind, target, outages: [outage], json: [made] }];
  b.vantage = made.vantage_point;
  segments.endRun();
  b.segmentsOf = () => segments.segments;
  if (stated.user_name) {
    const { key, name } = stated.user_name;
    const text = Buffer.concat([Buffer.from("login name\0"), Buffer.from(name)]);
    const commitment = hex(crypto.createHmac("sha256", Buffer.from(key, "hex")).update(text).digest()).slice(0, 32);
    check(recorded?.watch?.login_name === commitment, "another user name is on record");
  }
}

function compareClaim({ claim, outage: { maintenance } }, outage, kind) {
  if (claim === undefined) return;
  const { stated_by_owner: owner, note, rule, reading, ...rest } = claim;
  check(owner && typeof owner === "object" && !Array.isArray(owner), "nothing is stated by the owner");
  check(!Object.keys(rest).length && (rule === undefined) === (reading === undefined), "a claim in another form");
  if (rule !== undefined) check(same(reading, readingOf(claim, outage, kind, maintenance)), "the rule has another reading");
}

export function comparePeriod(b) {
  const { stated, entries } = b;
  const [from, to] = [milliseconds(stated.window.from), milliseconds(stated.window.to)];
  check(from < to, "the window is empty");
  let rules = rulesOf(stated.rules);
  const accounts = new Map(
    stated.targets.map((one) => {
      check(typeof one.interval === "number" && one.interval > 0, "a target without interval");
      const segments = new Segments(round(one.interval * 1000));
      if (!("intervals" in one)) segments.inferring = false;
      return [one.target, { stated: one, replay: new Replay(), segments, recorded: new Map(), foreign: new Map(), different: [], due: new Set(), changes: [], dues: [], counts: { up: 0, down: 0, unknown: 0 } }];
    }),
  );
  check(accounts.size === stated.targets.length && accounts.size > 0, "a target is there twice, or there is none");
  const inside = [];
  let first = null;
  for (const entry of entries) {
    const { kind, content, index, time } = entry;
    const put = nodeRules(entry);
    if (put) {
      first ??= put;
      rules = put;
    }
    const account = content && entry.target !== null ? accounts.get(content.target) : undefined;
    if (!account) continue;
    if (kind === "outage") {
      check(!content.rules || same(content.rules, rules), `entry ${index} names other rules than were in force`);
      account.recorded.set(content.id, content);
      const known = account.replay.all.get(content.id);
      if (!known) account.foreign.set(content.id, content);
      else if (sameAsRecorded(content, known, index)) account.different.push(known);
      continue;
    }
    if (kind === "observation") {
      observed(content, index);
      for (const one of account.replay.all.keys()) account.due.add(one);
    }
    if (from <= time && time < to) inside.push(index);
    const { calm } = account.replay;
    account.replay.feed(index, kind, content, rules);
    account.segments.feed(kind, content, calm);
    learn(account, kind, content);
    if (kind === "observation" && from <= content.start && content.start < to) account.counts[content.outcome] += 1;
  }
  reaches(b, from, to);
  check(b.start.size > 0 || !first || same(stated.rules, first), "other rules are on record");
  check(inside.length && same(stated.entries, { first: Math.min(...inside), last: Math.max(...inside) }), "other entries");
  const ended = entries[entries.length - 1].time;
  for (const account of accounts.values()) {
    account.segments.endRun();
    account.inWindow = counted(account.segments.segments, from, to);
  }
  const all = [];
  b.channels = [];
  const availability = stated.targets.map(({ target }) => {
    const account = accounts.get(target);
    check([...b.names.values()].includes(target), `no entry of ${target}`);
    compareIntervals(account, from, to);
    const touches = (one) => (one.until === null || one.until > from) && one.firstBad < to;
    check(!account.different.some(touches), "an entry about an outage is not what the replay gives");
    for (const [one, content] of account.foreign)
      check(account.replay.all.has(one) || !touches(recordedSpan(content)), `no replay gives outage ${one}`);
    for (const one of account.due)
      check(account.recorded.has(one) || !touches(account.replay.all.get(one)), `outage ${one} is not on record`);
    const before = [...account.replay.all.values()].filter((one) => account.recorded.has(one.id) && touches(one));
    const outages = before
      .map((one) => widened(one, entries))
      .sort((one, other) => one.firstBad - other.firstBad || one.firstIndex - other.firstIndex);
    const made = outages.map((outage) => ({ outage, json: outageJson(outage, account.recorded.get(outage.id)) }));
    all.push(...made);
    const [head] = made;
    b.channels.push({
      provider: head?.json.provider ?? String(account.stated.provider), kind: head?.json.kind ?? String(account.stated.kind),
      target, outages, json: made.map((one) => one.json),
    });
    return (jumps) => ({ target, ...figures(account, jumps(account.segments), before, from, to, ended) });
  });
  const figured = (jumps) => sameFigures(stated.availability, availability.map((one) => one(jumps)));
  check(figured((one) => one.jumps) || figured((one) => one.formerJumps), "a replay gives another availability");
  all.sort((one, other) => one.outage.firstBad - other.outage.firstBad || (one.outage.target < other.outage.target ? -1 : 1));
  check(same(stated.outages, all.map((one) => one.json)), "a replay gives other outages");
  b.outages = all.map((one) => one.outage);
  b.segmentsOf = (target) => accounts.get(target).inWindow;
  b.vantage = all.some((one) => one.json.vantage_point) ? all[0].json.vantage_point : String(stated.vantage_point);
  b.far = [...accounts.values()].some(({ segments: { farPairs, nearPairs } }) => farPairs > nearPairs);
  b.short = stated.targets.some(({ target, interval, intervals }) => !intervals && interval < usual(accounts.get(target).dues) / 2000);
}

const recordedSpan = ({ first_bad, last_bad, first_good, state }) => ({
  firstBad: first_bad, until: first_good ?? (state === "unwatched" ? last_bad : null),
});

// Means are rounded as the processor's fractions fall.
function sameFigures(stated, made) {
  const near = (one, other) => one === other || (one !== null && other !== null && Math.abs(one - other) < 0.0015);
  const rest = ({ mttr, mtbf, ...others }) => others;
  return (
    stated.length === made.length &&
    made.every((one, n) => same(rest(stated[n]), rest(one)) && ["mttr", "mtbf"].every((key) => near(stated[n][key], one[key])))
  );
}

function reaches(b, from, to) {
  const times = b.entries.filter((one) => one.kind !== "gap").map((one) => one.time);
  const [earliest, latest] = [b.entries[0].time, b.entries[b.entries.length - 1].time];
  check(b.start.size === 0 || Math.min(earliest, ...times) <= from, "the range begins inside the window");
  check(Math.max(latest, ...times) >= to, "the range ends inside the window");
}

function learn(account, kind, content) {
  const { changes, dues } = account;
  if (kind === "watch" && content.event !== "end") {
    const { interval } = content.settings;
    if (!changes.length || changes[changes.length - 1].interval !== interval) changes.push({ at: content.at, interval });
  } else if (kind === "observation" && dues.length < 50) {
    dues.push(content.scheduled);
    if (!changes.length) changes.push({ at: null, interval: 0 });
  }
}

function usual(dues) {
  const counts = new Map();
  dues.slice(1).forEach((due, number) => {
    const apart = due - dues[number];
    if (apart > 0) counts.set(apart, (counts.get(apart) ?? 0) + 1);
  });
  const [found] = [...counts].sort(([a, many], [b, more]) => more - many || a - b);
  return found ? found[0] : 60000;
}

function compareIntervals(account, from, to) {
  const { stated, changes, dues } = account;
  if (!("intervals" in stated)) return;
  const made = [];
  changes.forEach(({ at, interval }, number) => {
    const until = changes[number + 1]?.at ?? null;
    if ((until !== null && until <= from) || (at !== null && at >= to)) return;
    if (at === null) made.push({ from: null, interval: usual(dues) / 1000, inferred: true });
    else made.push({ from: iso(at), interval: interval / 1000 });
  });
  check(same(stated.intervals, made) && stated.interval === usual(dues) / 1000, "other intervals are on record");
}

// The segments cut at the window.
function counted(segments, from, to) {
  let done = from;
  const found = [];
  for (const { from: begin, to: end, state, steady } of segments) {
    const [low, high] = [Math.max(begin, steady ? from : done), Math.min(end, to)];
    if (low >= high) continue;
    found.push({ from: low, to: high, state });
    done = high;
  }
  return found;
}

function figures({ counts, inWindow }, jumps, outages, from, to, ended) {
  const spent = { up: 0, down: 0, undecided: 0 };
  for (const one of inWindow) spent[one.state] += one.to - one.from;
  const skipped = jumps.reduce((all, [before, after]) => {
    const inside = Math.max(0, Math.min(Math.max(before, after), to) - Math.max(Math.min(before, after), from));
    return all + (after > before ? inside : -inside);
  }, 0);
  const window = Math.min(to, ended) - from - skipped;
  const { up, down, undecided } = spent;
  const covered = up + down + undecided;
  const middle = (low, high) => Number(((low + high) / 2).toFixed(3));
  const mean = (values) => values.reduce((all, one) => all + one, 0) / values.length / 1000;
  const both = outages.filter((one) => one.max !== null && one.firstGood !== null && from <= one.firstGood && one.firstGood < to);
  const begun = outages.filter((one) => from <= one.firstBad && one.firstBad < to).length;
  return {
    availability: { lower: covered ? up / covered : null, upper: covered ? (up + undecided) / covered : null },
    coverage: window <= 0 ? null : Math.min(1, covered / window),
    downtime: { min: down / 1000, max: (down + undecided) / 1000 },
    observations: counts,
    unobserved: Math.max(0, window - covered) / 1000,
    mttr: both.length ? middle(mean(both.map((one) => one.min)), mean(both.map((one) => one.max))) : null,
    mtbf: begun ? middle(up / begun / 1000, (up + undecided) / begun / 1000) : null,
  };
}

