// A rater's page: sign in, go on where the rater stopped, show one thing at a time, listen to the keys.
// No item is asked for before the answer to the one before is acknowledged.

import { Refused } from "./api.js";
import { el, themeButton } from "./render.js";
import { confirmDialog, helpDialog, reasonDialog } from "./rate-dialogs.js";
import { CANNOT, answerForm, evidence, itemHead } from "./rate-item.js";
import { alarm, base, calm, checkRater, enter, keep, read, record, undo } from "./rate-save.js";
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
  calm();
  main.setAttribute("aria-busy", "true");
  const fields = [...main.querySelectorAll("textarea")];
  fields.forEach((field) => { field.readOnly = true; });
  try {
    await work();
  } catch (error) {
    await refused(error, () => goOn(view.item?.id)).catch((again) => refused(again));
  }
  fields.forEach((field) => { field.readOnly = false; });
  main.removeAttribute("aria-busy");
  isBusy = false;
}

async function refused(error, redraw = () => {}) {
  if (error.status === 401) { drawSignIn(error.message); return; }
  if (asked && error instanceof Refused) await redraw();
  alarm(error.message);
}

function drawSignIn(words) {
  asked = null;
  document.getElementById("where").hidden = true;
  document.getElementById("undo").hidden = true;
  document.title = "Not signed in \u00b7 fovea";
  draw(signInScreen(words, follow), {});
}

/** Go to a link that was typed in, also one of another study; words without an address are its last part. */
function follow(link) {
  const [address, token] = link.includes("#t=") ? link.split("#t=") : ["", link];
  const there = address.match(/\/rate\/[a-z0-9_-]+/)?.[0] ?? base;
  if (there === base) window.location.hash = `t=${token}`; // the listener below signs in
  else window.location.assign(`${there}/#t=${token}`);
}

/**
 * Learn where the rater stands, unless the answer to a step told it (`known`), and show what is due: item `wanted` if the
 * phase has it, else the next one; at the `start` of a page feedback first that nobody has gone on from.
 */
async function goOn(wanted, { known = null, isStart = false } = {}) {
  const now = known ? { ...asked, ...known } : await read("state");
  checkRater(now.rater);
  asked = now;
  mark();
  if (isStart && asked.has_feedback && !asked.is_over) { await drawTold(); return; }
  if (asked.phase === "locked") { draw(lockedScreen(asked), {}); return; }
  if (asked.is_over) { draw(overScreen(), {}); return; }
  if (asked.phase === "closing") { drawClosing(); return; }
  if (asked.phase !== "review" && asked.n_done === 0 && !wasTold()) { drawIntro(); return; }
  await drawDue(asked.order.includes(wanted) ? { id: wanted } : {});
}

/** Show the item that is asked for. That it is looked at can end what was possible before, such as undoing practice. */
async function drawDue(query = {}) {
  const { item, can_undo: canUndo } = await read("item", query);
  asked = { ...asked, can_undo: canUndo };
  mark();
  if (item === null) await drawReview(); else drawItem(item);
}

function mark() {
  document.getElementById("where").hidden = false;
  const count = ["locked", "closing"].includes(asked.phase) ? "" : ` \u00b7 ${asked.n_done} of ${asked.n_items}`;
  document.getElementById("place").replaceChildren(el("b", {}, asked.rater), ` \u00b7 ${PHASES[asked.phase]}${count}`);
  const bar = document.getElementById("progress");
  bar.max = Math.max(1, asked.n_items);
  bar.value = asked.n_done;
  const button = document.getElementById("undo");
  button.hidden = asked.phase === "locked" || asked.is_over;
  button.disabled = !asked.can_undo;
  document.title = `${PHASES[asked.phase]} \u00b7 ${asked.rater} \u00b7 fovea`;
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
    await drawDue();
  });
  const isFirst = asked.phase === "practice" || !asked.has_practice;
  draw(introScreen(asked, isFirst, go), { keys: { Enter: go } });
}

function drawClosing() {
  const lock = () => isFree() && confirmDialog({ title: "Lock your answers?", words: "They are handed in and cannot be changed any more.", action: "Lock" },
    () => act(async () => { await record({ kind: "lock" }); await goOn(); }));
  draw(closingScreen(asked, lock), { keys: { Enter: lock } });
}

