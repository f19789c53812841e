// What pages share: the run, the selection, the last query of the table, and words to the reader.

import { el } from "./render.js";

export const state = { run: null, query: new URLSearchParams(), selected: new Map(), last: { query: "", at: -1 } };

const key = (job, latent) => `${job} ${latent}`;

export const isSelected = (job, latent) => state.selected.has(key(job, latent));

/** Put a latent into the selection or take it out; whether it is in now. */
export function toggleSelected(job, latent) {
  if (!state.selected.delete(key(job, latent))) state.selected.set(key(job, latent), [job, latent]);
  keepSelection();
  return isSelected(job, latent);
}

export function clearSelected() {
  state.selected.clear();
  keepSelection();
}

export function loadSelection() {
  try {
    for (const [job, latent] of JSON.parse(window.sessionStorage.getItem("fovea-selected") ?? "[]")) state.selected.set(key(job, latent), [job, latent]);
  } catch { /* begins empty */ }
  showSelection();
}

function keepSelection() {
  try { window.sessionStorage.setItem("fovea-selected", JSON.stringify([...state.selected.values()])); } catch { /* lasts for this view */ }
  showSelection();
}

function showSelection() {
  document.getElementById("selected").textContent = state.selected.size ? ` (${state.selected.size})` : "";
}

/** Address of a latent's page. The query of the table is in it: it decides which latent is next. */
export const href = (job, latent) => `/latents/${encodeURIComponent(job)}/${latent}${asked(state.query)}`;

/** A query as the end of an address. */
export const asked = (query) => ([...query.keys()].length ? `?${query}` : "");

/** Column and order that the table has. */
export const sorting = () => [state.query.get("sort") ?? state.run.default_sort, state.query.get("order") ?? "descending"];

export const jobOf = (name) => state.run.jobs.find((job) => job.name === name);

/** The word beside the name of an SAE that is there only to compare with. */
export const controlTag = (job) => (job?.is_control ? el("span", { class: "tag" }, "control") : null);

/** Tell it to whoever listens and, for a moment, to whoever looks. */
export function say(words) {
  document.getElementById("said").textContent = words;
}
