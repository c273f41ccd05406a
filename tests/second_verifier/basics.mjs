// What all parts use.

import crypto from "node:crypto";

export class Refused extends Error {}

export const check = (holds, why) => {
  if (!holds) throw new Refused(why);
};

export const sha = (...parts) => {
  const hash = crypto.createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest();
};

export const hex = (bytes) => bytes.toString("hex");
export const integer = (value) => Number.isSafeInteger(value);

// To the nearest whole number, half to even.
export const round = (value) => {
  const down = Math.floor(value);
  const apart = value - down;
  if (apart !== 0.5) return apart < 0.5 ? down : down + 1;
  return down % 2 === 0 ? down : down + 1;
};

export const iso = (time) => (time === null ? null : new Date(time).toISOString());
export const spacing = (interval) => round(interval * 1.5) + 1000;

// By code points, as texts are in order here; JavaScript compares UTF-16.
export function byPoints(one, other) {
  const [a, b] = [one, other].map((text) => [...text].map((letter) => letter.codePointAt(0)));
  const at = a.findIndex((point, number) => point !== b[number]);
  if (at < 0) return a.length - b.length;
  return (a[at] ?? -1) - (b[at] ?? -1);
}
