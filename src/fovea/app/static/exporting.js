// A selection of latents as one page to keep.

import { file, keep } from "./api.js";
import { el } from "./render.js";
import { asked, clearSelected, href, say, state, toggleSelected } from "./state.js";

const CONTEXTS = [["", "whole contexts"], ["16", "16 tokens on each side of the peak"], ["5", "5 tokens on each side of the peak"], ["0", "the peak token alone"]];

export async function exportPage(go) {
  const root = el("div", { class: "export-page narrow-page" });
  const fault = el("p", { class: "absent", role: "alert", hidden: true });
  const contexts = el("select", { id: "contexts" }, CONTEXTS.map(([value, words]) => el("option", { value }, words)));
  const make = async (event) => {
    event.preventDefault();
    fault.hidden = true;
    try {
      const around = contexts.value === "" ? null : Number(contexts.value);
      await keep(await file("/api/export", { latents: [...state.selected.values()], around }), "features.html");
      say("page made");
    } catch (error) { fault.hidden = false; fault.textContent = error.message; }
  };
  const draw = () => {
    const places = [...state.selected.values()];
    root.replaceChildren(
      el("h1", {}, "Export"),
      el("p", {}, "One page that needs no server and no network: the selected features with their evidence and your notes."),
      places.length ? el("form", { onsubmit: make },
        el("p", { class: "row" }, el("label", { for: "contexts" }, "Text shown"), contexts),
        el("p", { class: "hint" }, "Texts under copyright: shorten the contexts before you pass the page on."),
        el("p", { class: "row" }, el("button", { type: "submit" }, `Export ${places.length} ${places.length === 1 ? "feature" : "features"}`), el("button", { type: "button", class: "quiet", onclick: () => { clearSelected(); draw(); } }, "Clear the selection")))
        : el("p", { class: "absent" }, "Nothing is selected. In the table or on the page of a latent, press x or \u201cSelect\u201d."),
      fault,
      el("ul", { class: "selection" }, places.map(([job, latent]) => el("li", {}, el("a", { href: href(job, latent) }, `${job} #${latent}`), el("button", { type: "button", class: "quiet", "aria-label": `Take out ${job} #${latent}`, onclick: () => { toggleSelected(job, latent); draw(); (root.querySelector(".selection button") ?? document.getElementById("main")).focus(); } }, "take out")))),
      el("p", { class: "hint" }, "The whole table, as it is filtered, is there as CSV: ", el("a", { href: `/api/latents.csv${asked(state.query)}`, download: "latents.csv" }, "latents.csv"), "."));
  };
  draw();
  return { title: "Export", root, keys: { Escape: () => go("/") } };
}
