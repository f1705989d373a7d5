// What a widget needs of ComfyUI's page, named relatively so that it is found where a proxy serves the page under a path.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

export { api, app };

export const transport = {
  get: (path, options) => api.fetchApi(path, options),
  post: (path, json) => api.fetchApi(path, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(json),
  }),
  url: (path) => api.apiURL(path),
};

/** Pixels that LiteGraph leaves above and below an element together. */
export const MARGINS = 20;

/** Whether nodes are elements of the page (Nodes 2.0), and not drawn by LiteGraph. */
export const inPage = () => Boolean(globalThis.LiteGraph?.vueNodesMode);

/** Whether the page is dark: newer front ends say so by its color scheme, older ones by a class. */
function isDark() {
  const { colorScheme } = getComputedStyle(document.documentElement);
  return colorScheme === "dark" || document.querySelector("html.dark-theme, body.dark-theme") !== null;
}

/** What every widget in a node is told of the page. */
export function page(node) {
  return {
    transport,
    language: app.ui?.settings?.getSettingValue?.("Comfy.Locale") ?? navigator.language,
    theme: () => (isDark() ? "dark" : "light"),
    collapsed: () => Boolean(node.flags?.collapsed),
  };
}
