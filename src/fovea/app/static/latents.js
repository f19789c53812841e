// The table of all latents: the server filters and sorts, this page asks for the rows in view and draws those alone.

import { get, send } from "./api.js";
import { COLUMNS, filters } from "./filters.js";
import { density, el, times, visible, whole } from "./render.js";
import { asked, controlTag, href, isSelected, jobOf, say, sorting, state, toggleSelected } from "./state.js";

const PER_CHUNK = 100;
const MOST_PIXELS = 8e6; // browsers lose precision beyond; taller tables scroll in proportion

export async function latentsPage(go) {
  state.query = new URLSearchParams(window.location.search);
  const table = new Table(go);
  const controls = filters(state.query, (query) => {
    state.query = query;
    window.history.replaceState(null, "", `/${asked(query)}`);
    table.ask();
  });
  const root = el("div", { class: "table-page" }, el("h1", { class: "sr" }, `Latents of ${state.run.title}`), controls.root, table.count, table.root);
  return {
    title: "Latents", root,
    shown: () => table.ask({ isReturn: true }),
    leave: () => table.leave(),
    keys: {
      "/": () => controls.search.focus(),
      j: () => table.move(1), k: () => table.move(-1),
      ArrowDown: (event) => table.isFocused(event) && table.move(1), ArrowUp: (event) => table.isFocused(event) && table.move(-1),
      Enter: (event) => (event.target.closest("a, button") ? false : table.open()),
      f: () => table.flag(), x: () => table.select(),
      Escape: () => controls.clear(),
    },
  };
}

class Table {
  constructor(go) {
    this.go = go;
    this.total = 0;
    this.at = -1; // row of the cursor
    this.chunks = new Map();
    this.rows = new Map(); // row number -> element
    this.turn = 0;
    this.count = el("p", { class: "count", role: "status" }, "\u2026");
    this.body = el("div", { class: "rows", role: "rowgroup" });
    this.head = el("div", { class: "line head", role: "row", "aria-rowindex": "1" }, COLUMNS.map(([name, label, area]) =>
      el("span", { role: "columnheader", class: `cell ${area}`, "data-column": name }, el("button", { type: "button", onclick: () => this.sortBy(name) }, label))));
    this.view = el("div", { class: "view", tabindex: "-1" }, el("div", { role: "rowgroup", class: "head-group" }, this.head), this.body);
    this.root = el("div", { class: "latents", role: "table", "aria-label": "Latents" }, this.view);
    this.view.addEventListener("scroll", () => this.draw(), { passive: true });
    this.onResize = () => { this.height = 0; this.draw(); };
    window.addEventListener("resize", this.onResize);
  }

  leave() { window.removeEventListener("resize", this.onResize); this.turn += 1; }

  isFree(target = document.activeElement) { return target === document.body || target.id === "main"; }

  isFocused(event) { return this.root.contains(event.target) || this.isFree(event.target); }

  sortBy(name) {
    const [sort, order] = sorting();
    const first = name === "job" || name === "latent" ? "ascending" : "descending";
    const next = sort === name ? (order === "descending" ? "ascending" : "descending") : first;
    state.query.set("sort", name);
    state.query.set("order", next);
    window.history.replaceState(null, "", `/?${state.query}`);
    this.ask();
  }

  async ask({ isReturn = false } = {}) {
    const turn = ++this.turn;
    this.chunks.clear();
    const [sort, order] = sorting();
    for (const cell of this.head.children) {
      if (cell.dataset.column === sort) cell.setAttribute("aria-sort", order); else cell.removeAttribute("aria-sort");
    }
    try {
      const first = await this.chunk(0);
      if (turn !== this.turn) return;
      this.total = first.total;
      this.at = Math.min(this.at, this.total - 1);
      this.count.replaceChildren(`${whole(first.total)} of ${whole(state.run.n_latents)} latents${counted()}`, first.search_progress < 1 && state.query.get("q") ? ` (text of ${Math.floor(100 * first.search_progress)}% of them is searched so far)` : "");
      this.root.setAttribute("aria-rowcount", this.total + 1);
      this.body.replaceChildren();
      this.rows.clear();
      this.view.scrollTop = 0;
      this.draw();
      if (isReturn && state.last.at >= 0 && state.last.query === asked(state.query)) this.move(0, state.last.at, this.isFree());
      if (first.search_progress < 1 && state.query.get("q")) setTimeout(() => { if (turn === this.turn && this.view.scrollTop === 0 && this.at < 0) this.ask(); }, 1500);
    } catch (error) {
      if (turn !== this.turn) return;
      this.total = 0;
      this.body.replaceChildren();
      this.rows.clear();
      this.count.textContent = error.message;
    }
  }

  chunk(number) {
    if (!this.chunks.has(number)) {
      const query = new URLSearchParams(state.query);
      query.set("offset", number * PER_CHUNK);
      query.set("limit", PER_CHUNK);
      this.chunks.set(number, get("/api/latents", query));
    }
    return this.chunks.get(number);
  }

  measure() {
    if (!this.height) this.height = parseFloat(getComputedStyle(this.root).getPropertyValue("--row")) || 34;
    this.full = Math.min(MOST_PIXELS, this.total * this.height);
    this.body.style.setProperty("height", `${this.full}px`);
    const seen = this.view.clientHeight - this.head.offsetHeight;
    const scrollable = Math.max(1, this.full - seen);
    const share = Math.min(1, this.view.scrollTop / scrollable);
    const firstExact = this.full < this.total * this.height ? share * (this.total - seen / this.height) : this.view.scrollTop / this.height;
    return { first: Math.max(0, Math.floor(firstExact)), offset: this.view.scrollTop - firstExact * this.height, n: Math.ceil(seen / this.height) + 1 };
  }

