// JSON as the specification wants it: no name twice in an object; and canonical JSON (RFC 8785).

export function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value && typeof value === "object") {
    const keys = Object.keys(value).filter((key) => value[key] !== undefined);
    return `{${keys.sort().map((key) => `${JSON.stringify(key)}:${canonical(value[key])}`).join(",")}}`;
  }
  return JSON.stringify(value);
}

// Refuse a value that is nested too deeply.
export function notDeeper(value, most) {
  for (let level = [value], depth = 0; level.length; depth++) {
    if (depth > most) throw new Error("nested too deeply");
    level = level.filter((one) => one && typeof one === "object").flatMap((one) => Object.values(one));
  }
}

// Parse a file that is an object. Each name is kept with its place in the text, so that one that is there twice shows.
export function parse(bytes) {
  const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  const value = JSON.parse(text);
  if (!value || typeof value !== "object" || Array.isArray(value)) throw new Error("no object");
  notDeeper(value, 100);
  let names = 0;
  const count = (one) => {
    if (typeof one === "string" && /\p{Surrogate}/u.test(one)) throw new Error("half a character");
    if (Array.isArray(one)) one.forEach(count);
    else if (one && typeof one === "object") {
      names += Object.keys(one).length;
      Object.entries(one).flat().forEach(count);
    }
  };
  count(value);
  // A colon outside of text stands behind a name.
  const colons = text.replace(/"(?:[^"\\]|\\.)*"/gs, "").split(":").length - 1;
  if (colons !== names) throw new Error("a name is there twice");
  return value;
}
