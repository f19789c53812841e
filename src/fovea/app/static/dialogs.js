// The two dialogs: keys and words, and the jump to a latent.

import { el } from "./render.js";
import { href, jobOf, state } from "./state.js";

const KEYS = [
  ["j k", "next and previous latent"],
  ["Enter", "open the latent of the row"],
  ["/", "search"],
  ["g", "go to a latent by its number"],
  ["f", "raise or lower the flag"],
  ["n", "write a note"],
  ["x", "select for export, or not"],
  ["o", "one scale for both texts, or one each"],
  ["e", "all contexts whole, or short"],
  ["\u2191 \u2193 \u2190 \u2192", "in examples (reached by Tab): from one to the next, from token to token"],
  ["t", "light or dark"],
  ["Esc", "leave a field or a dialog; back to the table"],
  ["?", "this help"],
];
const WORDS = [
  ["latent", "one unit of an SAE"],
  ["D", "the domain\u2019s corpus"],
  ["g", "the general SAE"],
  ["density", "share of tokens on which a latent fires"],
  ["ratio", "density on D to density on general text; \u2265 where it never fired on general text and one firing is assumed"],
  ["cosine with g", "largest cosine of the latent\u2019s direction with any of g: near 1 is a copy, low is new"],
];

function show(dialog) {
  document.body.append(dialog);
  dialog.addEventListener("close", () => dialog.remove());
  dialog.showModal();
}

export function helpDialog() {
  const list = (pairs, wrap) => el("dl", { class: "pairs" }, pairs.map(([term, words]) => [el("dt", {}, wrap(term)), el("dd", {}, words)]));
  const close = el("button", { type: "button", onclick: () => dialog.close() }, "Close");
  const dialog = el("dialog", { "aria-labelledby": "help-title" },
    el("h2", { id: "help-title" }, "Keys"),
    list(KEYS, (term) => term.split(" ").map((key) => [el("kbd", {}, key), " "])),
    el("h2", {}, "Words"),
    list(WORDS, (term) => el("b", {}, term)),
    el("p", { class: "end" }, close));
  show(dialog);
}

export function jumpDialog(go) {
  const here = window.location.pathname.match(/^\/latents\/([^/]+)\//);
  const current = here ? decodeURIComponent(here[1]) : state.run.jobs[0].name;
  const job = el("select", { "aria-label": "SAE" }, state.run.jobs.map((each) => el("option", { value: each.name, selected: each.name === current }, each.name)));
  const latent = el("input", { type: "number", min: "0", step: "1", required: true, "aria-label": "Number of the latent" });
  const limit = () => latent.setAttribute("max", jobOf(job.value).n_latents - 1);
  job.addEventListener("change", limit);
  limit();
  const dialog = el("dialog", { "aria-labelledby": "jump-title" },
    el("h2", { id: "jump-title" }, "Go to a latent"),
    el("form", { class: "row", onsubmit: (event) => { event.preventDefault(); dialog.close(); go(href(job.value, latent.value)); } },
      job, latent, el("button", { type: "submit" }, "Go")));
  show(dialog);
  latent.focus();
}
