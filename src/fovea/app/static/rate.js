// A rater's page: sign in, go on where the rater stopped, show one thing at a time, listen to the keys.
// No item is asked for before the answer to the one before is acknowledged.

import { Refused, signIn } from "./api.js";
import { el, themeButton } from "./render.js";
import { confirmDialog, helpDialog, reasonDialog } from "./rate-dialogs.js";
import { CANNOT, answerForm, evidence, panelWords } from "./rate-item.js";
import { alarm, base, calm, keep, read, record, undo } from "./rate-save.js";
import { closingScreen, feedbackPanel, introScreen, lockedScreen, overScreen, reviewScreen, signInScreen } from "./rate-screens.js";

const PHASES = { practice: "Practice", rating: "Rating", review: "Review", guess: "Guess", closing: "All done", locked: "Locked" };
const N_LISTED = 20;
const main = document.getElementById("main");
let asked = null; // where the rater stands and what is asked
let view = {}; // {keys, leave, form} of what is shown
let isBusy = false;

const say = (words) => { document.getElementById("said").textContent = words; };

/** Do one thing at a time; what the server refuses is said, and the page is drawn as things stand. */
async function act(work) {
  if (isBusy) return;
  isBusy = true;
  main.setAttribute("aria-busy", "true");
  const fields = [...main.querySelectorAll("textarea")];
  fields.forEach((field) => { field.readOnly = true; });
  try {
    await work();
  } catch (error) {
    await refused(error).catch((again) => alarm(again.message));
  }
  fields.forEach((field) => { field.readOnly = false; });
  main.removeAttribute("aria-busy");
  isBusy = false;
}

async function refused(error) {
  if (!(error instanceof Refused)) throw error;
  if (error.status === 401) { draw(signInScreen(error.message, enter), {}); return; }
  if (asked) await goOn(view.item?.id);
  alarm(error.message);
}

/** Learn where the rater stands and show what is due: item `wanted` if the phase has it, else the next one. */
async function goOn(wanted) {
  asked = await read("state");
  mark();
  if (asked.phase === "locked") { draw(lockedScreen(asked), {}); return; }
  if (asked.is_over) { draw(overScreen(), {}); return; }
  if (asked.phase === "closing") { drawClosing(); return; }
  if (asked.phase !== "review" && asked.n_done === 0 && !wasTold()) { drawIntro(); return; }
  const { item } = await read("item", asked.order.includes(wanted) ? { id: wanted } : {});
  if (item === null) await drawReview(); else drawItem(item);
}

function mark() {
  document.getElementById("where").hidden = false;
  const count = ["locked", "closing"].includes(asked.phase) ? "" : ` \u00b7 ${asked.n_done} of ${asked.n_items}`;
  document.getElementById("place").textContent = PHASES[asked.phase] + count;
  const bar = document.getElementById("progress");
  bar.max = Math.max(1, asked.n_items);
  bar.value = asked.n_done;
  const button = document.getElementById("undo");
  button.hidden = asked.phase === "locked" || asked.is_over;
  button.disabled = !asked.can_undo;
  document.title = `${PHASES[asked.phase]} \u00b7 fovea`;
}

function draw(root, shown) {
  view.leave?.();
  view = shown;
  main.replaceChildren(root);
  window.scrollTo(0, 0);
  root.querySelector("h1")?.focus({ preventScroll: true });
}

const toldKey = () => `fovea-rate told ${base} ${asked.rater} ${asked.phase}`;

const told = new Set();

function wasTold() {
  try { return told.has(toldKey()) || window.sessionStorage.getItem(toldKey()) !== null; } catch { return false; }
}

function drawIntro() {
  const go = () => act(async () => {
    told.add(toldKey());
    try { window.sessionStorage.setItem(toldKey(), "1"); } catch { /* after a reload it is told again */ }
    const { item } = await read("item");
    drawItem(item);
  });
  const isFirst = asked.phase === "practice" || !asked.has_practice;
  draw(introScreen(asked, isFirst, go), { keys: { Enter: go } });
}

function drawClosing() {
  const lock = () => confirmDialog({ title: "Lock your answers?", words: "They are handed in and cannot be changed any more.", action: "Lock" },
    () => act(async () => { await record({ kind: "lock" }); await goOn(); }));
  draw(closingScreen(asked, lock), { keys: { Enter: lock } });
}

async function drawReview(at = 0) {
  const finish = () => confirmDialog({ title: "Finish rating?", words: "Ratings are fixed then; only the guesses are left, if the study has them.", action: "Finish" },
    () => act(async () => { await record({ kind: "finish" }); await goOn(); }));
  const actions = { at, finish, open: (id) => act(() => goOn(id)), turn: (to) => act(() => drawReview(to)) };
  draw(await reviewScreen(asked, actions), {
    keys: { j: () => at + N_LISTED < asked.n_items && actions.turn(at + N_LISTED), k: () => at > 0 && actions.turn(at - N_LISTED) },
  });
}

