// Type text: which latents of which SAE fire on which token.

import { send } from "./api.js";
import { el, show, tokens, visible, whole } from "./render.js";
import { controlTag, href, jobOf, say, state } from "./state.js";

const N_SHOWN = 12;
const kept = { text: "", answer: null };

/** The part of the address that browsers send to nobody. */
const keepInAddress = (text) => window.history.replaceState(null, "", `/prompt#${new URLSearchParams({ text })}`);

export async function promptPage(go) {
  const field = el("textarea", { rows: "4", maxlength: "2000", "aria-label": "Text", placeholder: "Text for the language model (Ctrl+Enter runs it)" });
  const given = new URLSearchParams(window.location.hash.slice(1)).get("text");
  field.value = given ?? kept.text;
  const fault = el("p", { class: "absent", role: "alert", hidden: true });
  const out = el("div", { class: "fired" });
  const button = el("button", { type: "submit" }, "Run");
  const run = async (event) => {
    event?.preventDefault();
    fault.hidden = true;
    button.disabled = true;
    button.textContent = "Running\u2026";
    say("running");
    try {
      kept.text = field.value;
      keepInAddress(field.value);
      kept.answer = await send("/api/prompt", { text: field.value });
      const order = (each) => state.run.jobs.findIndex((job) => job.name === each.job);
      kept.answer.jobs.sort((a, b) => order(a) - order(b));
      out.replaceChildren(shown(kept.answer));
      say(`${kept.answer.texts.length} tokens`);
    } catch (error) {
      fault.hidden = false;
      fault.replaceChildren(...visible(error.message));
    }
    button.disabled = false;
    button.textContent = "Run";
  };
  field.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run(event); });
  if (kept.answer && kept.text === field.value) out.replaceChildren(shown(kept.answer));
  const root = el("div", { class: "prompt-page" }, el("h1", {}, "Prompt"),
    el("p", { class: "hint" }, "Which latents fire on which token, for every SAE of the run. The first time takes as long as loading the language model."),
    el("form", { onsubmit: run }, field, el("p", { class: "row" }, button)), fault, out);
  return { title: "Prompt", root, shown: () => {
    if (given && given !== kept.text) run();
    else if (kept.answer) keepInAddress(kept.text);
    else field.focus();
  }, keys: { n: () => field.focus(), "/": () => field.focus(), Escape: () => go("/") } };
}

function shown(answer) {
  const line = el("div", { class: "text prompt-text", role: "listbox", "aria-label": "Tokens", tabindex: "0", dir: "auto" });
  const list = el("div", { class: "by-sae" });
  const words = el("p", { class: "hint", role: "status" });
  let at = Math.max(0, answer.kept.lastIndexOf(true));
  let coloured = null; // [job index, latent]

  const draw = () => {
    const values = answer.texts.map((_, i) => (coloured ? (answer.jobs[coloured[0]].fired[i].find(([latent]) => latent === coloured[1])?.[1] ?? 0) : 0));
    const most = Math.max(0, ...values);
    const made = tokens({ texts: answer.texts, ids: answer.ids, activations: values, document: null }, { most, own: most, breaks: true, peak: at });
    made.forEach((token, i) => {
      token.setAttribute("role", "option");
      token.setAttribute("aria-selected", String(i === at));
      token.id = `token-${i}`;
      if (!answer.kept[i]) token.classList.add("dropped");
      token.addEventListener("click", () => { at = i; draw(); });
    });
    line.setAttribute("aria-activedescendant", `token-${at}`);
    line.replaceChildren(...made);
    const note = answer.kept[at] ? "" : " This position is left out: it is special, before the first kept one, or of massive norm.";
    words.replaceChildren("Token ", String(at + 1), " of ", String(answer.texts.length), ": \u201c", ...visible(answer.texts[at]), "\u201d.", note, coloured ? ` Shaded: ${answer.jobs[coloured[0]].job} #${coloured[1]}.` : " Choose a latent to shade the text by it.");
    const pressed = list.contains(document.activeElement) ? document.activeElement.id : "";
    list.replaceChildren(...answer.jobs.map(saeRow));
    document.getElementById(pressed)?.focus();
  };

  const saeRow = (job, j) => {
    const all = job.fired[at];
    const fired = all.slice(0, N_SHOWN);
    return el("section", { class: "sae", "aria-label": job.job },
      el("h3", {}, el("i", { class: `swatch swatch-${jobOf(job.job)?.slot ?? 8}`, "aria-hidden": "true" }), job.job, controlTag(jobOf(job.job)), el("small", {}, ` ${whole(all.length)} fire${all.length > fired.length ? `, the ${fired.length} largest shown` : ""}`)),
      el("ul", { class: "chips" }, fired.map(([latent, value]) => {
        const isOn = coloured?.[0] === j && coloured[1] === latent;
        return el("li", {}, el("button", { type: "button", class: "chip-button", id: `chip-${j}-${latent}`, "aria-pressed": String(isOn), onclick: () => { coloured = isOn ? null : [j, latent]; draw(); } }, `#${latent}`, el("span", { class: "amount" }, show(value))), el("a", { href: href(job.job, latent), "aria-label": `Open ${job.job} #${latent}` }, "\u2197"));
      })));
  };

  line.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -at, End: answer.texts.length - 1 - at }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    at = Math.max(0, Math.min(answer.texts.length - 1, at + step));
    draw();
  });
  draw();
  return el("div", {}, line, words, list);
}
