// What a node reported, found in the queue and the history of ComfyUI. No DOM.
//
// A run is [number, prompt id, graph, extra data, outputs], as both have it under `prompt` or as they are.

import { named } from "./place.mjs";

/** Whether a run was queued from this workflow; by `client` alone where users are kept `apart` or it has no name. */
export function isFrom(run, { workflow }, { client, apart }) {
  const extra = run?.[3] ?? {};
  if (!run || named(extra.extra_pnginfo?.workflow) !== workflow) return false;
  return (!apart && workflow !== "") || extra.client_id === client;
}

/** The entry of a run in the answer of /queue, or null. */
export function queued(queue, promptId) {
  const runs = [...(queue?.queue_running ?? []), ...(queue?.queue_pending ?? [])];
  return runs.find((run) => run[1] === promptId) ?? null;
}

/** What the newest run of this workflow in the answer of /history said of the node: {text, wrong}, or null. */
export function lastReport(history, place, whose) {
  const entries = Object.values(history ?? {}).filter((entry) => isFrom(entry.prompt, place, whose));
  entries.sort((one, other) => one.prompt[0] - other.prompt[0]);
  return entries.reduce((last, entry) => reportIn(entry, place.path) ?? last, null);
}

/** What a finished run said of the node with this path: {text, wrong}, or null where it said nothing. */
export function reportIn(entry, path) {
  const told = entry.status?.messages?.find(([what, about]) => what === "execution_error" && about.node_id === path);
  return told ? failure(told[1]) : said(entry.outputs?.[path]);
}

/** The report in what a node gave the page: {text, wrong: false}, or null where there is none. */
export function said(output) {
  return output?.text ? { text: [output.text].flat().join("\n"), wrong: false } : null;
}

/** Why a node failed, as the host tells it. */
export function failure({ exception_message: why }) {
  return { text: String(why ?? "").trim(), wrong: true };
}
