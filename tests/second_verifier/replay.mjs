// The replay of one target: its outages, and the segments of its time.

import { hex, round, sha, spacing } from "./basics.mjs";

const STEP = 500;

// Moments

const begin = (fact) => {
  const { clock, start } = fact;
  return clock && "start" in clock ? { wall: start, clock: clock.start, boot: clock.boot } : { wall: start, clock: null };
};
const finish = (fact) => {
  const { clock, end } = fact;
  return clock ? { wall: end, clock: clock.end, boot: clock.boot } : { wall: end, clock: null };
};
const offsetOf = (moment) => (moment.clock === null ? null : moment.wall - moment.clock);
const read = (...moments) => moments.every((one) => one.clock !== null);

function elapsed(a, b, epochs, observed = 0) {
  if (!read(a, b)) {
    const apart = Math.max(0, b.wall - a.wall);
    return { least: apart, most: apart };
  }
  if (a.boot === b.boot) {
    const apart = Math.max(0, b.clock - a.clock);
    return { least: apart, most: apart };
  }
  const [here, there] = [epochs[a.boot], epochs[b.boot]];
  if (!here || !there) return { least: observed, most: null };
  const least = Math.max(observed, b.clock + there[0] - a.clock - here[1]);
  return { least, most: Math.max(least, b.clock + there[1] - a.clock - here[0]) };
}

function refined(epochs, fact) {
  const { clock, end } = fact;
  if (!clock || clock.bound === undefined) return epochs;
  let [low, high] = [end - clock.end - clock.bound, end - clock.end + clock.bound];
  const before = epochs[clock.boot];
  if (before) {
    const inner = [Math.max(low, before[0]), Math.min(high, before[1])];
    [low, high] = inner[0] <= inner[1] ? inner : [Math.min(low, before[0]), Math.max(high, before[1])];
  }
  return { ...epochs, [clock.boot]: [low, high] };
}

const lengthOf = (a, b, epochs) => {
  const { least, most } = elapsed(a, b, epochs);
  return most ?? Math.max(least, b.wall - a.wall);
};
const overBoots = (a, b) => read(a, b) && a.boot !== b.boot;
const later = (a, b) => {
  if (read(a, b)) return a.boot === b.boot && a.clock > b.clock ? a : b;
  return a.wall > b.wall ? a : b;
};

// Counters

const EMPTY = {
  lastIndex: 0, down: 0, up: 0, unknown: 0, causes: {}, phases: {}, replies: [], observed: null, since: null,
  epochs: {}, latest: null, elapsed: 0, stepped: 0, reboots: 0, offset: null, interval: null, longest: 0, hidden: 0,
  gapsOverBoots: [], hiddenOverBoots: [],
};

const afterGood = (index, fact) => {
  const end = finish(fact);
  const { interval = null } = fact;
  return { ...EMPTY, lastIndex: index, observed: end, latest: end, interval, offset: offsetOf(end), epochs: refined({}, fact) };
};

function advance(c, fact) {
  const end = finish(fact);
  if (end.clock === null) return { ...c, latest: end };
  const epochs = refined(c.epochs, fact);
  const { latest } = c;
  if (!latest || latest.clock === null) return { ...c, epochs, latest: end, offset: offsetOf(end) };
  if (latest.boot !== end.boot) return { ...c, epochs, latest: end, reboots: c.reboots + 1, offset: offsetOf(end) };
  let { stepped, offset } = c;
  if (offset === null || Math.abs(offsetOf(end) - offset) > STEP) {
    stepped += offset === null ? 0 : Math.abs(offsetOf(end) - offset);
    offset = offsetOf(end);
  }
  const passed = c.elapsed + Math.max(0, end.clock - latest.clock);
  return { ...c, epochs, stepped, offset, elapsed: passed, latest: end.clock >= latest.clock ? end : latest };
}

