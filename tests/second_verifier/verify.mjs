// A second verifier of MailWatch bundles, written from docs/reference/format.md alone: node verify.mjs FILE.zip...
//
// It prints a line of JSON for each file: {"file", "claims": {claim: "" or why it does not hold}, "not_compared": [...]}.
// It shares no code with MailWatch, and uses nothing but Node.js and, for the signatures of tokens, openssl.

import { execFileSync } from "node:child_process";
import crypto from "node:crypto";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import zlib from "node:zlib";
import { Refused, byPoints, check, hex, integer, sha } from "./basics.mjs";
import { parse, canonical, notDeeper } from "./json.mjs";
import { compareOutage, comparePeriod } from "./statements.mjs";
import { joint } from "./joint.mjs";

const same = (one, other) => canonical(one) === canonical(other);

// Files

const NAMES =
  /^((outage|period)\.json|report\.pdf|entries\.jsonl|proof\.json|manifest\.(json|sig)|keys\/(ledger|maker)\.pub|verify\.py|(VERIFY|VERIFICA)\.md|tokens\/([0-9a-f]{64}\.tsr|[0-9A-Za-z][0-9A-Za-z._-]{0,100}\.pem)|declarations\/[0-9a-f]{64}\.eml)$/;
const NEEDED = ["entries.jsonl", "proof.json", "manifest.json", "manifest.sig", "keys/ledger.pub"];
const most = (name) =>
  name === "entries.jsonl" || name.endsWith(".zip") ? 64 * 2 ** 30
  : name.endsWith(".tsr") ? 65536
  : name.endsWith(".pem") ? 2 ** 20
  : name === "report.pdf" ? 32 * 2 ** 20
  : 64 * 2 ** 20;

const zip64Only = (extra) => {
  for (let at = 0; at < extra.length; ) {
    check(extra.length - at >= 4 && extra.readUInt16LE(at) === 1, "an extra field other than zip64");
    at += 4 + extra.readUInt16LE(at + 2);
    check(at <= extra.length, "an extra field is cut");
  }
};

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
  return byte;
});

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ TABLE[(crc ^ byte) & 255];
  return (crc ^ 0xffffffff) >>> 0;
}

function inflate(packed, size) {
  const { buffer, engine } = zlib.inflateRawSync(packed, { maxOutputLength: size + 1, info: true });
  return { content: buffer, used: engine.bytesWritten };
}

// The header of a file says what the directory says, or nothing of the numbers where they follow the file.
function sameHeader(raw, place, one, extra) {
  check(raw.readUInt16LE(place + 6) === one.flags && raw.readUInt16LE(place + 8) === one.method, `the header of ${one.name}`);
  let [crc, packed, size] = [14, 18, 22].map((offset) => raw.readUInt32LE(place + offset));
  if (extra.length >= 20 && [packed, size].includes(0xffffffff))
    [size, packed] = [4, 12].map((offset) => Number(extra.readBigUInt64LE(offset)));
  const follow = one.flags & 8 && !crc && [packed, size].every((each) => each === 0 || each === 0xffffffff);
  check(follow || (crc === one.crc && packed === one.packed && size === one.size), `the numbers of ${one.name}`);
}

// A data descriptor, with its signature or without, of 32 or 64 bits.
function describes(bytes, { crc, packed, size }) {
  const wide = bytes.length >= 20;
  const rest = bytes.subarray(bytes.length - (wide ? 20 : 12));
  const number = (at) => (wide ? Number(rest.readBigUInt64LE(at)) : rest.readUInt32LE(at));
  const signed = bytes.length === rest.length || bytes.readUInt32LE(0) === 0x08074b50;
  return signed && rest.readUInt32LE(0) === crc && number(4) === packed && number(wide ? 12 : 8) === size;
}

export function unzip(raw, names = NAMES) {
  const end = raw.length - 22;
  check(end >= 0 && raw.readUInt32LE(end) === 0x06054b50, "no end record at the end");
  const count = raw.readUInt16LE(end + 10);
  check(raw.readUInt16LE(end + 8) === count && raw.readUInt16LE(end + 20) === 0, "the end record is odd");
  const begin = raw.readUInt32LE(end + 16);
  const found = [];
  let at = begin;
  for (let number = 0; number < count; number++) {
    check(raw.readUInt32LE(at) === 0x02014b50, "the directory is cut");
    const [nameSize, extraSize, commentSize] = [28, 30, 32].map((offset) => raw.readUInt16LE(at + offset));
    const name = raw.toString("utf8", at + 46, at + 46 + nameSize);
    const extra = raw.subarray(at + 46 + nameSize, at + 46 + nameSize + extraSize);
    zip64Only(extra);
    const one = {
      name,
      flags: raw.readUInt16LE(at + 8),
      method: raw.readUInt16LE(at + 10),
      crc: raw.readUInt32LE(at + 16),
      packed: raw.readUInt32LE(at + 20),
      size: raw.readUInt32LE(at + 24),
      mode: raw.readUInt32LE(at + 38) >>> 16,
      place: raw.readUInt32LE(at + 42),
    };
    let more = 4;
    for (const [key, bytes] of [["size", 8], ["packed", 8], ["place", 8]]) {
      if (one[key] === 0xffffffff) {
        one[key] = Number(extra.readBigUInt64LE(more));
        more += bytes;
      }
    }
    check(commentSize === 0, "a comment");
    at += 46 + nameSize + extraSize;
    found.push(one);
  }
  check([0, 76].includes(end - at), "other bytes in or behind the directory");
  const files = new Map();
  found.sort((one, other) => one.place - other.place);
  let place = 0;
  found.forEach((one, number) => {
    check(names.test(one.name), `${one.name} does not belong there`);
    check(!files.has(one.name), `${one.name} is there twice`);
    check(!(one.flags & 1) && [0, 8].includes(one.method), `${one.name} is encrypted, or packed in another way`);
    check((one.mode & 0o170000) === 0 || (one.mode & 0o170000) === 0o100000, `${one.name} is no plain file`);
    check(one.size <= most(one.name) && one.size <= 4096 + 200 * one.packed, `${one.name} is too long`);
    check(one.place === place && raw.readUInt32LE(place) === 0x04034b50, `other bytes before ${one.name}`);
    const [nameSize, extraSize] = [raw.readUInt16LE(place + 26), raw.readUInt16LE(place + 28)];
    check(raw.toString("utf8", place + 30, place + 30 + nameSize) === one.name, "two names of one file");
    zip64Only(raw.subarray(place + 30 + nameSize, place + 30 + nameSize + extraSize));
    const from = place + 30 + nameSize + extraSize;
    sameHeader(raw, place, one, raw.subarray(from - extraSize, from));
    const packed = raw.subarray(from, from + one.packed);
    const { content, used } = one.method ? inflate(packed, one.size) : { content: packed, used: packed.length };
    check(content.length === one.size && used === packed.length, `${one.name} is not as long as stated`);
    check(crc32(content) === one.crc, `the CRC-32 of ${one.name}`);
    files.set(one.name, content);
    place = from + one.packed;
    const next = number + 1 < found.length ? found[number + 1].place : begin;
    if (one.flags & 8 && [12, 16, 20, 24].includes(next - place)) {
      check(describes(raw.subarray(place, next), one), `what follows ${one.name} is not its description`);
      place = next;
    }
  });
  check(place === begin, "other bytes before the directory");
  return files;
}

