// Bundles into outlier_jupyter/notebook/static/: the widgets, src/live, src/compare and src/chat; src/report, the
// script of pages without a kernel; src/lab, an extension of JupyterLab; and the modules that a widget
// asks for when it first needs them (src/widget/module.ts).
//
// The built files are committed. They must come out byte for byte the same from the same sources,
// so nothing here depends on the time, the machine or absolute paths. `--check` builds them aside
// and fails when the committed ones differ.

import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = fileURLToPath(new URL(".", import.meta.url));
const target = fileURLToPath(new URL("../outlier_jupyter/notebook/static/", import.meta.url));
const check = process.argv.includes("--check");
const out = check ? mkdtempSync(`${tmpdir()}/widgets-`) : target;

const RUN_VIEWS = ["live", "compare"];
const WIDGETS = [...RUN_VIEWS, "chat"];
/** What is bundled besides our own code: name, where it is used, under which file of its. */
const BUNDLED = [
  ["marked", "chat.js", "LICENSE", "https://github.com/markedjs/marked"],
  ["dompurify", "chat.js", "LICENSE", "https://github.com/cure53/DOMPurify"],
  ["@speed-highlight/core", "highlight.js", "LICENSE", "https://github.com/speed-highlight/core"],
  ["temml", "formulas.js, formula-symbols.js", "LICENSE", "https://github.com/ronkok/Temml"],
];
/** No script is larger. */
const MAX_BYTES = 120_000;

/** Members of our classes that others use, and no message has: their names are shortened, too. */
const SHORTENED = [
  ...["firstToken", "residentCount", "layerTotals", "maxCount", "chosenCount", "promptTokens"],
  ...["hoverStep", "hoverCell", "stepHovered", "pinnedCell", "expertLast"],
  ...["setSubtitle", "setReadout", "expertsThen", "tableOpen", "drawTable", "decodeLookups"],
  ...["textStart", "textEpoch", "tokensPerSecond", "columnProblem", "markTogether"],
  ...["expertOf", "stepOf", "lastOf", "movesFrom", "firstStep", "branchNote", "markUrgent"],
  ...["textEndOf", "setFrameInterval", "expertsOf", "hitBits", "moveStep", "countIndex"],
  ...["changeIndex", "changeState", "allParts", "store", "panel", "changed"],
  ...["playing", "arrived", "levels", "textOf", "endOf", "orderAfter", "explanation"],
  ...["hasAlternatives", "branchProblem", "noBranch", "hitRates", "firstTokenMs", "usersOf"],
  ...["layerHits", "keepUp", "heatmap", "drawCells"],
];

const settings = {
  absWorkingDir: here,
  outdir: out,
  bundle: true,
  minify: true,
  charset: "utf8",
  mangleProps: new RegExp(`^(${SHORTENED.join("|")})$`),
  inject: ["src/short-names.ts"],
};
const licences = "the licences of what it contains are in LICENSES.txt";
const module = {
  ...settings,
  format: "esm",
  target: "es2022",
  legalComments: "none",
  banner: { js: `/* Built from js/src by \`npm run build\`; ${licences}. */` },
};
await build({
  ...module,
  entryPoints: Object.fromEntries(RUN_VIEWS.map((name) => [name, `src/${name}.ts`])),
});
await build({
  ...module,
  entryPoints: { chat: "src/chat.ts", highlight: "src/chat/highlight.ts" },
});
// Two files of less than MAX_BYTES: what the second entry reaches is the part that both share.
const formulas = await build({
  ...module,
  entryPoints: { formulas: "src/chat/formulas.ts", shared: "src/formula-symbols.ts" },
  splitting: true,
  chunkNames: "formula-symbols",
  write: false,
});
for (const { path, contents } of formulas.outputFiles)
  if (!path.endsWith("shared.js")) writeFileSync(path, contents);
await build({
  ...settings,
  entryPoints: Object.fromEntries(WIDGETS.map((name) => [name, `src/${name}.css`])),
});

/** A page without a kernel has nothing to stop: the requests to a Jupyter server are left out. */
const withoutServer = {
  name: "without-server",
  setup: ({ onResolve }) =>
    onResolve({ filter: /\/(?:stop|kernel-monitor)$/ }, ({ path }) => ({
      path: `${here}src/widget/without-server/${path.split("/").pop()}.ts`,
    })),
};
const script = {
  ...settings,
  format: "iife",
  target: "es2022",
  banner: { js: "/* Built from js/src by `npm run build`. */" },
};
await build({ ...script, entryPoints: { report: "src/report.ts" }, plugins: [withoutServer] });
// JupyterLab's own objects keep their names.
const { mangleProps: _, ...unshortened } = script;
await build({ ...unshortened, inject: [], entryPoints: { lab: "src/lab.ts" } });

const parts = BUNDLED.map(([name, where, file, home]) => {
  const { version } = JSON.parse(readFileSync(`${here}node_modules/${name}/package.json`, "utf8"));
  const text = readFileSync(`${here}node_modules/${name}/${file}`, "utf8").trim();
  return `${where} contains ${name} ${version}, ${home}\n\n${text}\n`;
});
writeFileSync(`${out}/LICENSES.txt`, parts.join(`\n${"-".repeat(72)}\n\n`));

for (const name of readdirSync(out).filter((each) => each.endsWith(".js")))
  if (statSync(`${out}/${name}`).size > MAX_BYTES) throw new Error(`${name} is too large`);

if (check) {
  const names = [
    ...WIDGETS.flatMap((name) => [`${name}.js`, `${name}.css`]),
    ...["highlight.js", "formulas.js", "formula-symbols.js"],
    ...["lab.js", "report.js"],
    "LICENSES.txt",
  ];
  const differ = names.filter(
    (name) => !readFileSync(`${out}/${name}`).equals(readFileSync(`${target}/${name}`)),
  );
  rmSync(out, { recursive: true });
  if (differ.length) {
    console.error(`not built from these sources: ${differ.join(", ")}; run npm run build`);
    process.exit(1);
  }
}
