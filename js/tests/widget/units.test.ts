import { afterEach, expect, test, vi } from "vitest";
import { niceStep, wholeTicks } from "../../src/charts/axes";
import { Focus } from "../../src/charts/focus";
import { byteScale, bytes, integer, ms, NONE, percent, plural, short } from "../../src/widget/format";
import { means } from "../../src/charts/plot";
import { ranges } from "../../src/live/panels/residency";
import { levelsOf } from "../../src/live/panels/routing";
import { kernelState, kernelUrl, pageConfig } from "../../src/widget/server";
import { insist, stop } from "../../src/widget/stop";
import { pack, parse } from "../../src/widget/theme";
import { Watch } from "../../src/widget/kernel-monitor";

afterEach(() => {
  vi.restoreAllMocks();
  document.getElementById("jupyter-config-data")?.remove();
  // biome-ignore lint/suspicious/noDocumentCookie: the cookie is what is tested
  document.cookie = "_xsrf=; expires=Thu, 01 Jan 1970 00:00:00 GMT";
});

test("numbers read well, and missing ones are a dash", () => {
  expect(integer(1234567)).toBe("1\u202f234\u202f567");
  expect([0, 0.0004, -0.0004, 0.1234, 1.234, 12.34, 123.4].map(short)).toEqual([
    "0",
    "0.0004",
    "-0.0004",
    "0.123",
    "1.23",
    "12.3",
    "123",
  ]);
  expect(bytes(2_654_208)).toBe("2.65\u202fMB");
  expect(bytes(0)).toBe("0\u202fB");
  expect(byteScale(1000).unit).toBe("kB");
  expect(percent(1, 3)).toBe("33.3\u202f%");
  expect([0, 4e-6, 0.00096, 0.5, 0.99904, 0.9998, 1].map((share) => percent(share))).toEqual(
    ["0", "0.0004", "0.1", "50", "99.9", "99.98", "100"].map((number) => `${number}\u202f%`),
  );
  expect(bytes(999_600)).toBe("1.00\u202fMB");
  expect([ms(Number.NaN), percent(0, 0), short(Number.NaN)]).toEqual([NONE, NONE, NONE]);
  expect([plural(1, "read"), plural(2, "read")]).toEqual(["1\u202fread", "2\u202freads"]);
});

test("ticks are round and few", () => {
  expect(wholeTicks(0, 48, 6)).toEqual([0, 10, 20, 30, 40]);
  expect(wholeTicks(1, 4, 8)).toEqual([1, 2, 3]);
  expect([0.03, 0.3, 3, 30].map((raw) => niceStep(raw))).toEqual([0.05, 0.5, 5, 50]);
});

test("bars share tokens by their mean", () => {
  expect(means([1, 3, 5, 7, 9], 2, 0, 3)).toEqual(Float64Array.of(2, 6, 9));
  expect(means([1, 3, 5, 7, 9], 2, 1, 2)).toEqual(Float64Array.of(6));
});

test("levels follow the root of the count, and zero stays apart", () => {
  const out = new Uint8Array(4);
  levelsOf(Uint32Array.of(0, 1, 25, 100), 100, out);
  expect(out[0]).toBe(0);
  expect(out[1]).toBe(1);
  expect(out[3]).toBe(255);
  expect(out[2]).toBeGreaterThan(100);
  levelsOf(Uint32Array.of(1, 0, 1_000_000, 5000), 1_000_000, out);
  expect(out[2]).toBe(255);
  expect(out[3]).toBeGreaterThan(1);
});

test("neighbouring experts are named as a range", () => {
  expect(ranges([0, 1, 2, 5, 7, 8])).toBe("0–2, 5, 7–8");
  expect(ranges([])).toBe("");
});

test("colours are read in every form a browser gives", () => {
  expect(parse("#4a86c4")).toEqual([74, 134, 196, 1]);
  expect(parse("#fff")).toEqual([255, 255, 255, 1]);
  expect(parse("rgba(1, 2, 3, 0.5)")).toEqual([1, 2, 3, 0.5]);
  expect(parse("color(srgb 1 0 0)")).toEqual([255, 0, 0, 1]);
  expect(parse("")[3]).toBe(0);
  expect(new Uint8Array(Uint32Array.of(pack([1, 2, 3])).buffer)).toEqual(
    Uint8Array.of(1, 2, 3, 255),
  );
});