function add(c, from, to, counted) {
  const made = { ...c };
  if (overBoots(from, to)) {
    const others = c.gapsOverBoots.filter(([one]) => JSON.stringify(one) !== JSON.stringify(from));
    made.gapsOverBoots = [...others, [from, to]];
  } else made.longest = Math.max(c.longest, lengthOf(from, to, {}));
  if (overBoots(counted, to)) made.hiddenOverBoots = [...c.hiddenOverBoots, [counted, to]];
  else made.hidden = c.hidden + lengthOf(counted, to, {});
  return made;
}

function skip(c, index, fact, isObservation) {
  const made = { ...advance(c, fact), lastIndex: index, unknown: c.unknown + (isObservation ? 1 : 0) };
  if (!c.observed) return made;
  const [to, counted] = [finish(fact), c.since ?? c.observed];
  return { ...add(made, c.observed, to, counted), since: later(counted, to) };
}

function observedTime(c, index, fact) {
  const made = advance(c, fact);
  const start = begin(fact);
  const from = c.observed ?? start;
  let counted = c.since;
  if (!counted) {
    const apart = lengthOf(from, start, made.epochs);
    const far = fact.interval !== undefined && apart > spacing(Math.max(fact.interval, c.interval ?? 0));
    counted = far ? from : start;
  }
  const interval = fact.interval ?? null;
  return { ...add(made, from, start, counted), lastIndex: index, observed: later(from, finish(fact)), since: null, interval };
}

function failure(c, index, fact) {
  const made = observedTime(c, index, fact);
  const plus = (counts, key) => (key === undefined ? counts : { ...counts, [key]: (counts[key] ?? 0) + 1 });
  const words = fact.attempts.slice(-1).flatMap((one) => (one.replies ?? []).slice(-1));
  return {
    ...made,
    down: c.down + 1,
    causes: plus(c.causes, fact.cause),
    phases: plus(c.phases, fact.failed_phase),
    replies: [...c.replies.filter((word) => !words.includes(word)), ...words].slice(-5),
  };
}

const reference = (c, index, fact) => {
  const start = begin(fact);
  const near = c.latest && read(c.latest, start) && c.latest.boot === start.boot;
  const at = near ? c.elapsed + start.clock - c.latest.clock : c.elapsed;
  return { index, target: fact.target, start, end: finish(fact), detail: fact.detail ?? "", elapsed: at };
};

// Outages

function shownAt(moment, bad, epochs) {
  if (moment.clock === null) return moment.wall;
  const own = offsetOf(moment);
  let base = moment.boot !== bad.boot || bad.clock === null ? own : offsetOf(bad);
  const known = epochs[moment.boot];
  if (known && (base < known[0] - STEP || base > known[1] + STEP)) base = Math.floor((known[0] + known[1]) / 2);
  return Math.abs(own - base) <= STEP ? moment.wall : moment.clock + base;
}

function durations(down, before, after, whole) {
  const { least: min } = down;
  if (!before || !after || !whole || whole.most === null) return { min, max: null, estimate: null, uncertainty: null };
  if ([down, before, after].every((one) => one.least === one.most)) {
    const [a, b] = [before.least, after.least];
    const uncertainty = round(2 * Math.sqrt((a ** 2 + b ** 2) / 12));
    return { min, max: whole.most, estimate: round((2 * min + a + b) / 2), uncertainty };
  }
  const max = Math.max(whole.most, min);
  return { min, max, estimate: round((min + max) / 2), uncertainty: round((max - min) / Math.sqrt(3)) };
}

