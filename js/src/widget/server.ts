// Requests to the Jupyter server that served the page: interrupt the kernel, read its state.
//
// Requests stay on the page's own origin, so the server's token goes nowhere else. Other pages
// (VS Code, Colab) have no such server, and every answer is null.

interface PageConfig {
  baseUrl?: string;
  token?: string;
}

/** The configuration that a Jupyter server puts in its pages; null on any other page. */
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

/** Interrupt the kernel. Returns the server's response; null without a server. */
export function interrupt(kernelId: string): Promise<Response | null> {
  return request("POST", kernelId, "/interrupt");
}

/**
 * The kernel's state: "busy", "idle", "dead", …; "gone" if the server has no such kernel; null if
 * unknown.
 */
export async function kernelState(kernelId: string): Promise<string | null> {
  const response = await request("GET", kernelId);
  if (response?.status === 404) return "gone";
  if (!response?.ok) return null;
  try {
    const kernel = (await response.json()) as { execution_state?: string };
    return kernel.execution_state ?? null;
  } catch {
    return null;
  }
}

async function request(method: string, kernelId: string, path = ""): Promise<Response | null> {
  const config = pageConfig();
  if (!kernelId || !config) return null;
  try {
    return await fetch(kernelUrl(config, kernelId) + path, {
      method,
      credentials: "same-origin",
      headers: headers(config),
    });
  } catch {
    return null; // the server cannot be reached
  }
}

function headers(config: PageConfig): Record<string, string> {
  const out: Record<string, string> = { "Content-Type": "application/json" };
  const xsrf = /(?:^|;\s*)_xsrf=([^;]*)/.exec(document.cookie)?.[1];
  if (xsrf) out["X-XSRFToken"] = decodeURIComponent(xsrf);
  if (config.token) out.Authorization = `token ${config.token}`;
  return out;
}
