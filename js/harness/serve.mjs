// Serves the harness page on http://127.0.0.1:8123, rebuilt on each request.

import { fileURLToPath } from "node:url";
import { context } from "esbuild";

const here = fileURLToPath(new URL(".", import.meta.url));
const running = await context({
  absWorkingDir: here,
  entryPoints: [
    { in: "harness.ts", out: "harness" },
    { in: "../src/live.css", out: "live" },
  ],
  outdir: "out",
  bundle: true,
  sourcemap: "inline",
  write: false,
});
const { port } = await running.serve({ servedir: here, host: "127.0.0.1", port: 8123 });
console.log(`http://127.0.0.1:${port}/?theme=dark&size=qwen&live=1`);
