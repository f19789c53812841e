// Drawing of evidence: the explorer's pages and the exported page use this one file. It imports nothing, and every
// string that comes from data becomes a text node: nothing here can turn text into elements.

const SVG = "http://www.w3.org/2000/svg";
const N_SHADES = 10;
// Characters that would change how others are shown, or that show as nothing; lone surrogates too.
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb\u{e0000}-\u{e0fff}\ud800-\udfff]/gu;
const about = new WeakMap(); // token element -> lines of its tooltip

/** An element: properties by name (class, aria-*, data-*, on*: listener), children as nodes or text. */
export function el(name, properties = {}, ...children) {
  return fill(document.createElement(name), properties, children);
}

function svg(name, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, name), properties, children);
}

function fill(element, properties, children) {
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Text as nodes: hidden characters become visible codes. With `breaks`, a line break also breaks the line. */
export function visible(text, breaks = false) {
  const nodes = [];
  let from = 0;
  for (const match of text.matchAll(HIDDEN)) {
    if (match.index > from) nodes.push(text.slice(from, match.index));
    const code = match[0].codePointAt(0);
    nodes.push(el("span", { class: code === 10 || code === 9 ? "blank" : "code", title: name(code) }, sign(code)));
    if (breaks && code === 10) nodes.push("\n");
    from = match.index + match[0].length;
  }
  if (from < text.length) nodes.push(text.slice(from));
  return nodes;
}

/** Text as one string with hidden characters as codes, for labels and titles. */
export function plain(text) {
  return text.replace(HIDDEN, (character) => sign(character.codePointAt(0)));
}

const name = (code) => `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;

function sign(code) {
  if (code === 10) return "\u21b5";
  if (code === 9) return "\u21e5";
  if (code < 32) return String.fromCharCode(0x2400 + code);
  return `[${name(code)}]`;
}

/** A number in four digits, or the words for none. */
export function show(value, digits = 3) {
  if (value === null || value === undefined) return "\u2013";
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5)) return value.toExponential(1);
  return String(Number(value.toPrecision(digits)));
}

export const whole = (value) => value.toLocaleString("en");

/** A density in per cent, or how many tokens it was silent in. */
export function density(n, total) {
  if (n === null || !total) return "\u2013";
  if (n === 0) return `0 of ${whole(total)}`;
  const share = (100 * n) / total;
  return `${share >= 1e-5 ? share.toPrecision(share >= 0.01 ? 3 : 2) : share.toExponential(1)}%`;
}

/** A ratio of densities; a bound where the latent never fired on general text. */
export function times(value, isBound) {
  if (value === null || value === undefined) return "\u2013";
  const text = value >= 1000 ? whole(Math.round(value)) : value >= 0.01 || value === 0 ? value.toPrecision(3) : value.toExponential(1);
  return `${isBound ? "\u2265\u202f" : ""}${text}\u00d7`;
}

/**
 * The whole card of a latent. `open` says how to reach other latents and more of a context; without it, text alone.
 * With `isBrief`, all but the largest activations are folded away.
 */
export function card(data, open = {}, isBrief = false) {
  const most = Math.max(0, ...data.evidence.map((each) => each.max_activation ?? 0));
  return el("div", { class: "card" },
    facts(data, most),
    scaleLegend(data, most),
    el("div", { class: "corpora" }, data.evidence.map((each, i) => corpus(data, each, i, { most, open, isBrief }))),
    relations(data, open));
}

function facts(data, most) {
  const of = (role) => data.evidence.find((each) => each.role === role);
  const fact = (term, value, hint) => el("div", {}, el("dt", {}, term), el("dd", {}, value, hint ? el("small", {}, hint) : null));
  const on = (each) => each ? [density(each.n_fired, each.n_tokens), `${whole(each.n_fired)} of ${whole(each.n_tokens)} tokens`] : ["\u2013", "not read"];
  const [domain, general] = [of("domain"), of("general")];
  const isBound = Boolean(general) && general.n_fired === 0 && domain.n_fired > 0;
  const ratio = domain && general && domain.n_fired + general.n_fired > 0 ? (domain.n_fired / domain.n_tokens) / (Math.max(1, general.n_fired) / general.n_tokens) : null;
  const measured = data.counts;
  const isSame = !measured || (measured.n_tokens_domain === domain?.n_tokens && measured.n_tokens_general === (general?.n_tokens ?? null));
  return [el("dl", { class: "facts" },
    fact("density on D", ...on(domain)),
    fact("density on general text", ...on(general)),
    fact("ratio", times(ratio, isBound), isBound ? "a lower bound: never fired on general text" : "D to general text"),
    fact("cosine with g, decoder", show(data.novelty_decoder), "largest; low is new"),
    fact("cosine with g, encoder", show(data.novelty_encoder), "largest; low is new"),
    fact("largest activation", most ? show(most) : "\u2013", "raw units")),
  isSame ? null : el("p", { class: "hint" }, `The table counts other text: ${density(measured.n_fired_domain, measured.n_tokens_domain)} of ${whole(measured.n_tokens_domain ?? 0)} tokens of D, ${density(measured.n_fired_general, measured.n_tokens_general)} of ${whole(measured.n_tokens_general ?? 0)} of general text, ratio ${times(data.row[4], data.row[5])}.`)];
}

function scaleLegend(data, most) {
  if (!most) return null;
  const steps = Array.from({ length: N_SHADES }, (_, i) => el("i", { class: `s${i + 1} p${i + 1}` }));
  const own = el("button", { type: "button", class: "quiet own-scale", "aria-pressed": "false", onclick: toggleScale }, "scale each panel by itself");
  return el("div", { class: "legend" },
    el("span", { class: "ramp", role: "img", "aria-label": `Shades from 0 to ${show(most)}, on one scale for both texts` }, steps),
    el("span", { class: "ends" }, "activation 0 to ", el("b", { class: "shared" }, show(most)), el("b", { class: "per-panel" }, "the panel\u2019s largest")),
    data.evidence.length > 1 ? own : null);
}

function toggleScale(event) {
  const isOwn = event.currentTarget.closest(".card").classList.toggle("own");
  event.currentTarget.setAttribute("aria-pressed", String(isOwn));
}

function corpus(data, each, index, { most, open, isBrief }) {
  const title = each.role === "domain" ? "On D" : "On general text";
  const words = `${each.corpus}, ${each.split}: ${whole(each.n_tokens)} tokens of ${whole(each.n_documents)} documents`;
  const head = [el("h2", {}, title), el("p", { class: "source" }, visible(words))];
  if (each.n_fired === 0) {
    return el("section", { class: "corpus", "aria-label": title }, head,
      el("p", { class: "silent" }, `Did not activate in ${whole(each.n_tokens)} tokens.`,
        el("small", {}, `Its density here is below ${show((3 / each.n_tokens) * 100, 2)}% (95%).`)));
  }
  const groups = each.groups.map((group, g) => group.examples.length ? el("div", { class: "group" },
    el("h3", {}, groupName(group)),
    el("ol", { class: "examples" }, group.examples.map((example, e) => exampleItem(example, {
      most, own: each.max_activation, more: open.context ? () => open.context(index, g, e) : null })))) : null).filter(Boolean);
  const tallest = Math.max(1, ...data.evidence.flatMap((other) => other.histogram));
  const panel = el("section", { class: "corpus", "aria-label": title }, head,
    histogram(each.histogram, { most, tallest, title: `Firings by activation, ${title.toLowerCase()}` }),
    isBrief ? [groups.slice(0, 1), groups.length > 1 ? el("details", {}, el("summary", {}, "by rank of the firing"), groups.slice(1)) : null] : groups);
  walk(panel);
  return panel;
}

/** Arrow keys in a panel: up and down between its examples, left and right between their tokens, each with its tooltip. */
function walk(panel) {
  const texts = [...panel.querySelectorAll(".example .text")];
  texts.forEach((text, i) => { text.tabIndex = i ? -1 : 0; });
  panel.addEventListener("keydown", (event) => {
    const at = texts.indexOf(event.target);
    if (at < 0) return;
    if (event.key === "Enter") { event.target.click(); return; }
    const [lines, steps] = [{ ArrowDown: 1, ArrowUp: -1 }[event.key], { ArrowRight: 1, ArrowLeft: -1 }[event.key]];
    if (!lines && !steps) return;
    event.preventDefault();
    if (steps) stepToken(texts[at], steps);
    const seen = texts.filter((text) => text.offsetParent !== null);
    const next = lines && seen[seen.indexOf(texts[at]) + lines];
    if (!next) return;
    for (const text of texts) text.tabIndex = text === next ? 0 : -1;
    next.focus();
  });
}

/** Go to the token beside the last one, the peak at first, and show its tooltip. */
function stepToken(text, step) {
  const all = [...text.querySelectorAll(".tok")];
  const from = all.findIndex((token) => token.classList.contains("at"));
  const to = from < 0 ? all.findIndex((token) => token.classList.contains("peak")) : Math.max(0, Math.min(all.length - 1, from + step));
  for (const token of all) token.classList.toggle("at", token === all[to]);
  all[to]?.dispatchEvent(new Event("tokenreached", { bubbles: true }));
}

function groupName(group) {
  if (group.high === 0) return "Largest activations";
  const percent = (share) => Number((100 * share).toPrecision(3));
  return `Ranks ${percent(group.low)}\u2013${percent(group.high)}% of firings`;
}

/** One example as a list item; a click or the button shows the whole context. */
export function exampleItem(example, { most, own, more }) {
  const text = el("p", { class: "text", dir: "auto", role: "group", "aria-label": `Peak at \u201c${plain(example.texts[example.peak] ?? "").trim()}\u201d` });
  const isCut = example.start > 0 || example.start + example.texts.length < example.size;
  const peak = example.activations[example.peak];
  let isWide = false;
  const draw = (shown) => text.replaceChildren(
    shown.start > 0 ? el("span", { class: "cut" }, "\u2026") : "",
    ...tokens(shown, { most, own, breaks: isWide }),
    shown.start + shown.texts.length < shown.size ? el("span", { class: "cut" }, "\u2026") : "");
  const button = el("button", { type: "button", class: "quiet more", "aria-expanded": "false", "aria-label": "Show the whole context" }, "context");
  const toggle = async () => {
    if (window.getSelection()?.toString()) return;
    isWide = !isWide;
    draw(isWide && isCut && more ? await more() : example);
    item.classList.toggle("wide", isWide);
    button.setAttribute("aria-expanded", String(isWide));
  };
  text.addEventListener("click", toggle);
  button.addEventListener("click", toggle);
  draw(example);
  const item = el("li", { class: "example" },
    el("span", { class: "sr" }, `Peak at \u201c${plain(example.texts[example.peak] ?? "").trim()}\u201d, activation ${show(peak)}. `),
    text,
    el("span", { class: "under" },
      el("span", { class: "value", title: "activation at the outlined token" }, show(peak)),
      example.n_duplicates > 1 ? el("span", { class: "times", title: `the same text stands at ${whole(example.n_duplicates)} places` }, `\u00d7${whole(example.n_duplicates)}`) : null,
      el("span", { class: "document" }, visible(example.document), ` \u00b7 ${example.position}`),
      isCut || example.texts.some((piece) => piece.includes("\n")) ? button : null));
  return item;
}

/** Token elements with shades s (one scale) and p (the panel's own). */
export function tokens(example, { most, own, breaks = false, peak = example.peak }) {
  return example.texts.map((text, i) => {
    const value = example.activations[i];
    const shade = (top) => (value > 0 && top > 0 ? Math.min(N_SHADES, Math.max(1, Math.ceil((N_SHADES * value) / top))) : 0);
    const classes = ["tok"];
    if (shade(most)) classes.push(`s${shade(most)}`, `p${shade(own)}`);
    if (i === peak) classes.push("peak");
    const element = token(text, classes, breaks);
    about.set(element, [`\u201c${plain(text)}\u201d`, `token ${example.ids[i]}`, value > 0 ? `activation ${show(value)}` : "does not fire", example.document ? plain(example.document) : null]);
    return element;
  });
}

/** One token's element; the space before a word stays bare. */
export function token(text, classes, breaks = false) {
  const word = text.trimStart() ? text.length - text.trimStart().length : 0;
  const lead = /^ *$/.test(text.slice(0, word)) ? text.slice(0, word) : "";
  return el("span", { class: classes.join(" ") }, lead, el("span", { class: "in" }, visible(text.slice(lead.length), breaks)));
}

/** Counts in equal bins of (0, most] as bars on a logarithmic axis. */
export function histogram(counts, { most, tallest, title }) {
  const [width, height, left, bottom] = [320, 74, 4, 14];
  const step = (width - 2 * left) / counts.length;
  const tall = (count) => (Math.log10(count + 1) / Math.log10(tallest + 1)) * (height - bottom - 8);
  const bars = counts.map((count, i) => count ? svg("rect", { class: "bar-of-counts", x: (left + i * step + 0.5).toFixed(2), width: Math.max(1, step - 1).toFixed(2), y: (height - bottom - tall(count)).toFixed(2), height: tall(count).toFixed(2) },
    svg("title", {}, `${whole(count)} firings from ${show((most * i) / counts.length)} to ${show((most * (i + 1)) / counts.length)}`)) : null);
  const drawn = svg("svg", { class: "histogram", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}: ${whole(counts.reduce((a, b) => a + b, 0))} firings, up to ${show(most)}` },
    svg("line", { class: "axis", x1: left, x2: width - left, y1: height - bottom, y2: height - bottom }),
    bars,
    svg("text", { class: "tick", x: left, y: height - 2 }, "0"),
    svg("text", { class: "tick end", x: width - left, y: height - 2 }, show(most)));
  return el("figure", { class: "small-figure" }, drawn, el("figcaption", {}, "firings by activation; bar heights are logarithmic"));
}

