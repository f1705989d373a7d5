// ComfyUI's server lists templates as the disk does, and the dialog keeps that order: this pack's are put in order.

import { api } from "./host.mjs";

const PACK = decodeURIComponent(new URL(import.meta.url).pathname.split("/").at(-2));
const listed = api.getWorkflowTemplates;

if (listed) {
  api.getWorkflowTemplates = async function (...given) {
    const templates = await listed.apply(this, given);
    templates?.[PACK]?.sort?.();
    return templates;
  };
}
