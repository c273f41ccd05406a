// The reading of a provider's rule, from the section "Reading of a rule". Amounts are fractions of whole numbers.

import { check, integer, iso } from "./basics.mjs";

const RULE = ["key", "name", "source_url", "seen_on", "verified", "channels", "target", "window", "minimum_minutes",
  "single_event_percent", "scheduled_excluded", "tiers", "deadline", "definition", "exclusions", "remedy", "send_to", "note"];

// Decimal text as [numerator, denominator].
function decimal(text) {
  const found = /^(\d{1,12})(?:\.(\d{1,10}))?$/.exec(text);
  check(found, `${text} is no decimal text`);
  const [, whole, rest = ""] = found;
  return [BigInt(whole + rest), 10n ** BigInt(rest.length)];
}

// Divided, to so many decimals, up or down, as text.
function divided(numerator, denominator, places, up) {
  const scaled = numerator * 10n ** BigInt(places);
  let whole = scaled / denominator;
  if (up && whole * denominator !== scaled) whole += 1n;
  const digits = String(whole).padStart(places + 1, "0");
  return `${digits.slice(0, -places)}.${digits.slice(-places)}`;
}

const overlap = (one, other) => Math.max(0, Math.min(one[1], other[1]) - Math.max(one[0], other[0]));

// Europe/Rome

const ROME = new Intl.DateTimeFormat("en-GB", {
  timeZone: "Europe/Rome", hourCycle: "h23", year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit",
  minute: "2-digit", second: "2-digit",
});

// The wall time in Rome, as if it were UTC.
function rome(at) {
  const parts = Object.fromEntries(ROME.formatToParts(new Date(at)).map((one) => [one.type, Number(one.value)]));
  return Date.UTC(parts.year, parts.month - 1, parts.day, parts.hour, parts.minute, parts.second);
}

// When a month begins there; months are counted from the year 0.
function monthBegin(count) {
  const wall = Date.UTC(Math.floor(count / 12), count % 12, 1);
  let at = wall;
  for (let again = 0; again < 3; again++) at -= rome(at) - wall;
  return at;
}

const day = (at) => new Date(Math.floor(rome(at) / 86400000) * 86400000);
const later = (from, days) => new Date(from.getTime() + days * 86400000);
const isoDay = (at) => at.toISOString().slice(0, 10);

function windowsOf(rule, [begin, end]) {
  const months = rule.window === "quadrimestre" ? 4 : 1;
  const first = new Date(rome(begin));
  let count = first.getUTCFullYear() * 12 + Math.floor(first.getUTCMonth() / months) * months;
  const found = [];
  while (!found.length || found[found.length - 1][1] <= end) {
    check(found.length < 240, "more than 240 windows");
    found.push([monthBegin(count), monthBegin(count + months)]);
    count += months;
  }
  return found;
}

function deadlineOf({ deadline }, window, outage) {
  if (!deadline) return null;
  if (deadline.after === "outage") return outage.ended ? isoDay(later(day(outage.sure[1]), deadline.days)) : null;
  const last = day(window[1] - 1);
  if (deadline.month_end) return isoDay(new Date(Date.UTC(last.getUTCFullYear(), last.getUTCMonth() + deadline.month_end + 1, 0)));
  return isoDay(later(last, deadline.days));
}

// Counting

function cutsOf(outage, excluded) {
  return outage.up + outage.unknown + Math.ceil((outage.unobserved + (excluded ? outage.maintenance : 0)) / 1000);
}

function downIn(window, outage, rule) {
  const m = (rule?.minimum_minutes ?? 0) * 60000;
  let surely = overlap(outage.sure, window);
  if (rule) {
    const excluded = rule.scheduled_excluded ?? false;
    const length = Math.max(0, surely - outage.unobserved - (excluded ? outage.maintenance : 0));
    const cuts = cutsOf(outage, excluded);
    surely = length >= (cuts + 1) * m ? length - cuts * m : 0;
  }
  if (!outage.possible) {
    const touches = outage.sure[0] < window[1] && outage.sure[1] >= window[0];
    return { surely, possibly: touches ? null : 0 };
  }
  const long = outage.possible[1] - outage.possible[0] >= m;
  return { surely, possibly: long ? Math.min(overlap(outage.possible, window), window[1] - window[0]) : 0 };
}

