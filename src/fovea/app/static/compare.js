// Two SAEs side by side (a=JOB&b=JOB), or two latents (a=JOB/NUMBER&b=JOB/NUMBER).

import { get } from "./api.js";
import { address, openFrom } from "./feature.js";
import { card, density, el, show, times, tokens, whole } from "./render.js";
import { controlTag, href, jobOf, state } from "./state.js";

const NAMES = { density_domain: "density on D", density_general: "density on general text", ratio: "ratio of the two", novelty_decoder: "cosine with g, decoder", novelty_encoder: "cosine with g, encoder" };
const SORTS = [["ratio", "descending", "largest ratio"], ["density_domain", "descending", "densest on D"], ["novelty_decoder", "ascending", "newest (decoder)"], ["latent", "ascending", "in order"]];
const N_LISTED = 20;

export async function comparePage(go) {
  const query = new URLSearchParams(window.location.search);
  const [first, second] = defaults();
  const [a, b] = [query.get("a") || first, query.get("b") || second];
  const latents = [a, b].map((each) => each.match(/^(.*)\/(\d+)$/));
  if (latents.some(Boolean)) return latentPair(go, [a, b], latents);
  return jobPair(go, [a, b], query);
}

/** The first SAEs of two methods. */
function defaults() {
  const jobs = state.run.jobs;
  const first = jobs[0];
  return [first.name, (jobs.find((job) => job.slot !== first.slot) ?? jobs[jobs.length - 1]).name];
}

async function jobPair(go, names, query) {
  const data = await get("/api/compare", new URLSearchParams({ a: names[0], b: names[1] }));
  const isKnown = (column) => data.jobs.some((job) => job.medians[column] !== null);
  const sorts = SORTS.filter(([column]) => column === "latent" || isKnown(column));
  const order = sorts.find(([name]) => name === query.get("sort")) ?? sorts[0];
  const domains = names.map((name) => jobOf(name).domain);
  const change = () => go(`/compare?${new URLSearchParams({ a: picks[0].value, b: picks[1].value, sort: sort.value })}`, { replace: true });
  const picks = names.map((name, i) => el("select", { id: `sae-${i}`, "aria-label": i ? "Second SAE" : "First SAE", onchange: change }, state.run.jobs.map((job) => el("option", { value: job.name, selected: job.name === name }, job.name))));
  const sort = el("select", { id: "listed", "aria-label": "Latents listed", onchange: change }, sorts.map(([name, , words]) => el("option", { value: name, selected: name === order[0] }, words)));
  const root = el("div", { class: "compare-page" },
    el("h1", {}, "Compare"),
    el("p", { class: "row picks" }, picks[0], el("span", {}, "with"), picks[1]),
    domains[0] === domains[1] ? null : el("p", { class: "hint" }, `D is the corpus of each SAE\u2019s own domain: ${domains.join(" and ")}.`),
    summary(data),
    el("p", { class: "hint" }, "Of the latents that fire on D. Outlines: share of latents per bin."),
    el("div", { class: "distributions" }, Object.keys(NAMES).filter(isKnown).map((column) => distribution(data, column))),
    el("p", { class: "row picks" }, el("label", {}, `The ${N_LISTED} latents of each: `, sort)),
    el("div", { class: "pair" }, names.map((name) => listing(name, order))));
  return { title: `${names[0]} and ${names[1]}`, root, keys: { Escape: () => go("/") } };
}

const count = (n) => (n === null ? "\u2013" : whole(n));

function summary(data) {
  const rows = [
    ["latents", (job) => count(job.n_latents)],
    ["fire on D", (job) => count(job.n_alive)],
    ["fire on D, never on general text", (job) => count(job.n_only)],
    ["over 100 times denser on D", (job) => count(job.n_specific)],
    ["cosine with g below 0.9 (decoder)", (job) => count(job.n_new)],
    ["never fired", (job) => count(job.n_dead)],
    ...Object.entries(NAMES).map(([column, words]) => [`median ${words}`, (job) => column === "ratio" ? times(job.medians.ratio, false) : show(job.medians[column])]),
  ];
  return el("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": "Summary" }, el("table", {},
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, el("span", { class: "sr" }, "measure")), data.jobs.map((job) => el("th", { scope: "col", class: "n" }, el("i", { class: `swatch swatch-${jobOf(job.job).slot}`, "aria-hidden": "true" }), job.job, controlTag(jobOf(job.job)))))),
    el("tbody", {}, rows.map(([words, value]) => el("tr", {}, el("th", { scope: "row" }, words), data.jobs.map((job) => el("td", { class: "n" }, value(job))))))));
}

