"use strict";
const table = document.getElementById("table");
const headings = [...table.tHead.rows[0].cells];
const rows = [...table.tBodies];
const form = document.querySelector("form");
const openAll = document.getElementById("open");

const value = (row, column) => row.rows[0].cells[column].dataset.value;
const collator = new Intl.Collator("en", { numeric: true });

/** Numbers by size, everything else as text. */
function compare(one, other) {
  const difference = Number(one) - Number(other);
  if (one === other) return 0;
  return Number.isNaN(difference) ? collator.compare(one, other) : difference;
}

function setOpen(row, open) {
  row.querySelector("button").setAttribute("aria-expanded", open);
  row.rows[1].hidden = !open;
}

/** The page follows its address: filter, sort, order, open. */
function show() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  const words = (wanted.get("filter") || "").toLowerCase().split(/\s+/);
  const key = wanted.get("sort");
  const descending = wanted.get("order") === "descending";
  const column = headings.findIndex((heading) => heading.dataset.key === key);

  if (form.filter.value !== wanted.get("filter")) form.filter.value = wanted.get("filter") || "";
  for (const row of rows) row.hidden = !words.every((word) => row.dataset.search.includes(word));
  const shown = rows.filter((row) => !row.hidden).length;
  form.querySelector("output").textContent = `${shown} of ${rows.length} shown`;

  const sorted = [...rows];
  if (column >= 0) sorted.sort((one, other) => compare(value(one, column), value(other, column)));
  if (descending) sorted.reverse();
  table.append(...sorted);
  headings.forEach((heading, index) => {
    if (index === column) heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    else heading.removeAttribute("aria-sort");
  });

  const open = wanted.get("open") === "all";
  if (String(open) !== openAll.getAttribute("aria-pressed")) rows.forEach((row) => setOpen(row, open));
  openAll.setAttribute("aria-pressed", open);
  openAll.textContent = open ? "Close all" : "Open all";
}

function go(changes) {
  const wanted = new URLSearchParams(location.hash.slice(1));
  for (const [key, text] of Object.entries(changes)) text ? wanted.set(key, text) : wanted.delete(key);
  history.replaceState(null, "", `#${wanted}`);
  show();
}

form.addEventListener("input", () => go({ filter: form.filter.value }));
form.addEventListener("submit", (event) => event.preventDefault());
openAll.addEventListener("click", () => go({ open: openAll.getAttribute("aria-pressed") === "true" ? "" : "all" }));
table.addEventListener("click", (event) => {
  const heading = event.target.closest("thead th");
  const row = event.target.closest("tr.tensor")?.parentElement;
  if (heading) {
    const again = heading.getAttribute("aria-sort") === "ascending";
    go({ sort: heading.dataset.key, order: again ? "descending" : "" });
  } else if (row) setOpen(row, row.rows[1].hidden);
});
addEventListener("hashchange", show);
show();