async function drawReview(at = 0) {
  const finish = () => isFree() && confirmDialog({ title: "Finish rating?", words: "Ratings are fixed then; only the guesses are left, if the study has them.", action: "Finish" },
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
  const head = itemHead(item, asked.phase === "practice", [number + 1, asked.order.length]);
  const skip = () => asked.phase !== "guess" && isFree() && reasonDialog({ title: "Skip this item", words: "For items that cannot be judged at all, such as broken text. If you see no meaning, say that you can\u2019t tell instead.", action: "Skip" },
    (text) => answerWith(item, [{ kind: "skip", item: item.id, seen: item.seen, text }]));
  const stop = () => isFree() && reasonDialog({ title: "Stop here for good", words: "Items without an answer stay open, and ratings are fixed. To go on another day, just close the page.", action: "Stop" },
    (text) => act(async () => { await record({ kind: "finish", text }); await goOn(); }));
  const list = () => act(() => drawReview(Math.floor(number / N_LISTED) * N_LISTED));
  const step = (by) => asked.order[number + by] && act(() => goOn(asked.order[number + by]));
  const more = asked.phase === "guess" ? null : el("p", { class: "row more-actions" },
    el("button", { type: "button", class: "quiet", onclick: skip }, "Skip\u2026 ", el("kbd", { "aria-hidden": "true" }, "s")),
    asked.phase === "rating" ? el("button", { type: "button", class: "quiet", onclick: stop }, "Stop for good\u2026") : null,
    isReview ? [el("button", { type: "button", class: "quiet", onclick: list }, "Back to the list ", el("kbd", { "aria-hidden": "true" }, "Esc"))] : null);
  const side = el("section", { class: "side", id: "answer", "aria-label": "Answer" }, form.root, more);
  const keys = { ...form.keys, Enter: form.submit, t: () => form.choose(CANNOT), n: form.toggleNice, e: form.write, s: skip };
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
    const { feedback, ...known } = answer;
    await goOn(undefined, known.phase === asked.phase ? { known } : {});
  });
}

function drawFeedback(answer) {
  const isLast = answer.phase !== asked.phase;
  asked = { ...asked, n_done: isLast ? asked.n_items : answer.n_done, can_undo: answer.can_undo };
  mark();
  showFeedback(answer.feedback);
}

/** A rated practice item with its feedback, again after a reload. */
async function drawTold() {
  const { item, feedback, number, n_items: n } = await read("feedback");
  if (item === null) { await goOn(); return; } // another tab went on
  if (asked.phase !== "practice") { asked = { ...asked, phase: "practice", n_done: n, n_items: n }; mark(); }
  const side = el("section", { class: "side", id: "answer", "aria-label": "Answer" });
  draw(el("div", { class: "item-page" }, itemHead(item, true, [number, n]), el("div", { class: "item-body" }, evidence(item), side)), { side });
  showFeedback(feedback);
}

function showFeedback(feedback) {
  const go = () => act(() => goOn());
  view.side.replaceChildren(feedbackPanel(feedback, go));
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
  if (event.repeat || (event.key === "Enter" && event.target.closest?.("button, a[href]"))) return;
  const keys = { "?": () => helpDialog(asked), u: takeBack, ...(view.keys ?? {}) };
  if (isBusy) { if (asked) isFree(); return; }
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key; // Caps Lock changes no meaning
  if (!Object.hasOwn(keys, key) || !asked) return;
  event.preventDefault();
  keys[key]();
}

/** Whether no step is on its way; else it is said, so that nobody writes a reason in vain. */
function isFree() {
  if (isBusy) say("One moment: the step before is not saved yet.");
  return !isBusy;
}

async function begin() {
  if (isBusy) { window.location.reload(); return; } // a new link, while the page still waits for an answer
  await act(async () => {
    asked = null;
    await enter();
    await goOn(undefined, { isStart: true });
  });
}

themeButton(document.getElementById("theme"));
document.getElementById("help").addEventListener("click", () => helpDialog(asked));
document.getElementById("undo").addEventListener("click", takeBack);
document.addEventListener("keydown", onKey);
window.addEventListener("hashchange", () => { if (window.location.hash.startsWith("#t=")) begin(); });
begin();