function drawItem(item) {
  const isReview = asked.phase === "review";
  const number = asked.order.indexOf(item.id);
  const form = answerForm(item, asked, { say, send: (steps) => answerWith(item, steps) });
  const head = el("div", { class: "item-head" },
    el("h1", { tabindex: "-1" }, `${asked.phase === "practice" ? "Practice item" : "Item"} ${number + 1}`, el("small", {}, ` of ${asked.order.length}`)),
    el("p", { class: "from" }, "examples from ", el("b", {}, panelWords(item))),
    el("a", { class: "to-answer", href: "#answer" }, "to the answer"));
  const skip = () => asked.phase !== "guess" && reasonDialog({ title: "Skip this item", words: "For items that cannot be judged at all, such as broken text. If you see no meaning, say that you can\u2019t tell instead.", action: "Skip" },
    (text) => answerWith(item, [{ kind: "skip", item: item.id, seen: item.seen, text }]));
  const stop = () => reasonDialog({ title: "Stop here for good", words: "Items without an answer stay open, and ratings are fixed. To go on another day, just close the page.", action: "Stop" },
    (text) => act(async () => { await record({ kind: "finish", text }); await goOn(); }));
  const list = () => act(() => drawReview(Math.floor(number / N_LISTED) * N_LISTED));
  const step = (by) => asked.order[number + by] && act(() => goOn(asked.order[number + by]));
  const more = asked.phase === "guess" ? null : el("p", { class: "row more-actions" },
    el("button", { type: "button", class: "quiet", onclick: skip }, "Skip\u2026 ", el("kbd", { "aria-hidden": "true" }, "s")),
    asked.phase === "rating" ? el("button", { type: "button", class: "quiet", onclick: stop }, "Stop for good\u2026") : null,
    isReview ? [el("button", { type: "button", class: "quiet", onclick: list }, "Back to the list ", el("kbd", { "aria-hidden": "true" }, "Esc"))] : null);
  const side = el("section", { class: "side", id: "answer", "aria-label": "Answer" }, form.root, more);
  const keys = { Enter: form.submit, 0: () => form.choose(CANNOT), t: () => form.choose(CANNOT), n: form.toggleNice, e: form.write, s: skip };
  for (let i = 1; i < 10; i += 1) keys[i] = () => form.choose(i - 1);
  if (isReview) Object.assign(keys, { j: () => step(1), k: () => step(-1), Escape: list });
  const isSame = view.item?.id === item.id;
  const place = window.scrollY;
  draw(el("div", { class: "item-page" }, head, el("div", { class: "item-body" }, evidence(item), side)), { keys, form, item, side, leave: form.leave });
  if (isSame) { window.scrollTo(0, place); form.focus(); }
}

/** Record the steps of an item, then show its next stage, the feedback, or the next item. */
function answerWith(item, steps) {
  return act(async () => {
    view.form?.leave();
    let answer = null;
    for (const step of steps) answer = await record(step);
    keep(item.id, steps.at(-1).kind === "explain" ? { text: null } : null);
    calm();
    const isExplained = steps.at(-1).kind === "explain";
    say(isExplained ? "Explanation fixed. Now rate." : "Saved.");
    if (isExplained) { await goOn(item.id); return; }
    if (answer.feedback) { drawFeedback(answer); return; }
    if (asked.phase === "review" && steps.at(-1).kind !== "guess") { asked = await read("state"); mark(); await drawReview(Math.floor(asked.order.indexOf(item.id) / N_LISTED) * N_LISTED); return; }
    await goOn();
  });
}

function drawFeedback(answer) {
  const isLast = answer.phase !== asked.phase;
  asked = { ...asked, n_done: isLast ? asked.n_items : answer.n_done, can_undo: answer.can_undo };
  mark();
  const go = () => act(() => goOn());
  view.side.replaceChildren(feedbackPanel(answer.feedback, go));
  view.side.querySelector("h2").focus();
  view = { keys: { Enter: go } };
}

function takeBack() {
  return act(async () => {
    const { item } = await undo();
    await goOn(item ?? undefined);
    say(item === null ? "Nothing to take back." : "Taken back.");
  });
}

const isTyping = (target) => target.closest?.("textarea, select, input:not([type='radio'], [type='checkbox'])");

function onKey(event) {
  if (event.repeat && event.key === "Enter" && !isTyping(event.target)) { event.preventDefault(); return; } // a held key confirms nothing
  if (document.querySelector("dialog[open]") || event.altKey) return;
  const isText = isTyping(event.target);
  if ((event.ctrlKey || event.metaKey) && event.key === "Enter" && view.form) { event.preventDefault(); view.form.submit(); return; }
  if (event.ctrlKey || event.metaKey) return;
  if (isText) { if (event.key === "Escape") { event.target.blur(); main.focus({ preventScroll: true }); } return; }
  if (isBusy || event.repeat || (event.key === "Enter" && event.target.closest?.("button, a[href]"))) return;
  const keys = { "?": () => helpDialog(asked), u: takeBack, ...(view.keys ?? {}) };
  if (!Object.hasOwn(keys, event.key) || !asked) return;
  event.preventDefault();
  keys[event.key]();
}

const enter = (token) => { window.location.hash = `t=${token}`; }; // the listener below signs in

async function begin() {
  await act(async () => {
    await signIn(base);
    calm();
    await goOn();
  });
}

themeButton(document.getElementById("theme"));
document.getElementById("help").addEventListener("click", () => helpDialog(asked));
document.getElementById("undo").addEventListener("click", takeBack);
document.addEventListener("keydown", onKey);
window.addEventListener("hashchange", () => { if (window.location.hash.startsWith("#t=")) begin(); });
begin();
