// One latent: its card, the nearest latent of g beside it, its flag and notes.

import { get, send } from "./api.js";
import { card, el, visible } from "./render.js";
import { asked, controlTag, href, isSelected, jobOf, say, state, toggleSelected } from "./state.js";

export async function featurePage(go, job, latent) {
  state.query = new URLSearchParams(window.location.search);
  const at = new URLSearchParams(state.query);
  at.set("at_job", job);
  at.set("at_latent", latent);
  const [data, position] = await Promise.all([get(address(job, latent)), get("/api/position", at)]);
  if (position.position !== null) state.last = { query: asked(state.query), at: position.position };
  const shown = card(data, openFrom(job, latent));
  const marks = marksOf(data);
  const nearest = data.nearest_general ? nearestPanel(data.nearest_general) : null;
  const other = el("a", { class: "button quiet", href: `/compare?${new URLSearchParams({ a: `${job}/${latent}`, b: data.nearest_general ? `${data.nearest_general.job}/${data.nearest_general.latent}` : "" })}` }, "Compare");
  const root = el("div", { class: "feature-page" },
    steps(go, position),
    el("div", { class: "title-row" }, el("h1", {}, el("i", { class: `swatch swatch-${data.slot}`, "aria-hidden": "true" }), job, " ", el("b", {}, `#${latent}`), controlTag(jobOf(job))), el("span", { class: "actions" }, marks.flag, marks.select, other)),
    marks.root, shown, nearest);
  const step = (place) => () => { if (!place) { say("that is the last one"); return; } go(href(...place)); window.scrollTo(0, 0); };
  return {
    title: `${job} #${latent}`, root,
    keys: {
      j: step(position.next), k: step(position.previous),
      f: () => marks.flag.click(), n: () => marks.field.focus(), x: () => marks.select.click(),
      o: () => root.querySelector("button.own-scale")?.click(),
      e: () => expandAll(shown),
      "/": () => { go(`/${asked(state.query)}`).then(() => document.querySelector("input[type=search]")?.focus()); },
      Escape: () => go(`/${asked(state.query)}`),
    },
  };
}

export const address = (job, latent) => `/api/latents/${encodeURIComponent(job)}/${latent}`;

/** How a card of this latent reaches other latents and whole contexts. */
export function openFrom(job, latent) {
  return {
    href,
    context: (corpus, group, example) => get(`${address(job, latent)}/context`, new URLSearchParams({ corpus, group, example })),
  };
}

function expandAll(shown) {
  const buttons = [...shown.querySelectorAll("button.more")];
  const isAnyShort = buttons.some((button) => button.getAttribute("aria-expanded") === "false");
  for (const button of buttons) if ((button.getAttribute("aria-expanded") === "false") === isAnyShort) button.click();
}

function steps(go, position) {
  const link = (place, words, key) => place ? el("a", { href: href(...place), title: `key ${key}` }, words) : el("span", { class: "off" }, words);
  const where = position.position === null ? "not among the rows of the table as it is filtered" : `${(position.position + 1).toLocaleString("en")} of ${position.total.toLocaleString("en")} in the table`;
  return el("nav", { class: "steps", "aria-label": "Latents in the order of the table" },
    el("a", { class: "to-table", href: `/${asked(state.query)}` }, "\u2190 table"), el("span", { class: "where" }, where),
    link(position.previous, "previous", "k"), link(position.next, "next", "j"));
}

function nearestPanel(link) {
  const box = el("div", {});
  const title = jobOf(link.job) ? el("a", { href: href(link.job, link.latent) }, `${link.job} #${link.latent}`) : `${link.job} #${link.latent}`;
  const panel = el("section", { class: "beside", "aria-label": "Nearest latent of g" },
    el("h2", {}, "Nearest in g: ", title, el("small", {}, ` cosine ${Number(link.value.toPrecision(3))}`)), box);
  get(address(link.job, link.latent)).then(
    (data) => box.replaceChildren(card(data, openFrom(link.job, link.latent), true)),
    (error) => box.replaceChildren(el("p", { class: "absent" }, error.message)));
  return panel;
}

function marksOf(data) {
  const [job, latent] = [data.job, data.latent];
  const flag = el("button", { type: "button", title: "key f" });
  const select = el("button", { type: "button", title: "key x" });
  const list = el("ul", { class: "notes" });
  const fault = el("p", { class: "absent", role: "alert", hidden: true });
  const field = el("textarea", { rows: "1", maxlength: "4000", placeholder: "a note (key n, Ctrl+Enter keeps it)", "aria-label": "Note" });
  const keep = el("button", { type: "submit" }, "Keep note");
  let current = data.marks;

  const change = async (action, more = {}) => {
    fault.hidden = true;
    try {
      current = await send("/api/marks", { job, latent, action, ...more });
      draw();
      return true;
    } catch (error) {
      fault.hidden = false;
      fault.replaceChildren(...visible(error.message));
      return false;
    }
  };
  const draw = () => {
    flag.textContent = current.flagged ? "\u2691 Flagged" : "\u2690 Flag";
    flag.setAttribute("aria-pressed", String(current.flagged));
    select.textContent = isSelected(job, latent) ? "\u2713 Selected" : "Select";
    select.setAttribute("aria-pressed", String(isSelected(job, latent)));
    list.replaceChildren(...current.notes.map((note) => el("li", {},
      el("span", { class: "note-text" }, visible(note.text, true)),
      el("time", { datetime: note.at_utc }, note.at_utc.slice(0, 16).replace("T", " ")),
      el("button", { type: "button", class: "quiet", onclick: async () => { if (await change("retract", { number: note.number })) field.focus(); } }, "take back"))));
  };
  const submit = async (event) => {
    event.preventDefault();
    const text = field.value;
    if (!text.trim()) return;
    field.value = "";
    if (await change("note", { text })) say("note kept");
    else if (!field.value) field.value = text;
  };
  flag.addEventListener("click", () => change(current.flagged ? "unflag" : "flag"));
  select.addEventListener("click", () => { toggleSelected(job, latent); draw(); });
  field.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event); });
  draw();
  return { flag, select, field, root: el("div", { class: "marks" }, list, fault, el("form", { class: "row", onsubmit: submit }, field, keep)) };
}