function outageOf({ good, bad, last, end, c, state, prefix = "", up = c.up, firstIndex, lastIndex }) {
  const { epochs } = c;
  const span = (bad.end.clock ?? 0) - (bad.start.clock ?? 0);
  const firstBad = shownAt(bad.end, bad.end, epochs);
  const lastBad = Math.max(shownAt(last.start, bad.end, epochs), firstBad);
  const lastGood = good ? Math.min(shownAt(good.start, bad.end, epochs), firstBad) : null;
  const firstGood = end ? Math.max(shownAt(end.end, bad.end, epochs), lastBad) : null;
  const exact = (length) => ({ least: length, most: length });
  const steady = read(bad.end, last.end);
  let down = elapsed(bad.end, last.start, epochs, Math.max(0, last.elapsed - bad.elapsed - span));
  let [before, after, whole] = [null, null, null];
  if (steady) {
    before = good && elapsed(good.start, bad.end, epochs);
    after = end && elapsed(bad.index === last.index ? bad.end : last.start, end.end, epochs);
    whole = good && end && elapsed(good.start, end.end, epochs);
  } else {
    down = exact(lastBad - firstBad);
    before = good && exact(firstBad - lastGood);
    after = end && exact(firstGood - lastBad);
    whole = good && end && exact(firstGood - lastGood);
  }
  const sum = (parts, start) => parts.reduce((all, [from, to]) => all + lengthOf(from, to, epochs), start);
  const text = `${prefix}${bad.target}\n${bad.index}\n${bad.start.wall}`;
  return {
    id: hex(sha(text)).slice(0, 12),
    target: bad.target, state, lastGood, firstBad, lastBad, firstGood,
    ...durations(down, before, after, whole),
    down: c.down, up, unknown: c.unknown, causes: c.causes, phases: c.phases, replies: c.replies,
    gap: Math.max(0, c.longest, ...c.gapsOverBoots.map(([from, to]) => lengthOf(from, to, epochs))),
    unobserved: sum(c.hiddenOverBoots, c.hidden),
    firstIndex: firstIndex ?? (good ?? bad).index,
    lastIndex: lastIndex ?? c.lastIndex,
    detail: bad.detail,
    proven: prefix !== "",
    steady, stepped: c.stepped, reboots: c.reboots, wall: false,
    anchor: steady ? { boot: bad.end.boot, offset: firstBad - bad.end.clock } : null,
    until: state === "unwatched" ? lastBad : firstGood,
  };
}

const UNTIL_LOGIN = ["resolve", "connect", "tls", "greeting"];
const AFTER_LOGIN = ["mailbox", "fetch", "submit"];
const NOTHING = { open: false, good: null, bad: null, last: null, recovered: null, streak: 0, c: EMPTY, closing: null };
const NO_LOGIN = { secret: "", accepted: null, first: null, last: null, h: EMPTY };

export class Replay {
  constructor() {
    this.state = NOTHING;
    this.login = NO_LOGIN;
    this.outages = new Map();
    this.count = 0;
  }

  get all() {
    const { state } = this;
    if (!state.open) return this.outages;
    const now = outageOf({ ...state, end: null, state: "open" });
    return new Map(this.outages).set(now.id, now);
  }

  // Whether no outage is open, and no rejection of the login is followed.
  get calm() {
    return !this.state.open && !this.login.first;
  }

  keep(outage) {
    this.outages.set(outage.id, outage);
  }

  feed(index, kind, fact, rules) {
    this.count += kind === "watch" ? 0 : 1;
    const ends = kind === "watch" && ["begin", "end"].includes(fact.event);
    if (ends) {
      if (this.state.open) this.keep(outageOf({ ...this.state, end: null, state: "unwatched", lastIndex: index }));
      this.state = NOTHING;
      this.login = NO_LOGIN;
    }
    if (kind === "watch") return;
    this.step(index, kind, fact, rules);
    this.follow(index, kind, fact);
  }