// Keys and notes

const publicKey = (raw) =>
  crypto.createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x: raw.toString("base64url") }, format: "jwk" });

export const base64 = (text) => {
  const raw = Buffer.from(text, "base64");
  check(raw.toString("base64") === text, "Base64 in another form");
  return raw;
};

export function verifierKey(text, type = 1) {
  const parts = text.split("+");
  const [name, id] = parts;
  const raw = base64(parts.slice(2).join("+"));
  check(raw.length === 33 && raw[0] === type, "no key of that type");
  const known = hex(sha(`${name}\n`, raw).subarray(0, 4));
  check(id === known, "the id is not that of the key");
  return { name, id: Buffer.from(id, "hex"), key: publicKey(raw.subarray(1)), raw: raw.subarray(1), text };
}

export const originOf = (key) => `mailwatch/${hex(sha(key.raw)).slice(0, 16)}`;

export function openNote(note, key) {
  const at = note.lastIndexOf("\n\n");
  check(at >= 0, "a note without signature");
  const [text, line] = [note.slice(0, at + 1), note.slice(at + 2)];
  check(line.endsWith("\n") && line.split("\n").length === 2 && !text.includes("\n\n"), "not one signature");
  check(text.split("\n")[0] === key.name, "a note of another ledger");
  check(line.startsWith(`— ${key.name} `), "a signature by another name");
  const raw = base64(line.slice(`— ${key.name} `.length, -1));
  check(raw.length === 68 && raw.subarray(0, 4).equals(key.id), "a signature by another key");
  check(crypto.verify(null, Buffer.from(text), key.key, raw.subarray(4)), "the signature is not over the text");
  return text;
}

export function openCheckpoint(note, key) {
  const lines = openNote(note, key).split("\n");
  check(lines.length === 4 && /^(0|[1-9][0-9]*)$/.test(lines[1]), "not three lines");
  const root = base64(lines[2]);
  check(root.length === 32, "no root");
  return { size: Number(lines[1]), root, text: lines.join("\n") };
}

// The tree

export const leafOf = (header) => sha(Buffer.from([0]), header);
const join = (left, right) => sha(Buffer.from([1]), left, right);

export class Tree {
  constructor(size, hashes) {
    this.size = size;
    this.hashes = hashes;
  }
  append(leaf) {
    for (let size = this.size; size % 2 === 1; size = (size - 1) / 2) leaf = join(this.hashes.pop(), leaf);
    this.hashes.push(leaf);
    this.size += 1;
  }
  root() {
    if (!this.hashes.length) return sha("");
    return this.hashes.reduceRight((right, left) => join(left, right));
  }
}

// A proof from a tree of one entry: its leaf, joined with each sibling; the last one may be shorter.
function rootFromFirst(leaf, proof, size) {
  check(proof.length === Math.ceil(Math.log2(size)), "the proof has another length");
  return proof.reduce(join, leaf);
}

// RFC 9162 section 2.1.4.2: the smaller tree is the beginning of the larger one.
function consistent(smaller, larger, proof) {
  if (smaller.size === larger.size) {
    check(!proof.length && smaller.root.equals(larger.root), "two trees of one size");
    return;
  }
  let [node, last] = [smaller.size - 1, larger.size - 1];
  while (node % 2 === 1) [node, last] = [(node - 1) / 2, Math.floor(last / 2)];
  const path = node === 0 ? [smaller.root, ...proof] : [...proof];
  check(proof.length > 0, "no proof");
  let [old, made] = [path[0], path[0]];
  for (const one of path.slice(1)) {
    check(last > 0, "the proof is too long");
    if (node % 2 === 1 || node === last) {
      [old, made] = [join(one, old), join(one, made)];
      while (node !== 0 && node % 2 === 0) [node, last] = [node / 2, Math.floor(last / 2)];
    } else made = join(made, one);
    [node, last] = [Math.floor(node / 2), Math.floor(last / 2)];
  }
  check(last === 0 && old.equals(smaller.root) && made.equals(larger.root), "the proof gives other roots");
}

// Entries

