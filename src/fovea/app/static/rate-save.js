// Saving: one step after the other, each under a key of its own, sent again until the server says that it is on the disk.
// What is typed and not yet acknowledged also stays in this tab's storage, so that a reload keeps it.

import { Refused, get, send, signIn } from "./api.js";

export const base = window.location.pathname.match(/^\/rate\/[^/]+/)?.[0] ?? "";
const PATIENCE = 20000; // ms for one try
const PAUSES = [1000, 2000, 4000, 8000]; // ms between tries; the last one stays
let who = null; // the rater of this page
let chain = Promise.resolve();
let wake = () => {};

const newKey = () => Array.from(window.crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

/** Sign in by the link or the cookie; `who` of the page is then whoever that is. */
export async function enter() {
  await untilAnswered(() => signIn(base, PATIENCE, (session) => { who = session.rater; }), "Not signed in", false);
}

/** All tabs of a browser share the study's cookie: on a page of one rater nothing is shown or recorded for another. */
export function checkRater(now) {
  if (now !== who) throw new Refused(401, `this browser is signed in as ${now} now, so nothing more is saved for ${who} here; to go on as ${who}, open ${who}\u2019s link again`);
}

/** Record a step; resolves when it is on the disk, rejects with Refused where it does not fit. */
export function record(step) { return line("event", step); }

export function undo() { return line("undo", {}); }

function line(path, body) {
  const whole = { ...body, key: newKey() };
  const done = chain.then(() => untilAnswered(() => send(`${base}/api/${path}`, whole, PATIENCE), "Not saved"));
  chain = done.catch(() => {});
  return done;
}

/** Read from the server, again and again until it answers. */
export function read(path, query = {}) {
  return untilAnswered(() => get(`${base}/api/${path}`, new URLSearchParams(query), PATIENCE), "Not loaded");
}

async function untilAnswered(ask, what, mayRenew = true) {
  for (let n = 0; ; n += 1) {
    try {
      const answer = await ask();
      if (n) calm();
      return answer;
    } catch (error) {
      const isAnswer = error instanceof Refused && error.status < 500 && error.status !== 408;
      if (isAnswer && (error.status !== 403 || !mayRenew)) { calm(); throw error; }
      if (isAnswer) { mayRenew = false; await renew(what); continue; } // another tab signed in: its cookie, its value
      const why = error instanceof Refused ? error.message : "the server does not answer";
      alarm(`${what}: ${why}. Your input is kept on this page; trying again\u2026`, true);
      await pause(PAUSES[Math.min(n, PAUSES.length - 1)]);
    }
  }
}

const renew = (what) => untilAnswered(() => signIn(base, PATIENCE, (session) => checkRater(session.rater)), what, false);

function pause(ms) {
  return new Promise((resolve) => {
    const timer = window.setTimeout(resolve, ms);
    wake = () => { window.clearTimeout(timer); resolve(); };
  });
}
window.addEventListener("online", () => wake());

/** Say loudly what went wrong; with `canRetry`, a button tries again at once. */
export function alarm(words, canRetry = false) {
  const box = document.getElementById("alarm");
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Try now";
  button.addEventListener("click", () => wake());
  const text = document.createElement("span");
  text.textContent = words;
  if (box.firstChild?.textContent !== words) box.replaceChildren(text, ...(canRetry ? [button] : []));
  box.hidden = false;
}

export function calm() {
  const box = document.getElementById("alarm");
  box.hidden = true;
  box.replaceChildren();
}

/**
 * Save a field while it is typed in. `tell` is given "saving", "saved" or "unsaved"; the function that comes back ends it,
 * for when the text goes out with a step.
 */
export function autosave(field, item, { saved, tell }) {
  let acknowledged = saved;
  let timer = null;
  let isOver = false;
  let isSending = false;
  const save = async () => {
    window.clearTimeout(timer);
    timer = null;
    if (isOver || isSending || field.value === acknowledged) return;
    const text = field.value;
    isSending = true;
    tell("saving");
    try {
      await record({ kind: "draft", item: item.id, seen: item.seen, text });
      acknowledged = text;
      if (!isOver) tell(field.value === text ? "saved" : "unsaved");
    } catch (error) {
      if (!isOver) { tell("unsaved"); alarm(`Not saved: ${error.message}. Reload the page to see how the item stands.`); }
      isOver = true;
    }
    isSending = false;
    if (field.value !== acknowledged) soon();
  };
  const soon = () => { if (!isOver && timer === null) timer = window.setTimeout(save, 700); };
  const leave = () => { if (document.visibilityState === "hidden") save(); };
  field.addEventListener("input", () => { tell("unsaved"); soon(); });
  field.addEventListener("blur", save);
  document.addEventListener("visibilitychange", leave);
  if (field.value !== acknowledged) { tell("unsaved"); soon(); }
  return () => { isOver = true; window.clearTimeout(timer); document.removeEventListener("visibilitychange", leave); };
}

const place = (id) => `fovea-rate ${id}`;

/** What was typed and chosen on an item in this tab and has not been acknowledged. */
export function kept(id) {
  try { return JSON.parse(window.sessionStorage.getItem(place(id)) ?? "{}"); } catch { return {}; }
}

/** Keep `parts` of an item beside what is kept already; a null is taken out, and no parts take out everything. */
export function keep(id, parts) {
  try {
    if (!parts) { window.sessionStorage.removeItem(place(id)); return; }
    const all = Object.fromEntries(Object.entries({ ...kept(id), ...parts }).filter(([, value]) => value !== null));
    window.sessionStorage.setItem(place(id), JSON.stringify(all));
  } catch { /* the page itself still holds it */ }
}
