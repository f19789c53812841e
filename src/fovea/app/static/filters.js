// The controls above the table; what they hold is the query in the address.

import { el } from "./render.js";
import { controlTag, sorting, state } from "./state.js";

export const COLUMNS = [
  ["job", "SAE", "job"], ["latent", "latent", "latent"],
  ["density_domain", "density on D", "dd"], ["density_general", "on general", "dg"], ["ratio", "ratio", "ratio"],
  ["novelty_decoder", "cos g, dec", "nd"], ["novelty_encoder", "cos g, enc", "ne"], ["nearest_general", "nearest in g", "near"], ["flag", "flag, note", "mark"],
];
const SHOWS = [["all", "all latents"], ["trained", "without controls"], ["controls", "controls alone"], ["domain", "fire on D"], ["only", "fire on D, never on general text"], ["dead", "never fired"], ["flagged", "flagged"]];
const RANGED = [["ratio", "ratio"], ["density_domain", "density on D"], ["density_general", "density on general text"], ["novelty_decoder", "cosine with g, decoder"], ["novelty_encoder", "cosine with g, encoder"]];

/** Controls that call `changed(query)`; `search` is the field for words, `clear` empties everything. */
export function filters(query, changed) {
  let waiting = 0;
  const search = el("input", { type: "search", value: query.get("q") ?? "", placeholder: "words in examples, tokens, notes; a number", "aria-label": "Search latents", maxlength: "200", autocomplete: "off", spellcheck: "false" });
  const shows = select("Which latents", SHOWS, query.get("show") ?? "all");
  const sort = select("Sort by", COLUMNS.map(([name, label]) => [name, label]), sorting()[0]);
  const order = el("button", { type: "button", onclick: () => { state.query.set("order", sorting()[1] === "descending" ? "ascending" : "descending"); changed(read()); } });
  const picked = new Set(query.getAll("job"));
  const boxes = state.run.jobs.map((job) => el("label", {}, el("input", { type: "checkbox", value: job.name, checked: picked.has(job.name) }), el("i", { class: `swatch swatch-${job.slot}`, "aria-hidden": "true" }), job.name, controlTag(job)));
  const bounds = RANGED.flatMap(([column]) => ["min", "max"].map((end) => el("input", { type: "text", inputmode: "decimal", size: "6", name: `${end}-${column}`, value: query.get(`${end}-${column}`) ?? "", "aria-label": `${end === "min" ? "at least" : "at most"}`, placeholder: end === "min" ? "from" : "to" })));
  const jobs = menu("SAEs", el("fieldset", {}, el("legend", { class: "sr" }, "SAEs shown"), boxes));
  const ranges = menu("Bounds", el("div", { class: "bounds" }, RANGED.map(([, label], i) => el("div", { role: "group", "aria-label": label }, el("span", {}, label), bounds[2 * i], bounds[2 * i + 1]))));
  const reset = el("button", { type: "button", class: "quiet", onclick: () => clear() }, "Clear");

  function read() {
    const next = new URLSearchParams();
    for (const kept of ["order"]) if (state.query.get(kept)) next.set(kept, state.query.get(kept));
    if (state.query.get("sort")) next.set("sort", state.query.get("sort"));
    if (search.value.trim()) next.set("q", search.value.trim());
    if (shows.value !== "all") next.set("show", shows.value);
    for (const box of boxes) { const input = box.querySelector("input"); if (input.checked) next.append("job", input.value); }
    for (const input of bounds) if (input.value.trim()) next.set(input.name, input.value.trim().replace(",", "."));
    label(next);
    return next;
  }

  function label(next) {
    const isDescending = (next.get("order") ?? "descending") === "descending";
    order.textContent = isDescending ? "\u2193" : "\u2191";
    order.setAttribute("aria-label", isDescending ? "Largest first; show smallest first" : "Smallest first; show largest first");
    const n = next.getAll("job").length;
    jobs.summary.textContent = n === 0 ? "SAEs: all" : n === 1 ? next.get("job") : `SAEs: ${n}`;
    const bounded = bounds.filter((input) => input.value.trim()).length;
    ranges.summary.textContent = bounded ? `Bounds: ${bounded}` : "Bounds";
    reset.hidden = !["q", "show", "job"].some((name) => next.has(name)) && !bounded;
  }

  function clear() {
    if (reset.hidden) return false;
    search.value = "";
    shows.value = "all";
    for (const box of boxes) box.querySelector("input").checked = false;
    for (const input of bounds) input.value = "";
    changed(read());
    return true;
  }

  const soon = () => { clearTimeout(waiting); waiting = setTimeout(() => changed(read()), 180); };
  search.addEventListener("input", soon);
  shows.addEventListener("change", () => changed(read()));
  sort.addEventListener("change", () => { state.query.set("sort", sort.value); state.query.set("order", sort.value === "job" || sort.value === "latent" ? "ascending" : "descending"); changed(read()); });
  for (const box of boxes) box.addEventListener("change", () => changed(read()));
  for (const input of bounds) input.addEventListener("input", soon);
  label(query);
  const csv = el("a", { class: "button quiet", download: "latents.csv", onclick: (event) => { event.currentTarget.href = `/api/latents.csv?${read()}`; } }, "CSV");
  csv.href = "/api/latents.csv";
  const root = el("form", { class: "filters", role: "search", onsubmit: (event) => event.preventDefault() }, search, jobs.root, shows, ranges.root, el("span", { class: "phone-only" }, sort, order), reset, csv);
  return { root, search, clear };
}

function select(label, options, value) {
  return el("select", { "aria-label": label }, options.map(([key, words]) => el("option", { value: key, selected: key === value }, words)));
}

function menu(title, content) {
  const summary = el("summary", {}, title);
  const root = el("details", { class: "menu" }, summary, el("div", { class: "menu-box" }, content));
  document.addEventListener("click", (event) => { if (!root.contains(event.target)) root.open = false; });
  root.addEventListener("keydown", (event) => { if (event.key === "Escape") { root.open = false; summary.focus(); event.stopPropagation(); } });
  return { root, summary };
}