  step(index, kind, fact, rules) {
    const { state } = this;
    if (kind === "gap") {
      this.state = { ...state, c: skip(state.c, index, fact, false) };
    } else if (fact.outcome === "unknown") {
      const answered = fact.login ? [...UNTIL_LOGIN, "auth"] : UNTIL_LOGIN;
      let made = state;
      if (fact.cause === "credentials" && !state.open && Object.keys(state.c.phases).every((one) => answered.includes(one))) {
        const c = { ...state.c, down: 0, causes: {}, phases: {}, replies: [] };
        made = { ...state, bad: null, last: null, streak: 0, c };
      }
      this.state = { ...made, c: skip(made.c, index, fact, true) };
    } else if (fact.outcome === "down") {
      const c = failure(state.good || state.bad ? state.c : EMPTY, index, fact);
      const ref = reference(c, index, fact);
      const streak = state.open ? 0 : state.streak + 1;
      const open = state.open || streak >= rules.open_after;
      const bad = state.bad ?? ref;
      this.state = { ...state, open, bad, last: ref, recovered: null, closing: null, streak: open ? 0 : streak, c };
      if (open && !state.open) this.keep(outageOf({ ...this.state, end: null, state: "open" }));
    } else {
      const after = afterGood(index, fact);
      const healthy = { ...NOTHING, good: reference(after, index, fact), c: after };
      if (!state.open) {
        this.state = healthy;
        return;
      }
      const c = observedTime(state.c, index, fact);
      const recovered = state.recovered ?? reference(c, index, fact);
      const closing = state.closing ?? c;
      if (state.streak + 1 >= rules.close_after) {
        this.keep(outageOf({ ...state, c: closing, end: recovered, state: "closed" }));
        this.state = healthy;
      } else this.state = { ...state, recovered, closing, streak: state.streak + 1, c: { ...c, up: c.up + 1 } };
    }
  }

  follow(index, kind, fact) {
    const { login } = this;
    const tried = kind === "observation" && fact.login && fact.secret;
    if (tried && fact.outcome === "up") {
      if (fact.secret === login.secret && login.first) {
        const c = observedTime(login.h, index, fact);
        const { accepted, first, last } = login;
        const end = reference(c, index, fact);
        const prefix = "proven afterwards\n";
        this.keep(outageOf({
          good: accepted, bad: first, last, end, c, state: "closed", prefix, up: 0, firstIndex: accepted.index, lastIndex: index,
        }));
      }
      const h = afterGood(index, fact);
      this.login = { secret: fact.secret, accepted: reference(h, index, fact), first: null, last: null, h };
    } else if (tried && rejected(fact) && fact.secret === login.secret && login.accepted) {
      if (fact.outcome === "down" && this.state.open) {
        this.login = { ...login, first: null, last: null };
        return;
      }
      const h = failure(login.h, index, fact);
      const ref = reference(h, index, fact);
      this.login = { ...login, first: login.first ?? ref, last: ref, h };
    } else if (login.first) {
      this.login = { ...login, h: { ...skip(login.h, index, fact, false), unknown: login.h.unknown + 1 } };
    } else if (login.accepted && !(kind === "observation" && fact.outcome === "up")) {
      this.login = { ...login, h: advance(login.h, fact) };
    }
  }
}

function rejected(fact) {
  if (fact.cause !== "credentials" || AFTER_LOGIN.includes(fact.failed_phase)) return false;
  const last = fact.attempts[fact.attempts.length - 1];
  const deciding = [...fact.attempts].reverse().find((one) => one.cause === fact.cause) ?? last;
  return !deciding || !("owner" in (deciding.facts ?? {}));
}

// Segments

const between = (a, b) => (read(a, b) ? elapsed(a, b, {}).least : b.wall - a.wall);
const isSet = (a, b) => read(a, b) && a.boot === b.boot && Math.abs(offsetOf(b) - offsetOf(a)) > STEP;

export class Segments {
  constructor(interval) {
    this.reach = this.reached = spacing(interval);
    this.inferring = true;
    this.due = this.apart = this.latest = this.own = this.run = this.offset = null;
    this.steady = false;
    this.previous = "";
    this.segments = [];
    this.jumps = [];
    this.formerJumps = [];
    this.setWithin = false;
    this.nearPairs = this.farPairs = 0; // of good observations that follow one another
  }

  // `calm`: that of the replay before this fact.
  feed(kind, fact, calm) {
    if (calm && kind === "observation" && fact.outcome === "up" && this.join(fact)) return;
    this.endRun();
    this.single(kind, fact);
    this.steady = fact.clock !== undefined;
    this.previous = kind;
  }

