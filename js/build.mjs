// Bundles src/live.ts and src/live.css into outlier_jupyter/notebook/static/.
//
// The built files are committed. They must come out byte for byte the same from the same sources,
// so nothing here depends on the time, the machine or absolute paths. `--check` builds them aside
// and fails when the committed ones differ.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = fileURLToPath(new URL(".", import.meta.url));
const target = fileURLToPath(new URL("../outlier_jupyter/notebook/static/", import.meta.url));
const check = process.argv.includes("--check");
const out = check ? mkdtempSync(`${tmpdir()}/live-`) : target;

const licence = readFileSync(`${here}node_modules/uplot/LICENSE`, "utf8").trim();

await build({
  absWorkingDir: here,
  entryPoints: { live: "src/live.ts" },
  outdir: out,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  charset: "utf8",
  legalComments: "none",
  banner: { js: "/* Built from js/src by `npm run build`; uPlot's licence is in LICENSES.txt. */" },
});
await build({
  absWorkingDir: here,
  entryPoints: { live: "src/live.css" },
  outdir: out,
  bundle: true,
  minify: true,
  charset: "utf8",
});
writeFileSync(
  `${out}/LICENSES.txt`,
  `live.js contains uPlot 1.6.32, https://github.com/leeoniya/uPlot\n\n${licence}\n`,
);

if (check) {
  const names = ["live.js", "live.css", "LICENSES.txt"];
  const differ = names.filter(
    (name) => !readFileSync(`${out}/${name}`).equals(readFileSync(`${target}/${name}`)),
  );
  rmSync(out, { recursive: true });
  if (differ.length) {
    console.error(`not built from these sources: ${differ.join(", ")}; run npm run build`);
    process.exit(1);
  }
}
