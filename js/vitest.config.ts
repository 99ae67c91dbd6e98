import { env } from "node:process";
import { playwright } from "@vitest/browser-playwright";
import { defineConfig } from "vitest/config";

// The tests run in a real browser: a canvas has no other way to be looked at. CHROMIUM names one
// that is installed already; nothing is ever downloaded.
const executablePath = env.CHROMIUM ?? "/usr/bin/chromium";

export default defineConfig({
  server: { fs: { allow: [".."] } },
  test: {
    include: ["tests/**/*.test.ts"],
    browser: {
      enabled: true,
      headless: true,
      screenshotFailures: false,
      provider: playwright({
        launchOptions: {
          executablePath,
          args: [
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
          ],
        },
      }),
      instances: [{ browser: "chromium", viewport: { width: 1000, height: 900 } }],
    },
  },
});