const ENTRY =
  /^\{"header":(\{(?:"boot":"([0-9a-f]{16})","clock":(0|[1-9][0-9]{0,15}),)?"index":(0|[1-9][0-9]{0,15}),"kind":"([a-z]{1,20})","number":(null|[1-9][0-9]{0,15}),"payload":"([0-9a-f]{64})",(?:"run":"([0-9a-f]{16})",)?"target":(null|"[0-9a-f]{16}"),"time":(0|-?[1-9][0-9]*),"v":([12])\})(?:,"payload":(\{.*\}))?\}$/s;
const WITH_TARGET = ["observation", "gap", "outage", "watch"];
const DISCLOSED = ["guard", "clock", "node", "token", "successor", "witness"];

export function parseEntry(line) {
  const found = ENTRY.exec(line);
  check(found, "an entry in another form");
  const entry = JSON.parse(line);
  notDeeper(entry, 250);
  check(canonical(entry) === line && !/[\[:,]-?[0-9]{16,}/.test(line.replace(/"(?:[^"\\]|\\.)*"/gs, '""')), "an entry that is not canonical");
  const { header, payload } = entry;
  if (payload !== undefined) {
    check(hex(sha(canonical(payload))) === header.payload, `the payload of entry ${header.index} is another one`);
  }
  return { ...header, raw: Buffer.from(found[1]), content: payload };
}

function clockFaults(entries) {
  const boots = new Set();
  const runs = new Set();
  const ended = new Map();
  let [boot, run, clock, begun] = ["", "", 0, false];
  for (const one of entries) {
    const where = `entry ${one.index}`;
    if (one.v === 1) {
      check(!("boot" in one) && !("run" in one) && !("clock" in one) && !begun, `${where} is of version 1`);
    } else {
      begun = true;
      check("boot" in one && "run" in one && integer(one.clock), `${where} has no reading`);
      if (one.boot !== boot) {
        check(!boots.has(one.boot), `${where}: a boot comes back`);
        check(!runs.has(one.run), `${where}: a run goes on in another boot`);
      } else check(one.clock >= clock, `${where}: the clock runs backwards`);
      check(one.run === run || !runs.has(one.run), `${where}: a run comes back`);
      boots.add(one.boot);
      runs.add(one.run);
      [boot, run, clock] = [one.boot, one.run, one.clock];
    }
    if (!one.content || !["observation", "gap", "watch"].includes(one.kind)) continue;
    const span = one.content.clock;
    if (!begun) {
      check(span === undefined, `${where} has a reading, but its header has none`);
      continue;
    }
    check(span && typeof span === "object", `${where} has no clock`);
    for (const key of Object.keys(span)) check(["boot", "start", "end", "bound"].includes(key), `${where}: ${key}`);
    for (const key of ["end", ...["start", "bound"].filter((name) => name in span)])
      check(integer(span[key]) && span[key] >= 0, `${where}: ${key} is no whole number`);
    check("start" in span || one.kind === "gap", `${where} has no start`);
    check(span.boot === boot && span.end <= clock, `${where}: its clock does not fit its header`);
    check(!("start" in span) || span.start <= span.end, `${where} ends before it starts`);
    if (one.kind !== "observation") continue;
    const before = ended.get(one.content.target);
    check(!before || before.boot !== boot || span.start >= before.end, `${where} begins too early`);
    ended.set(one.content.target, { boot, end: span.end });
  }
}

// By how much the clock was set in all, and how long the machine slept: at most as long as a pause between two entries.
function disturbance(entries) {
  const [pauses, sleeps] = [new Map(), []];
  let [all, before] = [0, null];
  for (const { kind, content, boot, clock } of entries) {
    if (boot && before?.boot === boot) pauses.set(boot, Math.max(pauses.get(boot) ?? 0, clock - before.clock));
    before = { boot, clock };
    if (kind !== "clock" || !["step", "suspend"].includes(content?.event)) continue;
    if (content.event === "suspend" && boot) sleeps.push([boot, content.milliseconds]);
    else all += Math.abs(content.milliseconds);
  }
  return all + sleeps.reduce((sum, [boot, slept]) => sum + Math.min(slept, (pauses.get(boot) ?? 0) + 60000), 0);
}

const WORDS = {
  event: ["begin", "continue", "change", "end"],
  kind: ["imap", "pop3", "smtp", "mx", "webmail", "roundtrip"],
  tls: ["implicit", "starttls", "none"],
};

function checkWatch(one) {
  const { at, event, settings } = one.content;
  check(integer(at) && WORDS.event.includes(event), `entry ${one.index}: when and what is not stated`);
  check(WORDS.kind.includes(settings.kind) && WORDS.tls.includes(settings.tls), "kind or tls");
  for (const key of ["port", "interval", "timeout"]) check(integer(settings[key]) && settings[key] >= 0, key);
  check(settings.interval > 0, "no interval");
  for (const key of ["provider", "host"]) check(typeof settings[key] === "string", key);
  for (const key of ["catalogue", "own_ca"]) check(typeof settings[key] === "boolean", key);
  check(integer(settings.rules.open_after) && integer(settings.rules.close_after), "no rules");
}

// Tokens

function der(bytes) {
  const found = [];
  for (let at = 0; at < bytes.length; ) {
    const tag = bytes[at];
    let length = bytes[at + 1];
    let from = at + 2;
    if (length > 127) {
      const count = length - 128;
      length = Number(`0x${hex(bytes.subarray(from, from + count))}`);
      from += count;
    }
    found.push({ tag, content: bytes.subarray(from, from + length), raw: bytes.subarray(at, from + length) });
    at = from + length;
  }
  return found;
}

function tokenOf(reply) {
  const [status, content] = der(der(reply)[0].content);
  check([0, 1].includes(der(status.content)[0].content[0]), "the authority refused");
  const signed = der(der(der(content.content)[1].content)[0].content);
  const info = der(der(der(der(signed[2].content)[1].content)[0].content)[0].content);
  const [algorithm, imprint] = der(info[2].content);
  check(hex(der(algorithm.content)[0].content) === "608648016503040201", "an imprint by another hash");
  const [, date, fraction] = /^(\d{14})(?:\.(\d+))?Z$/.exec(info[4].content.toString());
  const [year, month, ...rest] = [date.slice(0, 4), ...date.slice(4).match(/../g)].map(Number);
  const time = Date.UTC(year, month - 1, ...rest) + Number(`${fraction ?? ""}000`.slice(0, 3));
  return { imprint: imprint.content, time };
}

const COMMON_NAME = "0603550403";

// The common names in a Name; undefined if it has none.
function commonName(name) {
  const names = der(der(name)[0].content).flatMap((set) => der(set.content));
  const found = names.map((one) => der(one.content)).filter(([type]) => hex(type.raw) === COMMON_NAME);
  const [text] = found.map(([, value]) => value.content.toString(value.tag === 0x1e ? "utf16le" : "utf8"));
  return text === undefined ? undefined : [...text].slice(0, 200).join("");
}

// Who signed a token, and who issued that certificate: "" where no certificate in the token, or more than one, fits.
function signerOf(reply) {
  const signed = der(der(der(der(der(reply)[0].content)[1].content)[1].content)[0].content);
  const packed = signed.find((one) => one.tag === 0xa0);
  const sid = der(der(signed[signed.length - 1].content)[0].content)[1];
  let found = packed ? der(packed.content).map((one) => der(der(one.content)[0].content)) : [];
  // Version, serial number, algorithm, issuer, validity, subject; the version may be missing.
  found = found.map((parts) => (parts[0].tag === 0xa0 ? parts.slice(1) : parts));
  if (sid.tag === 0x30) {
    const [issuer, serial] = der(sid.content);
    found = found.filter((parts) => parts[2].raw.equals(issuer.raw) && parts[0].raw.equals(serial.raw));
  }
  if (found.length !== 1) return { signer: "", issuer: "" };
  return { signer: commonName(found[0][4].raw), issuer: commonName(found[0][2].raw) };
}

function signatureHolds(reply, note, pems) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "second-"));
  const place = (name) => path.join(folder, name);
  try {
    fs.writeFileSync(place("reply"), reply);
    fs.writeFileSync(place("note"), note);
    fs.writeFileSync(place("pem"), pems);
    const words = ["ts", "-verify", "-data", place("note"), "-in", place("reply"), "-CAfile", place("pem")];
    execFileSync("openssl", [...words, "-untrusted", place("pem")], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
}

// One bundle

const STEPS = {
  archive(b) {
    b.files = unzip(b.raw);
    for (const name of NEEDED) check(b.files.has(name), `${name} is missing`);
    const statements = ["outage.json", "period.json"].filter((name) => b.files.has(name));
    check(statements.length === 1, "not one statement");
    [b.statement] = statements;
    b.proof = parse(b.files.get("proof.json"));
  },
  key(b) {
    const text = b.files.get("keys/ledger.pub").toString();
    check(text.endsWith("\n"), "no newline");
    b.key = verifierKey(text.slice(0, -1));
    check(b.key.name === originOf(b.key), "the name is not that of the key");
  },
  checkpoints(b) {
    const { format, start, end, checkpoints, ledger } = b.proof;
    check(format === "mailwatch-proof/1", "another format");
    check(ledger === b.key.name && integer(end) && Array.isArray(checkpoints), "no ledger, end and checkpoints");
    b.signed = new Map();
    let before = 0;
    for (const note of checkpoints) {
      const one = openCheckpoint(note, b.key);
      check(one.size > before, "the checkpoints are not in order");
      before = one.size;
      b.signed.set(one.size, { ...one, note });
    }
    const bits = [...start.size.toString(2)].filter((bit) => bit === "1").length;
    check(integer(start.size) && start.hashes.length === bits, "start is no tree");
    b.start = { size: start.size, hashes: start.hashes.map((one) => Buffer.from(one, "hex")) };
    const sizes = [...b.signed.keys()];
    check(sizes.length && end === Math.max(...sizes) && Math.min(...sizes) >= start.size, "the ends are not signed");
    check(start.size === 0 || b.signed.has(start.size), "no checkpoint signs the start");
  },
  entries(b) {
    const text = b.files.get("entries.jsonl").toString();
    check(text === "" || text.endsWith("\n"), "the last line is cut");
    b.entries = text.split("\n").slice(0, -1).map(parseEntry);
    const tree = new Tree(b.start.size, [...b.start.hashes]);
    const compare = () => {
      const signed = b.signed.get(tree.size);
      check(!signed || signed.root.equals(tree.root()), `the root of ${tree.size} entries is another one`);
    };
    compare();
    for (const one of b.entries) {
      tree.append(leafOf(one.raw));
      compare();
    }
    check(tree.size === b.proof.end, "there are fewer or more entries than are signed");
    b.names = new Map();
    for (const { target, content, kind, time, index } of b.entries) {
      if (kind === "clock" && content && ["step", "suspend"].includes(content.event))
        check(integer(content.milliseconds) && (content.event === "step" || content.milliseconds >= 0), `entry ${index}: by how much`);
      if (!content || target === null) continue;
      check(typeof content.target === "string", `entry ${index} names no target`);
      check((b.names.get(target) ?? content.target) === content.target, `entry ${index} names another target`);
      b.names.set(target, content.target);
      if (kind === "observation")
        check(content.end === time && integer(content.start) && content.start <= time, `entry ${index}: its time`);
    }
  },
  order(b) {
    b.entries.forEach((one, number) => {
      check(one.index === b.start.size + number, `entry ${one.index} stands at another place`);
      const has = one.target !== null;
      check(has === (one.number !== null) && has === WITH_TARGET.includes(one.kind), `entry ${one.index}: its kind`);
    });
  },
  numbers(b) {
    const last = new Map();
    for (const { target, number, index } of b.entries) {
      if (target === null) continue;
      check(!last.has(target) || number === last.get(target) + 1, `entry ${index}: its number`);
      last.set(target, number);
    }
  },
  clock: (b) => clockFaults(b.entries),
  watched: (b) => b.entries.filter((one) => one.kind === "watch" && one.content).forEach(checkWatch),
  "nothing left out"(b) {
    for (const { target, content, kind, index } of b.entries) {
      if (content) continue;
      check(target === null || !b.names.has(target), `entry ${index} of ${b.names.get(target)} is not disclosed`);
      check(!DISCLOSED.includes(kind), `entry ${index} is not disclosed`);
    }
    check(new Set(b.names.values()).size === b.names.size, "two targets have one name");
  },
  chain(b) {
    const { first } = b.proof;
    const stated = parse(b.files.get(b.statement)).chain ?? [];
    for (const one of b.entries) check(one.kind !== "successor" || one.index === 0, "a later entry names one");
    let entry = b.start.size === 0 && b.entries[0].kind === "successor" ? b.entries[0] : null;
    if (first !== undefined) {
      check(b.start.size > 0, "first is in the range");
      entry = parseEntry(canonical({ header: first.header, payload: first.payload }));
      check(entry.index === 0 && entry.kind === "successor" && entry.target === null, "first is another entry");
      const proof = first.proof.map((one) => Buffer.from(one, "hex"));
      const root = new Tree(b.start.size, b.start.hashes).root();
      check(rootFromFirst(leafOf(entry.raw), proof, b.start.size).equals(root), "the tree begins with another entry");
    }
    check(same(stated, entry ? predecessors(entry.content, b.key) : []), "the statement has other predecessors");
  },
  tokens(b) {
    const pems = [...b.files].filter(([name]) => name.endsWith(".pem")).map(([, content]) => content);
    for (const pem of pems) check(pem.includes("-----BEGIN CERTIFICATE-----"), "no certificate");
    const unlisted = new Set([...b.files.keys()].filter((name) => name.endsWith(".tsr")));
    const named = new Map(b.entries.filter((one) => one.kind === "token").map((one) => [one.content.reply, one]));
    b.tokens = b.proof.tokens.map(({ file, entry, checkpoint }) => {
      check(unlisted.delete(file), `${file} is missing, or listed twice`);
      const reply = b.files.get(file);
      const digest = hex(sha(reply));
      check(file === `tokens/${digest}.tsr`, `${file} has another digest`);
      const note = b.signed.get(checkpoint)?.note;
      check(note, `no checkpoint of ${checkpoint} entries`);
      const { imprint, time } = tokenOf(reply);
      check(imprint.equals(sha(note)), `${file} is over something else`);
      check(signatureHolds(reply, note, Buffer.concat(pems)), `the signature of ${file} leads to no certificate`);
      const by = named.get(digest);
      const who = signerOf(reply);
      if (!by) return { entry: -1, checkpoint, time, off: 0, ...who };
      const { content } = by;
      check(by.index === entry && content.checkpoint === checkpoint && content.time === time, `entry ${by.index}`);
      const off = Math.max(0, content.asked - time, time - content.answered);
      return { entry, checkpoint, time, off, boot: by.boot, clock: by.clock, ...who };
    });
    check(unlisted.size === 0, "a token is not listed");
  },
  times(b) {
    const off = Math.max(0, ...b.tokens.map((one) => one.off));
    const allowed = 60000 + off + disturbance(b.entries);
    const ended = new Map();
    for (const { kind, content } of b.entries) {
      if (kind !== "observation" || !content) continue;
      const before = ended.get(content.target) ?? content.start;
      check(before - content.start <= allowed, "an observation begins before the one before it ended");
      ended.set(content.target, content.end);
    }
    const dated = b.entries.filter((one) => one.kind !== "gap");
    for (const token of b.tokens) {
      for (const { index, time } of dated) {
        check(index >= token.checkpoint || time <= token.time + allowed, `entry ${index} is later than a token over it`);
        const behind = token.entry >= 0 && index > token.entry;
        check(!behind || time >= token.time - allowed, `entry ${index} is earlier than a token before it`);
      }
    }
    const under = (token) => b.entries[token.checkpoint - 1 - b.start.size] ?? {};
    const sorted = [...b.tokens].sort((one, other) => one.checkpoint - other.checkpoint);
    sorted.slice(1).forEach((later, number) => {
      const earlier = sorted[number];
      const passed = later.time - earlier.time;
      const slack = 2000 + Math.floor(Math.max(0, passed) / 1000);
      const [last, first] = [under(later), under(earlier)];
      if (earlier.boot && last.boot === earlier.boot)
        check(last.clock - earlier.clock <= passed + slack, "the clock ran faster than the tokens");
      if (later.boot && first.boot === later.boot)
        check(passed <= later.clock - first.clock + slack, "the clock ran slower than the tokens");
    });
  },
  outage(b) {
    b.stated = parse(b.files.get(b.statement));
    check(b.stated.format === `mailwatch-evidence${b.statement === "outage.json" ? "" : "-period"}/1`, "another format");
    (b.statement === "outage.json" ? compareOutage : comparePeriod)(b);
    comparePlace(b);
  },
  witness(b) {
    b.cosigned = [];
    for (const { kind, content, index } of b.entries) {
      if (kind !== "witness") continue;
      check(content.checkpoint <= index, `entry ${index}: its checkpoint is signed later`);
      if (content.cosignature === undefined || !b.signed.has(content.checkpoint)) continue;
      const key = verifierKey(content.witness, 4);
      const prefix = `— ${key.name} `;
      check(content.cosignature.startsWith(prefix), `entry ${index}: the name of its witness`);
      const raw = base64(content.cosignature.slice(prefix.length));
      check(raw.length === 76 && raw.subarray(0, 4).equals(key.id), `entry ${index}: no cosignature by that key`);
      const seconds = raw.readBigUInt64BE(4);
      const text = `cosignature/v1\ntime ${seconds}\n${b.signed.get(content.checkpoint).text}`;
      check(crypto.verify(null, Buffer.from(text), key.key, raw.subarray(12)), `entry ${index}: its cosignature`);
      check(content.time === Number(seconds) * 1000, `entry ${index}: the time of its cosignature`);
      b.cosigned.push({ entry: index, witness: content.witness });
    }
    for (const one of b.stated?.witnesses ?? []) witnessStatement(b, one);
  },
  carried(b) {
    for (const { kind, content, index } of b.entries) {
      if (kind !== "carried" || !content) continue;
      const { message, domain, selector, key, checkpoint } = content;
      check(Buffer.byteLength(message) <= 16384, `entry ${index}: its message is too long`);
      dkim(message, domain, selector, key);
      const made = openCheckpoint(declaredNote(unquoted(message)), b.key);
      check(made.size === checkpoint && checkpoint <= index, `entry ${index}: another checkpoint is in its message`);
      check(b.signed.get(checkpoint)?.text === made.text, `entry ${index}: a checkpoint of another history`);
    }
  },
  declaration(b) {
    const unlisted = new Set([...b.files.keys()].filter((name) => name.startsWith("declarations/")));
    for (const { file, proof } of parse(b.files.get(b.statement)).declarations ?? []) {
      check(unlisted.delete(file), `${file} is missing, or listed twice`);
      const message = b.files.get(file);
      check(file === `declarations/${hex(sha(message))}.eml`, `${file} has another digest`);
      const note = declaredNote(message.toString());
      if (!note) {
        b.notCompared.push(`${file}, which is encoded`);
        continue;
      }
      const declared = openCheckpoint(note, b.key);
      const next = [...b.signed.values()].filter((one) => one.size >= declared.size);
      check(next.length, `${file} declares more entries than the bundle reaches to`);
      const later = next.reduce((one, other) => (one.size < other.size ? one : other));
      consistent(declared, later, proof.map((one) => Buffer.from(one, "hex")));
    }
    check(unlisted.size === 0, "a declaration is not listed");
  },
  report(b) {
    if (b.files.has("report.pdf")) attached(b.files.get("report.pdf"), b.statement, b.files.get(b.statement), b.notCompared);
  },
  files(b) {
    const { maker, ...rest } = parse(b.files.get(b.statement));
    if (!b.files.has("keys/maker.pub")) {
      check(maker === undefined, "no key of the maker");
      return manifest(b.files, b.key);
    }
    const key = verifierKey(b.files.get("keys/maker.pub").toString().replace(/\n$/, ""));
    check(key.name === originOf(key) && key.name !== b.key.name, "the maker's name is not that of its key");
    check(maker?.ledger === key.name && b.statement === "period.json", "another maker is stated");
    for (const word of ["claim", "declarations", "own_witness", "user_name", "witnesses"])
      check(!(word in rest), `the maker states ${word}`);
    manifest(b.files, key);
  },
};

export const MERGER_FILES = ["manifest.json", "manifest.sig", "keys/merger.pub"];

// The manifest lists all other files, and the key signs it.
export function manifest(files, key) {
  const raw = files.get("manifest.json");
  const { files: listed, format } = parse(raw);
  check(format === undefined || format === "mailwatch-manifest/1", "another format");
  const signed = openNote(files.get("manifest.sig").toString(), key);
  check(signed === `${key.name}\nmanifest ${hex(sha(raw))}\n`, "another manifest is signed");
  const names = [...files.keys()].filter((name) => !name.startsWith("manifest."));
  check(same([...names].sort(), Object.keys(listed).sort()), "other files are listed");
  for (const name of names) {
    const content = files.get(name);
    check(same(listed[name], { sha256: hex(sha(content)), size: content.length }), `${name} is another file`);
  }
}

const STATEMENT =
  /^mailwatch-register\/v1\nwitness (\S+)\ntime \d+\nledger (\S+)\nfirst \d+ \d+\nlatest \d+ \d+\nrefused \d+\nmailbox ([0-9a-f]{64}) \d+\nothers (\d+)((?: \S+)*)\n$/;

// What a witness states about this ledger and a mailbox.
function witnessStatement({ stated, key }, { key: text, statement, targets }) {
  check(Array.isArray(targets), "witnesses: no targets");
  const witness = verifierKey(text, 4);
  const at = statement.lastIndexOf("\n\n");
  const [signed, line] = [statement.slice(0, at + 1), statement.slice(at + 2)];
  const prefix = `— ${witness.name} `;
  check(at >= 0 && line.startsWith(prefix) && line.indexOf("\n") === line.length - 1, "witnesses: not one signature");
  const raw = base64(line.slice(prefix.length, -1));
  const id = sha(`${witness.name}\n`, Buffer.from([255]), "mailwatch-register/v1", witness.raw).subarray(0, 4);
  check(raw.length === 68 && raw.subarray(0, 4).equals(id), "witnesses: a signature by another key");
  check(crypto.verify(null, Buffer.from(signed), witness.key, raw.subarray(4)), "witnesses: the signature of a statement");
  const [, name, ledger, mailbox, count, others] = STATEMENT.exec(signed) ?? [];
  check(name === witness.name, "witnesses: no statement");
  check(others.split(" ").filter(Boolean).length === Math.min(Number(count), 20), "witnesses: others");
  check(ledger === key.name, "witnesses: a statement about another ledger");
  const address = stated.user_name?.name;
  if (typeof address === "string" && address.includes("@"))
    check(hex(sha(`mailwatch-box/1\n${address.trim().toLowerCase()}`)) === mailbox, "witnesses: another mailbox");
}

// Messages

const unquoted = (text) => {
  if (!/^content-transfer-encoding: *quoted-printable/im.test(text)) return text;
  const bytes = text.replace(/=\r?\n/g, "").replace(/=([0-9A-F]{2})/g, (_, hex) => String.fromCharCode(parseInt(hex, 16)));
  return Buffer.from(bytes, "latin1").toString();
};

function declaredNote(text) {
  const lines = text.split(/\r?\n/);
  const [from, to] = ["BEGIN", "END"].map((word) => lines.indexOf(`-----${word} MAILWATCH CHECKPOINT-----`));
  if (from < 0 || to < from) return "";
  const words = lines.slice(from + 1, to).join(" ").split(/\s+/).filter((word) => word && !/^>+$/.test(word));
  return `${words.slice(0, 3).join("\n")}\n\n${words.slice(3, 5).join(" ")} ${words.slice(5).join("")}\n`;
}

const tagsOf = (text) =>
  Object.fromEntries(text.split(";").filter((one) => one.trim()).map((one) => {
    const at = one.indexOf("=");
    return [one.slice(0, at).trim(), one.slice(at + 1).trim()];
  }));

// RFC 6376, for rsa-sha256. A message in a payload has CRLF.
function dkim(message, domain, selector, record) {
  const cut = message.indexOf("\r\n\r\n");
  check(cut >= 0, "a message without a body");
  const fields = message.slice(0, cut).split(/\r\n(?![ \t])/).map((line) => line + "\r\n");
  const nameOf = (field) => field.slice(0, field.indexOf(":")).trim().toLowerCase();
  const own = fields.find((field) => {
    const tags = nameOf(field) === "dkim-signature" ? tagsOf(field.slice(field.indexOf(":") + 1)) : {};
    return tags.d === domain && tags.s === selector;
  });
  check(own, `no signature of ${domain}`);
  const tags = tagsOf(own.slice(own.indexOf(":") + 1));
  const covered = tags.h.toLowerCase().split(":").map((name) => name.trim());
  check(tags.a === "rsa-sha256" && tags.l === undefined && covered.includes("from"), "a signature that does not count");
  const [head, text = "simple"] = (tags.c ?? "simple/simple").split("/");
  let body = message.slice(cut + 4);
  if (text === "relaxed") body = body.replace(/[ \t]+(?=\r\n)/g, "").replace(/[ \t]+/g, " ");
  body = body.replace(/(\r\n)*$/, "") + (text === "simple" || body.trim() ? "\r\n" : "");
  const bare = (value) => value.replace(/\s+/g, "");
  check(sha(Buffer.from(body)).toString("base64") === bare(tags.bh), "the body is another one");
  const form = (field) =>
    head === "simple" ? field
    : `${nameOf(field)}:${field.slice(field.indexOf(":") + 1).replace(/\r\n/g, "").replace(/[ \t]+/g, " ").trim()}\r\n`;
  const left = new Map();
  for (const field of fields) left.set(nameOf(field), [...(left.get(nameOf(field)) ?? []), field]);
  const given = covered.map((name) => left.get(name)?.pop()).filter(Boolean);
  const unsigned = own.replace(/([;:\s]b\s*=)[^;]*/, "$1").replace(/\r\n$/, "");
  const signed = given.map(form).join("") + form(unsigned + "\r\n").replace(/\r\n$/, "");
  const key = crypto.createPublicKey({ key: Buffer.from(bare(tagsOf(record).p), "base64"), format: "der", type: "spki" });
  check(key.asymmetricKeyDetails.modulusLength >= 1024, "a short key");
  check(crypto.verify("sha256", Buffer.from(signed), key, Buffer.from(bare(tags.b), "base64")), "the signature of a message");
}

// The files in a PDF (ISO 32000-2 sections 7.11.3 and 7.11.4), where its objects stand in the open.
const NAMED = /<<((?:[^<>]|<<[^<>]*>>)*\/EF\b(?:[^<>]|<<[^<>]*>>)*)>>/g;
const EMBEDDED = /<<((?:[^<>]|<<[^<>]*>>)*\/EmbeddedFile\b(?:[^<>]|<<[^<>]*>>)*)>>\s*stream\r?\n/g;

export function attached(pdf, name, statement, notCompared) {
  check(pdf.subarray(0, 5).toString() === "%PDF-", "report.pdf is no PDF");
  const text = pdf.toString("latin1");
  if (text.includes("/ObjStm")) return void notCompared.push("the file attached to report.pdf, of which objects are packed");
  const plain = (found) => found?.[1].replace(/\\([0-7]{3})/g, (_, octal) => String.fromCharCode(parseInt(octal, 8)));
  const named = [...text.matchAll(NAMED)].map(([, keys]) => [/\/F\s*\(([^)]*)\)/, /\/UF\s*\(([^)]*)\)/].map((one) => plain(one.exec(keys))));
  check(same(named, [[name, name]]), `not ${name} alone is attached to report.pdf`);
  const found = [...text.matchAll(EMBEDDED)].map(({ 0: head, 1: keys, index }) => {
    const length = Number(/\/Length (\d+)(?! \d+ R)/.exec(keys)?.[1] ?? NaN);
    const raw = pdf.subarray(index + head.length, index + head.length + length);
    if (!Number.isInteger(length) || (keys.includes("/Filter") && !/\/Filter\s*\/FlateDecode/.test(keys))) return null;
    return keys.includes("/Filter") ? zlib.inflateSync(raw, { maxOutputLength: 64 * 2 ** 20 }) : raw;
  });
  if (found.length !== 1 || found[0] === null) return void notCompared.push("the file attached to report.pdf");
  check(found[0].equals(statement), "another file is attached to report.pdf");
}

