"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");

  const memory = {
    get() { try { return window.localStorage.getItem("fovea-theme"); } catch { return null; } },
    set(theme) { try { window.localStorage.setItem("fovea-theme", theme); } catch { /* the choice lasts for this view */ } },
  };
  const preferred = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : preferred.matches);
  const stored = memory.get();
  if (stored === "dark" || stored === "light") root.dataset.theme = stored;

  const collator = new Intl.Collator("en", { numeric: true });
  const sortBy = (heading) => {
    const table = heading.closest("table");
    const column = heading.cellIndex;
    const isNumber = heading.classList.contains("n");
    const was = heading.getAttribute("aria-sort");
    const direction = was ? (was === "ascending" ? "descending" : "ascending") : isNumber ? "descending" : "ascending";
    const sign = direction === "ascending" ? 1 : -1;
    const keyed = [...table.tBodies[0].rows].map((row) => [row.cells[column].dataset.sort, row]);
    keyed.sort(([a], [b]) => {
      if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
      return sign * (isNumber ? Number(a) - Number(b) : collator.compare(a, b));
    });
    table.tBodies[0].append(...keyed.map(([, row]) => row));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", direction);
  };

  document.addEventListener("DOMContentLoaded", () => {
    const toggle = document.getElementById("theme");
    const label = () => { toggle.textContent = isDark() ? "Light" : "Dark"; toggle.setAttribute("aria-label", `Show in ${isDark() ? "light" : "dark"} colours`); };
    toggle.hidden = false;
    toggle.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; memory.set(root.dataset.theme); label(); });
    preferred.addEventListener("change", label);
    label();
    for (const heading of document.querySelectorAll("table.sortable thead th")) {
      heading.querySelector("button").addEventListener("click", () => sortBy(heading));
    }
  });

  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const each of opened) each.open = true;
  });
  window.addEventListener("afterprint", () => { for (const each of opened) each.open = false; });
})();
