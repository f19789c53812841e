// Start: sign in, learn the run, draw the page that the address names, listen to the keys.

import { Refused, get, signIn } from "./api.js";
import { comparePage } from "./compare.js";
import { exportPage } from "./exporting.js";
import { featurePage } from "./feature.js";
import { helpDialog, jumpDialog } from "./dialogs.js";
import { latentsPage } from "./latents.js";
import { promptPage } from "./prompt.js";
import { el, themeButton, tooltips } from "./render.js";
import { loadSelection, say, state } from "./state.js";

const main = document.getElementById("main");
let page = {};
let drawn = 0;

const routes = [
  [/^\/$/, () => latentsPage(go)],
  [/^\/latents\/([^/]+)\/(\d+)$/, ([, job, latent]) => featurePage(go, decodeURIComponent(job), Number(latent))],
  [/^\/compare$/, () => comparePage(go)],
  [/^\/prompt$/, () => promptPage(go)],
  [/^\/export$/, () => exportPage(go)],
];

/** Show an address of the app and put it into the history. */
export function go(address, { replace = false } = {}) {
  window.history[replace ? "replaceState" : "pushState"](null, "", address);
  return draw();
}

async function draw() {
  const turn = ++drawn;
  const focused = main.contains(document.activeElement) ? document.activeElement.id : "";
  page.leave?.();
  page = {}; // keys of the page that goes do nothing while the next one is read
  const path = window.location.pathname;
  const [match, make] = routes.map(([pattern, maker]) => [path.match(pattern), maker]).find(([found]) => found) ?? [null, null];
  for (const link of document.querySelectorAll("#pages a")) {
    const isHere = link.pathname === path || (link.pathname === "/" && path.startsWith("/latents/"));
    if (isHere) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  try {
    if (!match) throw new Refused(404, "There is no such page.");
    const made = await make(match);
    if (turn !== drawn) { made.leave?.(); return; }
    page = made;
    document.title = `${page.title} \u00b7 ${state.run.title} \u00b7 fovea`;
    main.replaceChildren(page.root);
    // Where the focus was, or the page: a keyboard goes on from there, and a screen reader hears what changed.
    const again = document.getElementById(focused);
    if (again) again.focus({ preventScroll: true });
    else if (turn > 1) { main.focus({ preventScroll: true }); say(page.title); }
    page.shown?.();
  } catch (error) {
    if (turn === drawn) fail(error);
  }
}

function fail(error) {
  page = {};
  document.title = "fovea";
  const parts = [el("h1", {}, error.status === 401 ? "Not signed in" : "That did not work"), el("p", { class: "absent" }, error.message)];
  if (error.status === 401) parts.push(signInForm());
  else parts.push(el("p", {}, el("a", { href: "/" }, "All latents")));
  main.replaceChildren(el("div", { class: "narrow-page" }, parts));
}

function signInForm() {
  const input = el("input", { type: "text", name: "link", autocomplete: "off", spellcheck: "false", "aria-label": "Link that fovea serve printed", placeholder: "http://127.0.0.1:8642/#t=\u2026" });
  const open = (event) => {
    event.preventDefault();
    const token = input.value.split("#t=").pop().trim();
    window.location.hash = `t=${token}`;
    window.location.reload();
  };
  return el("form", { class: "row", onsubmit: open }, input, el("button", { type: "submit" }, "Sign in"));
}

const isTyping = (target) => target.closest?.("input, textarea, select, dialog");

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    if (document.querySelector("dialog[open]")) return;
    if (isTyping(event.target)) { event.target.blur(); return; }
  }
  if (isTyping(event.target)) return;
  const keys = { "?": helpDialog, g: () => jumpDialog(go), t: () => document.getElementById("theme").click(), ...(page.keys ?? {}) };
  const act = Object.hasOwn(keys, event.key) ? keys[event.key] : null;
  if (!act || act(event) === false) return;
  event.preventDefault();
}

function onClick(event) {
  const link = event.target.closest?.("a[href]");
  if (!link || link.origin !== window.location.origin || link.hash || link.download || event.defaultPrevented) return;
  if (event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  go(link.pathname + link.search);
  window.scrollTo(0, 0);
}

async function start() {
  themeButton(document.getElementById("theme"));
  document.getElementById("help").addEventListener("click", helpDialog);
  tooltips(main);
  loadSelection();
  try {
    await signIn();
    state.run = await get("/api/run");
  } catch (error) {
    fail(error);
    return;
  }
  window.addEventListener("popstate", draw);
  document.addEventListener("keydown", onKey);
  document.addEventListener("click", onClick);
  await draw();
}

start();