const SVG = "http://www.w3.org/2000/svg";
function svg(name, properties, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(properties)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function distribution(data, column) {
  const { low, high, log } = data.axes[column];
  const [width, height, bottom] = [340, 130, 18];
  const shares = data.jobs.map((job) => { const { counts } = job.histograms[column]; return counts.map((count) => count / Math.max(1, job.n_alive)); });
  const tallest = Math.max(1e-9, ...shares.flat());
  const x = (value) => 6 + ((value - low) / (high - low)) * (width - 12);
  const lines = shares.map((counts, j) => {
    const step = (high - low) / counts.length;
    const points = counts.flatMap((share, i) => { const y = (height - bottom - (share / tallest) * (height - bottom - 8)).toFixed(1); return [`${x(low + i * step).toFixed(1)},${y}`, `${x(low + (i + 1) * step).toFixed(1)},${y}`]; });
    return svg("polyline", { class: `outline stroke-${jobOf(data.jobs[j].job).slot}${j ? " second" : ""}`, points: points.join(" ") });
  });
  const ticks = (log ? Array.from({ length: high - low + 1 }, (_, i) => low + i) : [0, 0.25, 0.5, 0.75, 1]).filter((tick, i) => !log || (high - low < 8) || i % 2 === 0)
    .map((tick) => svg("text", { class: `tick ${tick === low ? "" : tick === high ? "end" : "middle"}`, x: x(tick), y: height - 4 }, log ? power(tick) : String(tick)));
  const beside = data.jobs.map((job) => { const { n_zero: zero } = job.histograms[column]; return zero ? `${job.job}: ${whole(zero)} at 0` : null; }).filter(Boolean);
  return el("figure", { class: "small-figure" },
    el("figcaption", { class: "above" }, NAMES[column]),
    svg("svg", { class: "distribution", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${NAMES[column]}: medians ${data.jobs.map((job) => `${job.job} ${show(job.medians[column])}`).join(", ")}` },
      svg("line", { class: "axis", x1: 6, x2: width - 6, y1: height - bottom, y2: height - bottom }), ...lines, ...ticks),
    el("figcaption", {}, beside.length ? `not drawn: ${beside.join("; ")}` : "\u00a0"));
}

const power = (exponent) => (exponent === 0 ? "1" : exponent > 0 && exponent < 4 ? String(10 ** exponent) : exponent < 0 && exponent > -3 ? String(10 ** exponent) : `1e${exponent}`);

function listing(name, [sort, order]) {
  const list = el("ol", { class: "briefs" });
  const query = new URLSearchParams({ job: name, show: "domain", sort, order, limit: N_LISTED });
  get("/api/latents", query).then(async ({ rows }) => {
    const items = rows.map((row) => brief(name, row));
    list.replaceChildren(...items.map((item) => item.root));
    if (!items.length) list.replaceChildren(el("li", { class: "none" }, "none fires on D"));
    await Promise.all(items.map((item) => item.load()));
  }, (error) => list.replaceChildren(el("li", { class: "absent" }, error.message)));
  return el("section", { "aria-label": name }, el("h2", {}, el("i", { class: `swatch swatch-${jobOf(name).slot}`, "aria-hidden": "true" }), name), list);
}

/** One line about a latent, and its largest example once it is read. */
function brief(name, [, latent, onD, , ratio, isBound]) {
  const text = el("p", { class: "text one-line", dir: "auto" }, "\u00a0");
  const root = el("li", {}, el("p", { class: "brief-head" }, el("a", { href: href(name, latent) }, `#${latent}`), el("span", {}, `${density(onD, jobOf(name).n_tokens_domain)} of D`), el("span", {}, `ratio ${times(ratio, isBound)}`)), text);
  const load = async () => {
    const data = await get(address(name, latent));
    const example = data.evidence[0]?.groups[0]?.examples[0];
    const most = data.evidence[0]?.max_activation;
    if (!example) { text.replaceChildren("did not activate where examples were read"); return; }
    const from = Math.max(0, example.peak - 5);
    const shown = { ...example, texts: example.texts.slice(from), ids: example.ids.slice(from), activations: example.activations.slice(from), peak: example.peak - from };
    text.replaceChildren(...tokens(shown, { most, own: most }));
  };
  return { root, load: () => load().catch((error) => { text.textContent = error.message; }) };
}

async function latentPair(go, names, latents) {
  const panels = await Promise.all(names.map(async (name, i) => {
    const input = el("input", { type: "text", value: name, "aria-label": i ? "Second latent" : "First latent", placeholder: "SAE/number", spellcheck: "false" });
    if (!latents[i]) return { input, root: el("p", { class: "absent" }, "Name a latent as SAE/number.") };
    const [, job, latent] = latents[i];
    try {
      const data = await get(address(job, latent));
      return { input, root: el("div", {}, el("h2", {}, el("i", { class: `swatch swatch-${data.slot}`, "aria-hidden": "true" }), el("a", { href: href(job, latent) }, `${job} #${latent}`)), card(data, openFrom(job, latent))) };
    } catch (error) { return { input, root: el("p", { class: "absent" }, error.message) }; }
  }));
  const change = (event) => { event.preventDefault(); go(`/compare?${new URLSearchParams({ a: panels[0].input.value.trim(), b: panels[1].input.value.trim() })}`); };
  const root = el("div", { class: "compare-page latents-compared" }, el("h1", {}, "Compare"),
    el("form", { class: "row picks", onsubmit: change }, panels[0].input, el("span", {}, "with"), panels[1].input, el("button", { type: "submit" }, "Show")),
    el("div", { class: "pair" }, panels.map((panel) => el("section", {}, panel.root))));
  return { title: `${names[0]} and ${names[1]}`, root, keys: { Escape: () => go("/") } };
}
