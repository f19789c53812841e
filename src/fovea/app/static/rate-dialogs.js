// The raters' dialogs: a reason that is required, a confirmation, the rubric and the keys.

import { el } from "./render.js";
import { anchor, keyOf } from "./rate-item.js";

const KEYS = [
  ["1 2 3 \u2026 0", "choose what stands beside the number"],
  ["t", "can\u2019t tell"],
  ["n", "nice"],
  ["e", "write the explanation; after it is fixed, a note"],
  ["Enter", "submit; Ctrl+Enter from a text field"],
  ["s", "skip, with a reason"],
  ["u", "undo the last step"],
  ["j k", "in review: next and previous item"],
  ["Esc", "leave a field or a dialog; in review, back to the list"],
  ["?", "this help"],
];

function show(dialog) {
  document.body.append(dialog);
  const before = document.activeElement;
  dialog.addEventListener("close", () => { dialog.remove(); before?.focus?.({ preventScroll: true }); });
  dialog.showModal();
}

const close = (words) => el("button", { type: "button", onclick: (event) => event.target.closest("dialog").close() }, words);

export const keyList = () => el("dl", { class: "pairs" }, KEYS.map(([keys, words]) => [el("dt", {}, keys.split(" ").map((key) => [el("kbd", {}, key), " "])), el("dd", {}, words)]));

export const rubricList = (points) => el("ol", { class: "rubric" }, points.map((text, i) => el("li", {}, el("kbd", {}, keyOf(i)), el("span", {}, anchor(text)))));

export function helpDialog(asked) {
  if (document.querySelector("dialog[open]")) return;
  show(el("dialog", { "aria-label": "Rubric and keys" }, asked ? [el("h2", {}, "Points"), rubricList(asked.points)] : null,
    el("h2", {}, "Keys"), keyList(), el("p", { class: "end" }, close("Close"))));
}

/** Ask for a reason; `then` gets it when it is not empty. */
export function reasonDialog({ title, words, action }, then) {
  const reason = el("input", { type: "text", id: "reason", maxlength: "500", required: true, autocomplete: "off" });
  const fault = el("p", { class: "absent", role: "alert", hidden: true }, "A word or two are needed.");
  const done = (event) => {
    event.preventDefault();
    if (!reason.value.trim()) { fault.hidden = false; reason.focus(); return; }
    dialog.close();
    then(reason.value);
  };
  const dialog = el("dialog", { "aria-labelledby": "reason-title" }, el("h2", { id: "reason-title" }, title), el("p", {}, words),
    el("form", { onsubmit: done, novalidate: true }, el("label", { for: "reason", class: "field-label" }, "Reason"), reason, fault, el("p", { class: "row end" }, close("Cancel"), el("button", { type: "submit" }, action))));
  show(dialog);
  reason.focus();
}

export function confirmDialog({ title, words, action }, then) {
  const not = close("Not yet");
  const dialog = el("dialog", { "aria-labelledby": "sure-title" }, el("h2", { id: "sure-title" }, title), el("p", {}, words),
    el("form", { onsubmit: (event) => { event.preventDefault(); dialog.close(); then(); } }, el("p", { class: "row end" }, not, el("button", { type: "submit" }, action))));
  show(dialog);
  not.focus(); // Enter pressed once too often ends nothing
}