function relations(data, open) {
  const link = (each) => el("li", {}, open.href
    ? el("a", { href: open.href(each.job, each.latent) }, each.job === data.job ? `#${each.latent}` : `${each.job} #${each.latent}`)
    : el("span", {}, each.job === data.job ? `#${each.latent}` : `${each.job} #${each.latent}`), el("span", { class: "amount" }, show(each.value)));
  const word = (each) => el("li", {}, el("span", { class: "chip" }, visible(each.text)), el("span", { class: "amount" }, show(each.logit)));
  const list = (title, hint, items, item) => el("section", { class: "relation" }, el("h3", {}, title), el("p", { class: "hint" }, hint),
    items.length ? el("ul", {}, items.map(item)) : el("p", { class: "none" }, "none"));
  return el("div", { class: "relations" },
    list("Promoted tokens", "a linear approximation: decoder row times unembedding", data.promoted, word),
    list("Suppressed tokens", "a linear approximation: decoder row times unembedding", data.suppressed, word),
    list("Nearest in this SAE", "cosine of decoder rows", data.nearest, link),
    list("Fires together with", "share of tokens that both fire on", data.cofiring, link),
    list("Nearest in g", "cosine of decoder rows", data.nearest_general ? [data.nearest_general] : [], link));
}

/** One tooltip for all tokens under `root`: on hover, on touch and by arrow keys. */
export function tooltips(root) {
  const box = el("div", { class: "tooltip", role: "tooltip", hidden: true });
  const spoken = el("p", { class: "sr", role: "status" });
  document.body.append(box, spoken);
  const tell = (event) => {
    const under = event.target.closest?.(".tok");
    const lines = under && about.get(under);
    box.hidden = !lines;
    if (!lines) return;
    box.replaceChildren(...lines.filter(Boolean).map((line) => el("div", {}, line)));
    const place = under.getClientRects()[0];
    box.style.setProperty("left", `${Math.max(8, Math.min(place.left, window.innerWidth - box.offsetWidth - 8))}px`);
    box.style.setProperty("top", `${place.top > box.offsetHeight + 8 ? place.top - box.offsetHeight - 4 : place.bottom + 4}px`);
    if (event.type === "tokenreached") spoken.textContent = lines.filter(Boolean).join(", ");
  };
  for (const kind of ["pointerover", "tokenreached"]) root.addEventListener(kind, tell);
  for (const kind of ["scroll", "keydown", "pointerleave"]) document.addEventListener(kind, () => { box.hidden = true; }, { passive: true, capture: true });
}

/** The button that changes between light and dark; the choice is kept where the browser allows it. */
export function themeButton(button) {
  const root = document.documentElement;
  const preferred = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : preferred.matches);
  const label = () => { button.textContent = isDark() ? "Light" : "Dark"; button.setAttribute("aria-label", `Show in ${isDark() ? "light" : "dark"} colours`); };
  try { const kept = window.localStorage.getItem("fovea-theme"); if (kept === "dark" || kept === "light") root.dataset.theme = kept; } catch { /* nothing is kept here */ }
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { window.localStorage.setItem("fovea-theme", root.dataset.theme); } catch { /* the choice lasts for this view */ }
    label();
  });
  preferred.addEventListener("change", label);
  label();
}
