// The Jupyter server that served the page, where one did: interrupt the kernel, ask how it is.
//
// Requests stay on the page's own origin, so that the server's token goes nowhere else. On other
// pages (VS Code, Colab) there is no such server and every answer is null.

interface PageConfig {
  baseUrl?: string;
  token?: string;
}

/** What a Jupyter server tells its pages, or null on a page that it did not serve. */
export function pageConfig(doc: Document = document): PageConfig | null {
  const text = doc.getElementById("jupyter-config-data")?.textContent;
  if (!text) return null;
  try {
    const config = JSON.parse(text) as PageConfig;
    return typeof config.baseUrl === "string" ? config : null;
  } catch {
    return null;
  }
}

export function kernelUrl(config: PageConfig, kernelId: string): string {
  const base = new URL(config.baseUrl ?? "/", location.origin);
  const path = base.pathname.endsWith("/") ? base.pathname : `${base.pathname}/`;
  return `${location.origin}${path}api/kernels/${encodeURIComponent(kernelId)}`;
}

/** The server's answer to an interrupt, null without a server. */
export function interrupt(kernelId: string): Promise<Response | null> {
  return ask("POST", kernelId, "/interrupt");
}

/** "busy", "idle", "dead", … as the server knows it; "gone" when it does not; null if unknown. */
export async function kernelState(kernelId: string): Promise<string | null> {
  const response = await ask("GET", kernelId);
  if (response?.status === 404) return "gone";
  if (!response?.ok) return null;
  try {
    const kernel = (await response.json()) as { execution_state?: string };
    return kernel.execution_state ?? null;
  } catch {
    return null;
  }
}

async function ask(method: string, kernelId: string, path = ""): Promise<Response | null> {
  const config = pageConfig();
  if (!kernelId || !config) return null;
  try {
    return await fetch(kernelUrl(config, kernelId) + path, {
      method,
      credentials: "same-origin",
      headers: headers(config),
    });
  } catch {
    return null; // no server after all
  }
}

function headers(config: PageConfig): Record<string, string> {
  const out: Record<string, string> = { "Content-Type": "application/json" };
  const xsrf = /(?:^|;\s*)_xsrf=([^;]*)/.exec(document.cookie)?.[1];
  if (xsrf) out["X-XSRFToken"] = decodeURIComponent(xsrf);
  if (config.token) out.Authorization = `token ${config.token}`;
  return out;
}
