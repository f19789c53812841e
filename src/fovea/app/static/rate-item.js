// One item: its evidence, and the form that answers it. Texts become text nodes; see render.js.

import { el, plain, token, visible } from "./render.js";
import { autosave, keep, kept } from "./rate-save.js";

const N_SHADES = 10;
const STATES = { saving: "saving\u2026", saved: "saved", unsaved: "not saved yet" };
const CHANGED = "Changed, but not handed in: save the change.";
export const CANNOT = "cannot";

/** Where the examples come from, in words. */
export const panelWords = (item) => (item.panel === "domain" ? `${plain(item.subject)} text` : "general text");

export function itemHead(item, isPractice, [number, n]) {
  return el("div", { class: "item-head" },
    el("h1", { tabindex: "-1" }, `${isPractice ? "Practice item" : "Item"} ${number}`, el("small", {}, ` of ${n}`)),
    el("p", { class: "from" }, "examples from ", el("b", {}, panelWords(item))),
    el("a", { class: "to-answer", href: "#answer" }, "to the answer"));
}

export function question(words, subject) {
  return words.split("{subject}").flatMap((part, i) => (i ? [el("b", {}, visible(subject)), visible(part)] : [visible(part)]));
}

/** An anchored point: its name strong, its explanation after the colon. */
export function anchor(text) {
  const [head, ...rest] = text.split(": ");
  return rest.length ? [el("b", {}, visible(head), ":"), " ", el("span", { class: "anchor" }, visible(rest.join(": ")))] : [el("b", {}, visible(text))];
}

export function evidence(item) {
  const steps = Array.from({ length: N_SHADES }, (_, i) => el("i", { class: `s${i + 1}` }));
  return el("section", { class: "evidence", "aria-label": `Examples from ${panelWords(item)}` },
    el("div", { class: "legend" }, "silent", el("span", { class: "ramp", role: "img", "aria-label": `${N_SHADES} shades, one scale for all examples of this item` }, steps), "strongest here", el("span", { class: "outlined" }, el("span", { class: "tok peak" }, el("span", { class: "in" }, "outlined")), " where it fires most")),
    item.groups.map((group) => el("div", { class: "group" }, el("h2", {}, visible(group.name)),
      el("ol", { class: "examples" }, group.examples.map(example)))));
}

function example({ pieces, peak }) {
  return el("li", { class: "example" },
    el("span", { class: "sr" }, `Fires most at \u201c${plain(pieces[peak]?.[0] ?? "").trim()}\u201d. `),
    el("p", { class: "text", dir: "auto" }, pieces.map(([text, shade], i) => token(text, ["tok", ...(shade ? [`s${shade}`] : []), ...(i === peak ? ["peak"] : [])]))));
}

/** The form of an item. {root, keys, choose, toggleNice, write, submit, focus, leave}; `send` is called with what to record. */
export function answerForm(item, asked, { send, say }) {
  return item.stage === "guess" || asked.phase === "guess" ? guessForm(item, asked, { send, say }) : ratingForm(item, asked, { send, say });
}

function choices(name, options, { chosen, change }) {
  return options.map(({ value, key, words, disabled }) => el("label", { class: `choice${disabled ? " off" : ""}` },
    el("input", { type: "radio", name, value, checked: chosen === value, disabled, onchange: () => change(value) }),
    el("kbd", { "aria-hidden": "true" }, key), el("span", { class: "words" }, words)));
}

/** The key of the point or method at place i; a rubric has ten points at most. */
export const keyOf = (i) => String((i + 1) % 10);

/** The key of "can't tell": 0, unless that is the tenth point's; t is always one too. */
const cannotKey = (n) => (n < 10 ? "0" : "t");

const keysOf = (options, choose) => Object.fromEntries(options.map(({ value, key }) => [key, () => choose(value)]));