test("the keyboard walks over tokens and never off them", () => {
  const hover = new Focus(() => {});
  const press = (key: string) => hover.stepKey(new KeyboardEvent("keydown", { key }), 10, 13);
  press("ArrowRight");
  expect(hover.step).toBe(10);
  press("ArrowLeft");
  expect(hover.step).toBe(10);
  press("End");
  press("ArrowRight");
  expect(hover.step).toBe(12);
  press("Escape");
  expect(hover.step).toBeNull();
  press("a");
  expect(hover.step).toBeNull();
});

function config(data: object): void {
  const script = document.createElement("script");
  script.id = "jupyter-config-data";
  script.type = "application/json";
  script.textContent = JSON.stringify(data);
  document.body.append(script);
}

/** Somebody who is content with one answer. */
const once = () => {
  let left = 1;
  return () => left-- > 0;
};

test("a stop is asked for again until it is no longer needed", () => {
  vi.useFakeTimers();
  const sent = vi.fn();
  let running = true;
  insist(sent, () => running);
  vi.advanceTimersByTime(2500);
  expect(sent).toHaveBeenCalledTimes(3);
  running = false;
  vi.advanceTimersByTime(5000);
  expect(sent).toHaveBeenCalledTimes(3);
  running = true;
  insist(sent, () => running);
  vi.advanceTimersByTime(100_000);
  expect(sent).toHaveBeenCalledTimes(23);
  vi.useRealTimers();
});

test("stop asks the server that made the page, with its token", async () => {
  config({ baseUrl: "/user/me", token: "secret" });
  // biome-ignore lint/suspicious/noDocumentCookie: the cookie is what is tested
  document.cookie = "_xsrf=2|abc";
  const fetched = vi.spyOn(window, "fetch").mockResolvedValue(new Response(null, { status: 204 }));
  const sent = vi.fn();
  expect(await stop("k 1", sent, once())).toBe("interrupted");
  expect(sent).not.toHaveBeenCalled();
  const [url, request] = fetched.mock.calls[0];
  expect(url).toBe(`${location.origin}/user/me/api/kernels/k%201/interrupt`);
  expect(request?.method).toBe("POST");
  expect(request?.headers).toMatchObject({
    "X-XSRFToken": "2|abc",
    Authorization: "token secret",
  });
});

test("a base URL elsewhere never takes the token with it", () => {
  expect(kernelUrl({ baseUrl: "https://elsewhere.example/x/" }, "k")).toBe(
    `${location.origin}/x/api/kernels/k`,
  );
});

test("a kernel that the server does not know is gone", async () => {
  config({ baseUrl: "/" });
  vi.spyOn(window, "fetch").mockResolvedValue(new Response(null, { status: 404 }));
  expect(await stop("k", () => {}, once())).toBe("gone");
});

test("without a server, or when it refuses, the kernel gets a message", async () => {
  const sent = vi.fn();
  expect(pageConfig()).toBeNull();
  expect(await stop("k", sent, once())).toBe("asked");
  config({ baseUrl: "/" });
  vi.spyOn(window, "fetch").mockRejectedValue(new TypeError("no network"));
  expect(await stop("k", sent, once())).toBe("asked");
  vi.spyOn(window, "fetch").mockResolvedValue(new Response(null, { status: 403 }));
  expect(await stop("k", sent, once())).toBe("asked");
  expect(await stop("", sent, once())).toBe("asked");
  expect(sent).toHaveBeenCalledTimes(4);
});

test("the server tells how the kernel is, where there is a server", async () => {
  expect(await kernelState("k")).toBeNull();
  config({ baseUrl: "/" });
  const answer = (status: number, body: string) =>
    vi.spyOn(window, "fetch").mockResolvedValue(new Response(body, { status }));
  answer(200, '{"execution_state": "busy"}');
  expect(await kernelState("k")).toBe("busy");
  answer(404, "");
  expect(await kernelState("k")).toBe("gone");
  answer(200, "<html>");
  expect(await kernelState("k")).toBeNull();
  answer(500, "");
  expect(await kernelState("k")).toBeNull();
});

test("silence from a kernel that is idle means that the run is lost, until a frame comes", async () => {
  config({ baseUrl: "/" });
  let state = "busy";
  vi.spyOn(window, "fetch").mockImplementation(() =>
    Promise.resolve(new Response(JSON.stringify({ execution_state: state }))),
  );
  const changed = vi.fn();
  const watch = new Watch(
    () => "k",
    () => true,
    changed,
    20,
    10,
  );
  const wait = () => new Promise((resolve) => setTimeout(resolve, 80));
  await wait();
  expect(watch.lost).toBe(false);
  state = "idle";
  await wait();
  expect(watch.lost).toBe(true);
  expect(changed).toHaveBeenCalledTimes(1);
  watch.heard();
  expect(watch.lost).toBe(false);
  watch.close();
});
