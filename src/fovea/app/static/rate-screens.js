// The raters' screens between items: signing in, what comes now, the list of one's own answers, the end.

import { el, visible } from "./render.js";
import { keyList, rubricList } from "./rate-dialogs.js";
import { anchor, question } from "./rate-item.js";
import { read } from "./rate-save.js";

const N_LISTED = 20;

export function signInScreen(words, open) {
  const field = el("input", { type: "text", id: "link", autocomplete: "off", spellcheck: "false", placeholder: "http://127.0.0.1:8642/rate/\u2026/#t=\u2026" });
  const form = el("form", { class: "sign-in", onsubmit: (event) => { event.preventDefault(); if (field.value.trim()) open(field.value.trim()); else field.focus(); } },
    el("label", { for: "link", class: "field-label" }, "Your link, as it was given to you"), el("span", { class: "row" }, field, el("button", { type: "submit" }, "Sign in")));
  return el("div", { class: "narrow-page" }, el("h1", { tabindex: "-1" }, "Not signed in"), el("p", { class: "absent" }, visible(words.replace(/^not signed in: /, ""))), form);
}

const screen = (title, parts, action, go) => el("div", { class: "narrow-page screen" }, el("h1", { tabindex: "-1" }, title), parts,
  action ? el("p", { class: "row" }, el("button", { type: "button", class: "main-button", onclick: go }, action, " ", el("kbd", { "aria-hidden": "true" }, "Enter"))) : null);

/** What the phase asks, before its first item. */
export function introScreen(asked, isFirst, go) {
  if (asked.phase === "guess") {
    return screen("Guess the method", [
      el("p", {}, "Your ratings are fixed now. Last of all: for ", String(asked.n_items), " features, guess which method each is from, or say that you cannot. This measures how blind the study was; there is no wrong answer."),
      el("ul", { class: "methods" }, asked.guesses.map((name) => el("li", {}, visible(name))))], "Go on", go);
  }
  if (!isFirst) return screen("Practice is over", [el("p", {}, "From now on it counts: ", String(asked.n_items), " items, without feedback. Undo and changes are possible until you finish. Stop whenever you like: the page comes back to the item that you left.")], "Start rating", go);
  const practice = asked.phase === "practice" ? `Practice comes first: ${asked.n_items} ${asked.n_items === 1 ? "item" : "items"}, with feedback. ` : `There are ${asked.n_items} items. `;
  return screen(`Hello, ${asked.rater}`, [
    el("p", {}, "You will see examples of text. In each example a ", el("b", {}, "feature"), " of a language model responds to some words: the deeper the shade, the stronger. Each item is one feature. ", practice,
      asked.writes_explanation ? "For each: read the examples, write in a few words what the feature responds to, then answer:" : "For each: read the examples, then answer:"),
    el("p", { class: "question" }, question(asked.question, "the subject")),
    rubricList(asked.points),
    el("p", {}, el("b", {}, "Can\u2019t tell"), " is an answer of its own, not a low point: for features without a reading, or text that you cannot follow. Call a feature ", el("b", {}, "nice"), " if you would show it to others. Judge what is shown, not what you think made it."),
    el("div", { class: "for-keys" }, el("h2", {}, "Keys"), keyList()),
    el("p", { class: "hint" }, "Every answer is saved as you give it. You can close the page at any time and come back by the same link.")], "Start", go);
}

/** One's own answers, twenty at a time; a click opens one. */
export async function reviewScreen(asked, { at, open, turn, finish }) {
  const { answers } = await read("answers", { start: at });
  const rows = answers.map((each, i) => el("li", {}, el("button", { type: "button", class: "own-answer", onclick: () => open(each.id) },
    el("span", { class: "number" }, String(at + i + 1)), el("span", { class: "given-point" }, said(each, asked.points)),
    el("span", { class: "own-words" }, visible(each.skip_reason ?? each.words)))));
  const last = Math.max(0, asked.n_items - 1);
  const page = (to, words) => el("button", { type: "button", disabled: to < 0 || to > last, onclick: () => turn(to) }, words);
  return el("div", { class: "narrow-page review" }, el("h1", { tabindex: "-1" }, "Your answers"),
    el("p", {}, `All ${asked.n_items} items have an answer`, asked.n_skipped ? `, ${asked.n_skipped} of them skipped` : "", ". Open any to change its rating. When you finish, ratings are fixed", "."),
    el("p", { class: "row" }, el("button", { type: "button", class: "main-button", onclick: finish }, "Finish rating\u2026")),
    el("ol", { class: "own-answers", start: at + 1 }, rows),
    asked.n_items > N_LISTED ? el("nav", { class: "row", "aria-label": "Pages of answers" }, page(at - N_LISTED, "Earlier"), el("span", { class: "hint" }, `${at + 1} to ${at + rows.length} of ${asked.n_items}`), page(at + N_LISTED, "Later")) : null);
}

function said(each, points) {
  const marks = [each.nice ? "nice" : null, each.has_note ? "note" : null].filter(Boolean).map((word) => el("span", { class: "badge" }, word));
  if (each.skip_reason !== null) return [el("i", {}, "skipped"), ...marks];
  if (each.cannot_tell) return [el("i", {}, "can\u2019t tell"), ...marks];
  return [el("b", {}, visible((points[each.specificity] ?? "").split(": ")[0])), ...marks];
}

export const closingScreen = (asked, lock) => screen("All done", [
  el("p", {}, "Nothing is left to answer. Lock your answers to hand them in; after that nobody, not even you, can change them."),
  asked.can_undo ? el("p", { class: "hint" }, "Undo takes back the last guess.") : null], "Lock my answers\u2026", lock);

export const lockedScreen = (asked) => screen("Thank you", [el("p", {}, `Your answers are locked, ${asked.rater}. You can close this page.`)]);

export const overScreen = () => screen("The study is over", [el("p", {}, "It has been unblinded, so that nothing more is recorded. All that you answered before counts. Thank you.")]);

export function feedbackPanel({ anchor: words, fact }, go) {
  return el("section", { class: "answer feedback", "aria-labelledby": "feedback-title" }, el("h2", { id: "feedback-title", tabindex: "-1" }, "Feedback"),
    el("p", {}, words ? ["You chose: ", anchor(words)] : "You could not tell. That is a good answer where no reading fits."),
    fact ? el("p", { class: "fact" }, visible(fact)) : null,
    el("p", { class: "hint" }, "A measurement is not the right answer: it knows where the feature fires, not what it means."),
    el("p", { class: "row" }, el("button", { type: "button", class: "main-button", onclick: go }, "Next item ", el("kbd", { "aria-hidden": "true" }, "Enter"))));
}