function guessForm(item, asked, { send, say }) {
  const options = asked.guesses.map((name, i) => ({ value: `arm ${i}`, key: keyOf(i), words: visible(name) }));
  options.push({ value: CANNOT, key: cannotKey(asked.guesses.length), words: "cannot say" });
  const fields = el("fieldset", { class: "choices", tabindex: "-1" }, el("legend", {}, "Which method is this feature from?"));
  const pick = (value) => fields.querySelectorAll("input").forEach((input) => { input.checked = input.value === value; });
  const chosen = () => fields.querySelector("input:checked")?.value ?? null;
  fields.append(...choices("guess", options, { chosen: kept(item.id).choice ?? null, change: (value) => keep(item.id, { choice: value }) }));
  const submit = () => {
    if (chosen() === null) { say("Choose a method, or that you cannot say."); return; }
    const guess = chosen() === CANNOT ? null : asked.guesses[Number(chosen().slice(4))];
    send([{ kind: "guess", item: item.id, seen: item.seen, guess }]);
  };
  const root = el("form", { class: "answer", onsubmit: (event) => { event.preventDefault(); submit(); } }, fields,
    el("p", { class: "row" }, el("button", { type: "submit" }, "Submit ", el("kbd", { "aria-hidden": "true" }, "Enter"))));
  const choose = (value) => { pick(value); keep(item.id, { choice: value }); };
  return { root, choose, keys: keysOf(options, choose), toggleNice() {}, write() {}, submit, focus: () => fields.focus({ preventScroll: true }), leave() {} };
}

function ratingForm(item, asked, { send, say }) {
  const { answer } = item;
  const mine = kept(item.id);
  const isWriting = asked.writes_explanation && answer.explanation === null;
  const before = answer.cannot_tell ? CANNOT : answer.specificity === null ? null : String(answer.specificity);
  const options = asked.points.map((text, i) => ({ value: String(i), key: keyOf(i), words: anchor(text), disabled: isWriting }));
  options.push({ value: CANNOT, key: cannotKey(asked.points.length), words: anchor("Can\u2019t tell: no reading fits, or the text is beyond you. Not a low point.") });
  const fields = el("fieldset", { class: "choices", tabindex: "-1" }, el("legend", {}, question(asked.question, item.subject)));
  fields.append(...choices("point", options, { chosen: mine.choice ?? before, change: (value) => keep(item.id, { choice: value }) }));
  const chosen = () => fields.querySelector("input:checked")?.value ?? null;
  const nice = el("input", { type: "checkbox", checked: mine.nice ?? answer.nice, onchange: () => keep(item.id, { nice: nice.checked }) });
  const words = writing(item, isWriting, mine);
  const note = noting(item, isWriting, mine);
  const rating = () => ({
    kind: "rate", item: item.id, cannot_tell: chosen() === CANNOT, specificity: chosen() === CANNOT ? null : Number(chosen()), nice: nice.checked, note: note.field.value,
  });
  const explained = () => (words.field?.value.trim() ? { kind: "explain", item: item.id, seen: item.seen, text: words.field.value } : null);
  const submit = () => {
    const first = isWriting ? explained() : null;
    if (chosen() === CANNOT) { send(first ? [first, rating()] : [{ ...rating(), seen: item.seen }]); return; }
    if (first) { send([first]); return; }
    if (isWriting) { say("Write the explanation first, or choose that you can\u2019t tell."); words.field.focus(); return; }
    if (chosen() === null) { say("Choose a point, or that you can\u2019t tell."); fields.focus(); return; }
    send([{ ...rating(), seen: item.seen }]);
  };
  const label = () => `${isWriting && chosen() !== CANNOT ? "Fix the explanation, then rate" : answer.is_done ? "Save the change" : "Submit"} `;
  const button = el("button", { type: "submit" }, label(), el("kbd", { "aria-hidden": "true" }, "Enter"));
  fields.addEventListener("change", () => { button.firstChild.textContent = label(); });
  const pending = el("span", { class: "pending", role: "status" });
  const compare = () => {
    const now = rating();
    const isSame = now.cannot_tell === answer.cannot_tell && (now.cannot_tell || chosen() === before) && now.nice === answer.nice && now.note === answer.note;
    pending.textContent = answer.is_done && !isSame ? CHANGED : "";
  };
  const root = el("form", { class: "answer", onsubmit: (event) => { event.preventDefault(); submit(); } },
    answer.skip_reason === null ? null : el("p", { class: "absent" }, "Skipped: ", visible(answer.skip_reason)),
    item.explanation === null ? null : el("div", { class: "given" }, el("h2", {}, "Explanation to judge"), el("p", { class: "told" }, visible(item.explanation, true))),
    words.root, fields,
    el("label", { class: "choice nice" }, nice, el("kbd", { "aria-hidden": "true" }, "n"), el("span", { class: "words" }, el("b", {}, "Nice:"), " ", el("span", { class: "anchor" }, "worth showing to others"))),
    note.root, el("p", { class: "row" }, button, pending));
  root.addEventListener("input", compare);
  root.addEventListener("change", compare);
  compare();
  const choose = (value) => {
    const input = [...fields.querySelectorAll("input")].find((each) => each.value === String(value));
    if (input?.disabled) { say("Write the explanation first; it is fixed before the rating."); return; }
    if (!input) return;
    input.checked = true;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  };
  return {
    root, choose, submit, keys: keysOf(options, choose),
    toggleNice: () => { nice.checked = !nice.checked; nice.dispatchEvent(new Event("change", { bubbles: true })); },
    write: () => (words.field ?? note.field).focus(),
    focus: () => fields.focus({ preventScroll: true }),
    leave: () => { words.leave(); note.leave(); },
  };
}