  draw() {
    const { first, offset, n } = this.measure();
    const [from, to] = [Math.max(0, first - 6), Math.min(this.total, first + n + 6)];
    for (const [i, row] of this.rows) if (i < from || i >= to) { row.remove(); this.rows.delete(i); }
    for (let i = from; i < to; i += 1) {
      if (!this.rows.has(i)) { const row = this.emptyRow(i); this.rows.set(i, row); this.body.append(row); this.fillRow(i, row); }
      this.rows.get(i).style.setProperty("transform", `translateY(${Math.round(offset + i * this.height)}px)`);
    }
  }

  emptyRow(i) {
    return el("div", { class: "line", role: "row", "aria-rowindex": i + 2, tabindex: i === Math.max(0, this.at) ? "0" : "-1", onfocus: () => { this.at = i; }, onclick: (event) => {
      if (!event.target.closest("a, button") && !window.getSelection()?.toString()) { this.at = i; this.open(); }
    } });
  }

  async fillRow(i, row) {
    const turn = this.turn;
    let page;
    try { page = await this.chunk(Math.floor(i / PER_CHUNK)); } catch (error) { this.count.textContent = error.message; return; }
    const found = page.rows[i % PER_CHUNK];
    if (turn !== this.turn || !found) return;
    row.place = [state.run.jobs[found[0]].name, found[1]];
    row.marks = page.marks[i % PER_CHUNK];
    row.replaceChildren(...cells(found, row.marks));
    this.paint(row);
  }

  paint(row) {
    row.classList.toggle("selected", isSelected(...row.place));
    const flag = row.querySelector(".flag");
    flag?.classList.toggle("raised", row.marks[0]);
    flag?.setAttribute("aria-hidden", String(!row.marks[0]));
  }

  current() { return this.rows.get(this.at) ?? null; }

  move(step, from = this.at, takesFocus = true) {
    if (!this.total) return false;
    this.at = Math.max(0, Math.min(this.total - 1, from < 0 ? 0 : from + step));
    const { first, n } = this.measure();
    if (this.at < first || this.at >= first + n - 2) {
      const target = this.at < first ? this.at : this.at - n + 3;
      this.view.scrollTop = this.full < this.total * this.height ? (target / this.total) * this.full : target * this.height;
      this.draw();
    }
    for (const [i, row] of this.rows) row.tabIndex = i === this.at ? 0 : -1;
    if (takesFocus) this.current()?.focus({ preventScroll: true });
    return true;
  }

  open() {
    const place = this.current()?.place;
    if (!place) return false;
    this.go(href(...place));
    window.scrollTo(0, 0);
    return true;
  }

  select() {
    const row = this.current();
    if (!row?.place) return false;
    say(toggleSelected(...row.place) ? "selected" : "not selected");
    this.paint(row);
    return true;
  }

  async flag() {
    const row = this.current();
    if (!row?.place) return;
    const [job, latent] = row.place;
    try {
      const marks = await send("/api/marks", { job, latent, action: row.marks[0] ? "unflag" : "flag" });
      row.marks[0] = marks.flagged;
      this.paint(row);
      say(marks.flagged ? "flag raised" : "flag lowered");
    } catch (error) { this.count.textContent = error.message; }
  }
}

/** How many tokens the densities are counted on, where that is the same for all SAEs. */
function counted() {
  const totals = ["n_tokens_domain", "n_tokens_general"].map((name) => [...new Set(state.run.jobs.map((job) => job[name]))]);
  if (totals.some((found) => found.length !== 1 || found[0] === null)) return "";
  return `, counted on ${whole(totals[0][0])} tokens of D and ${whole(totals[1][0])} of general text`;
}

function cells([job, latent, onD, onGeneral, ratio, isBound, decoder, encoder, nearest], [, note]) {
  const about = state.run.jobs[job];
  const cell = (area, ...children) => el("span", { role: "cell", class: `cell ${area}` }, children);
  const rare = (n, total) => (n === 0 && total ? el("span", { class: "none" }, "none") : density(n, total));
  const cosine = (value) => (value === null ? "\u2013" : value.toFixed(2));
  const of = (n, total) => (n === null || !total ? null : `${whole(n)} of ${whole(total)} tokens`);
  const number = (area, text, label, title) => el("span", { role: "cell", class: `cell ${area}`, "data-label": label, title }, text);
  return [
    cell("job", el("i", { class: `swatch swatch-${about.slot}`, "aria-hidden": "true" }), about.name, controlTag(about)),
    cell("latent", el("a", { href: href(about.name, latent) }, `#${latent}`)),
    number("dd", rare(onD, about.n_tokens_domain), "D", of(onD, about.n_tokens_domain)),
    number("dg", rare(onGeneral, about.n_tokens_general), "gen", of(onGeneral, about.n_tokens_general)),
    number("ratio", times(ratio, isBound), ""),
    number("nd", cosine(decoder), "cos"),
    number("ne", cosine(encoder), ""),
    cell("near", nearest !== null && about.general_job && jobOf(about.general_job) ? el("a", { href: href(about.general_job, nearest) }, `g #${nearest}`) : "\u2013"),
    cell("mark", el("span", { class: "flag", role: "img", "aria-label": "flagged", "aria-hidden": "true" }, "\u2691"), el("span", { class: "note-start" }, visible(note))),
  ];
}