function counted(total, { surely, possibly }) {
  const percent = (down, up) => divided(BigInt(total - down) * 100n, BigInt(total), 4, up);
  return {
    down: { min: surely / 1000, max: possibly === null ? null : possibly / 1000 },
    available: { at_most: percent(surely, true), at_least: possibly === null ? null : percent(possibly, false) },
  };
}

function below(total, down, percent) {
  const [numerator, denominator] = decimal(percent);
  return BigInt(total - down) * 100n * denominator < numerator * BigInt(total);
}

function tierOf(rule, total, down, fee) {
  const found = (rule.tiers ?? []).filter((one) => below(total, down, one.below)).pop();
  if (!found) return null;
  const made = { below: found.below };
  if (found.days !== undefined) made.days = found.days;
  if (found.percent === undefined) return made;
  made.percent = found.percent;
  if (!fee || (rule.window ?? "month") !== "month") return made;
  const [[amount, cents], [percent, parts]] = [decimal(fee.amount), decimal(found.percent)];
  const months = fee.period === "year" ? 12n : 1n;
  return { ...made, amount: divided(amount * percent, cents * parts * months * 100n, 2, false), currency: fee.currency };
}

function singleEvent(rule, total, outage) {
  const [[target, a], [share, b]] = [decimal(rule.target), decimal(rule.single_event_percent)];
  const [limit, of] = [BigInt(total) * (100n * a - target) * share, 10000n * a * b];
  const observed = Math.max(0, outage.sure[1] - outage.sure[0] - outage.unobserved);
  const surely = BigInt(observed) * of > limit * BigInt(cutsOf(outage, false) + 1);
  const no = outage.possible && BigInt(outage.possible[1] - outage.possible[0]) * of <= limit;
  return { limit: Number(limit / of) / 1000, exceeded: surely ? "surely" : no ? "no" : "possibly" };
}

function byRule(rule, window, outage, fee) {
  const total = window[1] - window[0];
  const down = downIn(window, outage, rule);
  const possibly = down.possibly === null || below(total, down.possibly, rule.target);
  const made = {
    ...counted(total, down),
    broken: below(total, down.surely, rule.target) ? "surely" : possibly ? "possibly" : "no",
    tier: {
      surely: tierOf(rule, total, down.surely, fee),
      possibly: down.possibly === null ? null : tierOf(rule, total, down.possibly, fee),
    },
  };
  return rule.single_event_percent === undefined ? made : { ...made, single_event: singleEvent(rule, total, outage) };
}

// What `rule` and `fee` of a claim give for an outage of the replay; `maintenance` in seconds, as stated.
export function readingOf(claim, outage, kind, maintenance) {
  const { rule, stated_by_owner: { fee } } = claim;
  for (const key of Object.keys(rule)) check(RULE.includes(key), `${key} does not belong in a rule`);
  check(integer(rule.minimum_minutes ?? 0) && ["month", "quadrimestre"].includes(rule.window ?? "month"), "no rule");
  const { firstBad, lastBad, lastGood, firstGood, min, max } = outage;
  const sure = [firstBad, Math.min(lastBad, firstBad + min)];
  const known = lastGood !== null && firstGood !== null && max !== null;
  const facts = {
    sure, possible: known ? [lastGood, Math.max(firstGood, lastGood + max)] : null, ended: firstGood !== null,
    up: outage.up, unknown: outage.unknown, unobserved: outage.unobserved, maintenance: Math.round((maintenance ?? 0) * 1000),
  };
  const covered = !rule.channels?.length || rule.channels.includes(kind);
  const windows = windowsOf(rule, facts.possible ?? sure).map((window) => {
    const made = { from: iso(window[0]), to: iso(window[1]), raw: counted(window[1] - window[0], downIn(window, facts, null)) };
    if (covered && rule.target !== undefined) made.counted = byRule(rule, window, facts, fee);
    const deadline = covered ? deadlineOf(rule, window, facts) : null;
    return deadline ? { ...made, deadline } : made;
  });
  return { zone: "Europe/Rome", covered, windows };
}
