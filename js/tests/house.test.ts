// The house's rules, checked from the sources: who imports whom, unique names, and words.

import { expect, test } from "vitest";

const load = (found: Record<string, unknown>) =>
  new Map(Object.entries(found).map(([path, text]) => [path.replace("../src/", ""), String(text)]));
const SCRIPTS = load(
  import.meta.glob("../src/**/*.ts", { query: "?raw", import: "default", eager: true }),
);
const STYLES = load(
  import.meta.glob("../src/**/*.css", { query: "?inline", import: "default", eager: true }),
);

/** The rooms that each room may import besides itself; files at the top are entries. */
const MAY_IMPORT: Record<string, string[]> = {
  widget: [],
  charts: ["widget"],
  live: ["charts", "widget"],
  chat: ["charts", "widget"],
  compare: ["charts", "live", "widget"],
  "": ["live", "chat", "compare", "widget"],
};

const roomOf = (path: string): string => (path.includes("/") ? path.split("/")[0] : "");

/** The files of ours that a file imports. */
function importsOf(path: string): string[] {
  const here = path.split("/").slice(0, -1);
  return [...SCRIPTS.get(path)!.matchAll(/(?:from|import) "(\.[^"]+)"/g)].map(([, spec]) => {
    const parts = [...here];
    for (const part of spec.split("/")) {
      if (part === "..") parts.pop();
      else if (part !== ".") parts.push(part);
    }
    return `${parts.join("/")}.ts`;
  });
}

test("every file lies in a room, and imports only rooms below it", () => {
  const wrong: string[] = [];
  for (const path of SCRIPTS.keys()) {
    const room = roomOf(path);
    expect(Object.keys(MAY_IMPORT), path).toContain(room);
    for (const other of importsOf(path)) {
      expect(SCRIPTS.has(other), `${path} imports ${other}`).toBe(true);
      const allowed = [room, ...MAY_IMPORT[room]];
      if (!allowed.includes(roomOf(other)) || roomOf(other) === "")
        wrong.push(`${path} → ${other}`);
    }
  }
  expect(SCRIPTS.size).toBeGreaterThan(40);
  expect(wrong).toEqual([]);
});

test("no file imports itself through others", () => {
  const done = new Set<string>();
  const visit = (path: string, trail: string[]): void => {
    expect(trail, [...trail, path].join(" → ")).not.toContain(path);
    if (done.has(path)) return;
    for (const other of importsOf(path)) visit(other, [...trail, path]);
    done.add(path);
  };
  for (const path of SCRIPTS.keys()) visit(path, []);
  expect(done.size).toBe(SCRIPTS.size);
});

test("every file is imported, or is an entry, or the build puts it in another's place", () => {
  const imported = new Set([...SCRIPTS.keys()].flatMap(importsOf));
  const unused = [...SCRIPTS.keys()].filter(
    (path) => !imported.has(path) && path.includes("/") && !path.includes("/without-server/"),
  );
  expect(unused).toEqual([]);
});

test("no two files define a class or an interface of the same name", () => {
  const names = [...SCRIPTS.values()].flatMap((text) =>
    [...text.matchAll(/^(?:export )?(?:class|interface) (\w+)/gm)].map(([, name]) => name),
  );
  expect(names.filter((name, i) => names.indexOf(name) !== i)).toEqual([]);
});

test("a run view inside the chat shares only the classes of the root and Stop", () => {
  const classes = (room: string) =>
    new Set(
      [...STYLES]
        .filter(([path]) => roomOf(path) === room)
        .flatMap(([, text]) => text.match(/\.oj-[\w-]+/g) ?? []),
    );
  const [live, chat] = [classes("live"), classes("chat")];
  expect(Math.min(live.size, chat.size)).toBeGreaterThan(20);
  const shared = [...live].filter((name) => chat.has(name));
  expect(shared.sort()).toEqual([".oj-root", ".oj-stop"]);
});

/** Words that the house replaced by the terms of the field. "told" is a type of message. */
const JARGON =
  /\b(?:look-ups?|lifeline|glow\w*|asked|askFor\w*|aside|held)\b|who leaves|leaves next|arrived until then|nats a token|\btold\b(?!")/i;

test("code, comments and labels use the field's words", () => {
  const found = [...SCRIPTS].flatMap(([path, text]) =>
    text.split("\n").flatMap((line, i) => (JARGON.test(line) ? [`${path}:${i + 1} ${line}`] : [])),
  );
  expect(found).toEqual([]);
});