function predecessors(content, own) {
  const { earlier = [], ...direct } = content;
  const links = [...earlier, direct];
  const origins = links.map((one) => one.origin).filter(Boolean);
  check(new Set([...origins, own.name]).size === origins.length + 1, "a ledger follows itself");
  return links.map((one, number) => {
    const { origin = "", key, size, root, reason, kept } = one;
    check(["database_lost", "database_older", "database_damaged", "keys_lost"].includes(reason), "no reason");
    check(integer(size) && size >= 0 && (size > 0) === (root !== undefined && "checkpoint" in one), "no checkpoint");
    check(key !== undefined || (reason === "keys_lost" && !("appointment" in one)), "no key");
    check("appointment" in one || reason === "keys_lost", "no appointment");
    if (key !== undefined) {
      const by = verifierKey(key);
      check(by.name === originOf(by) && by.name === origin, "the key of another ledger");
      if (size) {
        const signed = openCheckpoint(one.checkpoint, by);
        check(signed.size === size && hex(signed.root) === root, "another checkpoint");
      }
      if ("appointment" in one) {
        const next = number + 1 < links.length ? links[number + 1].key : own.text;
        const text = `${origin}\nsuccessor ${next}\n${size} ${root ?? ""}\n`;
        check(openNote(one.appointment, by) === text, "another ledger is appointed");
      }
    }
    const appointed = "appointment" in one;
    return { ledger: origin, key: key ?? null, size, root: root ?? null, reason, kept: kept ?? null, appointed };
  });
}