  add(from, to, state) {
    this.segments.push({ from, to, state, steady: this.steady });
  }

  // Whether a good observation continues a run of good ones, the time of which is one segment.
  join(fact) {
    const { own } = this;
    if (this.previous !== "observation" || own?.outcome !== "up" || own.before !== "up") return false;
    const [start, end] = [begin(fact), finish(fact)];
    if (read(start) !== read(own.end)) return false;
    if (read(start) && (start.boot !== own.end.boot || Math.abs(offsetOf(start) - this.offset) > STEP)) return false;
    const apart = read(start) ? start.clock - own.end.clock : start.wall - own.end.wall;
    const reach = fact.interval === undefined ? this.reach : spacing(fact.interval);
    if (apart < 0 || apart > Math.max(reach, this.reached)) return false;
    this.setWithin = isSet(start, end);
    if (this.setWithin) return false;
    if (fact.interval !== undefined) [this.reach, this.inferring] = [reach, false];
    if (this.inferring) this.infer(fact.scheduled);
    this.run ??= own.start;
    this.own = { ...own, start, from: start.wall, to: start.wall + between(start, end), end };
    this.latest = end;
    this.reached = this.reach;
    this.nearPairs++;
    return true;
  }

  endRun() {
    const { run, own } = this;
    if (run) this.add(read(run) ? own.start.wall - (own.start.clock - run.clock) : run.wall, own.start.wall, "up");
    this.run = null;
  }

  single(kind, fact) {
    if (kind === "watch") {
      this.reach = spacing(fact.settings.interval);
      this.inferring = false;
      if (["begin", "end"].includes(fact.event)) {
        this.close(null);
        this.own = null;
        this.reached = this.reach;
      }
      return;
    }
    const [start, end] = [begin(fact), finish(fact)];
    const jump = (a, b) => [a.wall, b.wall - (b.clock - a.clock)];
    const { latest } = this;
    for (const [a, b] of [[latest, start], [start, end]]) if (a && isSet(a, b)) this.jumps.push(jump(a, b));
    if (latest && read(start) && isSet(latest, end) && !this.setWithin) this.formerJumps.push(jump(latest, start));
    this.setWithin = false;
    this.latest = end;
    if (kind === "gap" || fact.outcome === "unknown") {
      this.close(null);
      this.own = null;
      return;
    }
    if (fact.interval !== undefined) {
      this.reach = spacing(fact.interval);
      this.inferring = false;
    }
    if (this.inferring) this.infer(fact.outcome === "up" ? fact.scheduled : null);
    const { own } = this;
    let side = null;
    if (own) {
      const apart = !read(own.end, start) ? start.wall - own.end.wall : own.end.boot === start.boot ? start.clock - own.end.clock : null;
      if (apart !== null && apart >= 0 && apart <= Math.max(this.reach, this.reached)) {
        side = own.outcome === fact.outcome ? fact.outcome : "undecided";
        this.close(side);
        this.add(start.wall - apart, start.wall, side);
      } else this.close(null);
    }
    if (own?.outcome === "up" && fact.outcome === "up") side === null ? this.farPairs++ : this.nearPairs++;
    this.own = { outcome: fact.outcome, before: side, start, from: start.wall, to: start.wall + between(start, end), end };
    this.offset = offsetOf(start);
    this.reached = this.reach;
  }

  infer(due) {
    const apart = this.due === null || due === null ? null : due - this.due;
    if (apart !== null && this.apart !== null && Math.abs(apart - this.apart) <= 5 && apart > 5) this.reach = spacing(apart);
    [this.due, this.apart] = [due, apart];
  }

  close(side) {
    const { own } = this;
    if (!own) return;
    const { before, from, to } = own;
    if (before === "undecided" || side === "undecided") this.add(from, to, "undecided");
    else if (before !== null && side !== null) this.add(from, to, own.outcome);
  }
}
