// Stopping a run, and asking the server about its kernel.

import { afterEach, expect, test, vi } from "vitest";
import { KernelMonitor } from "../../src/widget/kernel-monitor";
import { kernelState, kernelUrl, pageConfig } from "../../src/widget/server";
import { repeatWhile, stop } from "../../src/widget/stop";

afterEach(() => {
  vi.restoreAllMocks();
  document.getElementById("jupyter-config-data")?.remove();
  // biome-ignore lint/suspicious/noDocumentCookie: the cookie is what is tested
  document.cookie = "_xsrf=; expires=Thu, 01 Jan 1970 00:00:00 GMT";
});

function config(data: object): void {
  const script = document.createElement("script");
  script.id = "jupyter-config-data";
  script.type = "application/json";
  script.textContent = JSON.stringify(data);
  document.body.append(script);
}

/** Needed once. */
const once = () => {
  let left = 1;
  return () => left-- > 0;
};

test("a stop is sent again while it is needed", () => {
  vi.useFakeTimers();
  const sent = vi.fn();
  let running = true;
  repeatWhile(() => running, sent);
  vi.advanceTimersByTime(2500);
  expect(sent).toHaveBeenCalledTimes(3);
  running = false;
  vi.advanceTimersByTime(5000);
  expect(sent).toHaveBeenCalledTimes(3);
  running = true;
  repeatWhile(() => running, sent);
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

test("a kernel that the server does not have is gone", async () => {
  config({ baseUrl: "/" });
  vi.spyOn(window, "fetch").mockResolvedValue(new Response(null, { status: 404 }));
  expect(await stop("k", () => {}, once())).toBe("gone");
});

test("without a server, or if it refuses, the kernel gets a message", async () => {
  const sent = vi.fn();
  expect(pageConfig()).toBeNull();
  expect(await stop("k", sent, once())).toBe("requested");
  config({ baseUrl: "/" });
  vi.spyOn(window, "fetch").mockRejectedValue(new TypeError("no network"));
  expect(await stop("k", sent, once())).toBe("requested");
  vi.spyOn(window, "fetch").mockResolvedValue(new Response(null, { status: 403 }));
  expect(await stop("k", sent, once())).toBe("requested");
  expect(await stop("", sent, once())).toBe("requested");
  expect(sent).toHaveBeenCalledTimes(4);
});

test("the kernel's state comes from the server, if there is one", async () => {
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

test("silence from an idle kernel means that the run is lost, until a frame arrives", async () => {
  config({ baseUrl: "/" });
  let state = "busy";
  vi.spyOn(window, "fetch").mockImplementation(() =>
    Promise.resolve(new Response(JSON.stringify({ execution_state: state }))),
  );
  const changed = vi.fn();
  const monitor = new KernelMonitor(
    () => "k",
    () => true,
    changed,
    20,
    10,
  );
  const wait = () => new Promise((resolve) => setTimeout(resolve, 80));
  await wait();
  expect(monitor.lost).toBe(false);
  state = "idle";
  await wait();
  expect(monitor.lost).toBe(true);
  expect(changed).toHaveBeenCalledTimes(1);
  monitor.messageArrived();
  expect(monitor.lost).toBe(false);
  monitor.close();
});
