// Short names for the members of our classes, in what is built.
//
// esbuild shortens variables but no properties, as others may read those. Here a member of a class is renamed where
// nobody else can know its name: it stands in no string of ours, in no string or field of Python's half of the widgets,
// in no interface of the browser, of its hosts or of a bundled library, and it is no export. All bundles share the names.

import { readdirSync, readFileSync } from "node:fs";
import { transformSync } from "esbuild";

const here = new URL(".", import.meta.url);

/** The texts of the files under `folder` that end in `ending`. */
const textsOf = (folder, ending) =>
  readdirSync(new URL(folder, here), { recursive: true })
    .filter((name) => name.endsWith(ending))
    .map((name) => readFileSync(new URL(`${folder}/${name.replaceAll("\\", "/")}`, here), "utf8"));

/** Interfaces of these rooms are ours alone: what Python sends has names that stand in Python's half. */
const OUR_INTERFACES = ["src/charts", "src/live", "src/compare"];
const INTERFACE = /^(?:export )?interface [\s\S]*?^}/gm;
const CLASS = /^(?:export )?class [\s\S]*?^}/gm;
/** A member, or a parameter of the constructor that becomes one. */
const MEMBER =
  /^ {2}(?: {2}(?:private|readonly) )?(?:(?:private|readonly|static|get|set|async) )*([a-zA-Z]\w*)(?:[?!]?:| = |[(<])/gm;
const WORD = /[A-Za-z_$][\w$]*/g;
const STRING = /["'`](\w+)["'`]/g;

/** What may not be renamed: texts, and what in them is a name. */
const taken = (ours, libraries) => [
  [ours.map((code) => transformSync(code, { loader: "ts" }).code), STRING], // without strings in types
  [ours, /^export (?:async )?(?:function|const|class|let) (\w+)/gm],
  [textsOf("src/widget", "host.ts"), WORD],
  [textsOf("src/widget", "server.ts"), WORD],
  [textsOf("src", "lab.ts"), WORD],
  [textsOf("../outlier_jupyter/notebook", ".py"), STRING],
  [textsOf("../outlier_jupyter/notebook", ".py"), /^ {4}(\w+): /gm],
  [textsOf("node_modules/@typescript", ".d.ts"), /^ {4}(?:(?:readonly|get|set) )*(\w+)\??[:(<]/gm],
  ...libraries.map((name) => [textsOf(`node_modules/${name}`, ".js"), WORD]),
];

/** esbuild's settings that rename the members. `libraries` are the names of the packages that are bundled. */
export function shortNames(libraries) {
  const ours = textsOf("src", ".ts");
  const types = [
    ...ours.flatMap((text) => text.match(CLASS) ?? []),
    ...OUR_INTERFACES.flatMap((room) => textsOf(room, ".ts")).flatMap(
      (text) => text.match(INTERFACE) ?? [],
    ),
  ];
  const uses = new Map(
    types.flatMap((text) => [...text.matchAll(MEMBER)].map(([, name]) => [name, 0])),
  );
  for (const [texts, pattern] of taken(ours, libraries)) {
    for (const text of texts)
      for (const [word, name] of text.matchAll(pattern)) uses.delete(name ?? word);
  }
  for (const text of ours) {
    for (const [word] of text.matchAll(WORD))
      if (uses.has(word)) uses.set(word, uses.get(word) + 1);
  }
  const names = [...uses].sort(([a, n], [b, m]) => m - n || (a < b ? -1 : 1)).map(([name]) => name);
  return {
    mangleProps: new RegExp(`^(?:${names.join("|")})$`),
    mangleCache: Object.fromEntries(names.map((name, i) => [name, `$${i.toString(36)}`])),
  };
}