function compareAuthorities({ stated, tokens, notCompared }) {
  if (tokens.some((one) => one.signer === undefined || one.issuer === undefined))
    return void notCompared.push("`authorities`, of which one has no common name");
  const pairs = new Map(tokens.map(({ signer, issuer }) => [`${signer}\n${issuer}`, { signer, issuer }]));
  const made = [...pairs.values()].sort((a, b) => byPoints(a.signer, b.signer) || byPoints(a.issuer, b.issuer));
  check(same(stated.authorities, made), "other authorities signed the tokens");
}

// What the tokens on both sides bound.
function comparePlace(b) {
  const { stated, tokens, start, entries } = b;
  check(stated.ledger === b.key.name, "a statement of another ledger");
  check(same(stated.range, { first: start.size, end: start.size + entries.length }), "another range");
  if (!tokens) return;
  const { first, last } = b.statement === "outage.json" ? stated.outage.ledger : stated.entries;
  if (stated.authorities !== undefined) compareAuthorities(b);
  const known = (time) => (Number.isFinite(time) ? new Date(time).toISOString() : null);
  const before = (at) => Math.max(-Infinity, ...tokens.filter((one) => one.entry >= 0 && one.entry <= at).map((one) => one.time));
  const behind = (at) => Math.min(Infinity, ...tokens.filter((one) => one.checkpoint > at).map((one) => one.time));
  check(same(stated.outside_times, { not_before: known(before(first)), not_after: known(behind(last)) }), "outside times");
  const own = Math.max(0, ...tokens.map((one) => one.off));
  const errors = b.outages.map((outage) => {
    const anchor = outage.anchor;
    if (!anchor) return own;
    const found = [];
    for (const token of tokens) {
      const under = entries[token.checkpoint - 1 - start.size] ?? {};
      const boot = under.boot ?? token.boot;
      if (boot !== anchor.boot) continue;
      if (token.boot === boot) found.push(token.time - token.clock - anchor.offset);
      if (under.boot) found.push(anchor.offset - token.time + under.clock);
    }
    return found.length ? Math.max(0, ...found) : own;
  });
  const off = errors.length ? Math.max(...errors) : own;
  check(off <= 600000 || off <= Math.round((stated.clock_error ?? 0) * 1000) + 2000, "an error of the clock is not stated");
  for (const outage of b.outages) {
    const [not, until] = [before(outage.firstIndex), behind(outage.lastIndex)];
    const allowed = 60000 + off + (outage.wall ? outage.stepped : 0);
    check(outage.min <= Math.max(0, until - not) + 2000, "longer than the tokens around it are apart");
    check(outage.firstBad >= not - allowed && outage.lastBad <= until + allowed, "outside of the tokens around it");
  }
}

export function bundle(raw) {
  const b = { raw, notCompared: [] };
  const claims = {};
  let stop = "";
  for (const [name, step] of Object.entries(STEPS)) {
    const claim = name === "outage" && b.statement === "period.json" ? "period" : name;
    if (stop) {
      claims[claim] = `not checked, because ${stop} does not hold`;
      continue;
    }
    try {
      step(b);
      claims[claim] = "";
    } catch (error) {
      claims[claim] = error instanceof Refused ? error.message : `${error.name}: ${error.message}`;
      if (["archive", "key", "checkpoints", "entries"].includes(name)) stop = name;
    }
  }
  return { ...b, claims };
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  for (const file of process.argv.slice(2)) {
    const raw = fs.readFileSync(file);
    const { claims, notCompared } = raw.includes("joint.json") ? joint(raw) : bundle(raw);
    console.log(JSON.stringify({ file: path.basename(file), claims, not_compared: notCompared }));
  }
}