/** The explanation: a field while it is written, its text when it is fixed, nothing where none is asked for. */
function writing(item, isWriting, mine) {
  const leave = () => {};
  if (item.answer.explanation !== null) return { root: el("div", { class: "given" }, el("h2", {}, "Your explanation"), el("p", { class: "told" }, visible(item.answer.explanation, true))), field: null, leave };
  if (!isWriting) return { root: null, field: null, leave };
  const field = el("textarea", { id: "explanation", rows: "3", maxlength: "4000", "aria-describedby": "explanation-hint explanation-saved" });
  const saved = item.draft ?? "";
  field.value = mine.text ?? saved;
  const made = savedField(field, item, { id: "explanation", part: "text", saved });
  const root = el("div", { class: "writing" }, el("h2", {}, el("label", { for: "explanation" }, "What does it respond to? "), el("kbd", { "aria-hidden": "true" }, "e")),
    field, el("p", { class: "hint under-field" }, el("span", { id: "explanation-hint" }, "Before the rating; fixed once you go on."), made.state));
  return { root, field, leave: made.leave };
}

function noting(item, isWriting, mine) {
  const field = el("textarea", { id: "note", rows: "2", maxlength: "2000", "aria-describedby": "note-saved" });
  const saved = isWriting ? item.answer.note : item.draft ?? item.answer.note;
  field.value = mine.note ?? saved;
  const made = isWriting ? keptField(field, item) : savedField(field, item, { id: "note", part: "note", saved });
  const key = isWriting ? null : el("kbd", { "aria-hidden": "true" }, "e");
  return { root: el("div", { class: "noting" }, el("h2", {}, el("label", { for: "note" }, "Note ", el("small", {}, "if you like ")), key), field, el("p", { class: "hint under-field" }, el("span"), made.state)), field, leave: made.leave };
}

/** A field whose text the server keeps as the item's draft. */
function savedField(field, item, { id, part, saved }) {
  const state = el("span", { class: "saved", id: `${id}-saved` }, field.value ? STATES.saved : "");
  const tell = (now) => {
    state.textContent = STATES[now];
    state.dataset.state = now;
    if (now === "saved") keep(item.id, { [part]: null });
  };
  field.addEventListener("input", () => keep(item.id, { [part]: field.value }));
  return { state, leave: autosave(field, item, { saved, tell }) };
}

/** A field that this tab keeps until the step that it goes out with. */
function keptField(field, item) {
  field.addEventListener("input", () => keep(item.id, { note: field.value }));
  return { state: el("span", { id: "note-saved" }), leave() {} };
}
