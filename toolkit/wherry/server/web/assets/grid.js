// In a table marked data-grid one field takes part in the order of Tab, and arrow keys move on.
// Without this script every field does.
"use strict";

for (const table of document.querySelectorAll("table[data-grid]")) {
  const rows = [...table.tBodies[0].rows].map((row) => [...row.querySelectorAll("a")]);
  const fields = rows.flat();
  const middle = (field) => {
    const box = field.getBoundingClientRect();
    return (box.left + box.right) / 2;
  };
  const go = (field) => {
    if (!field) return;
    for (const other of fields) other.tabIndex = -1;
    field.tabIndex = 0;
    field.focus();
  };
  const first = rows.find((row) => row.length)?.at(-1); // the newest
  for (const field of fields) if (field !== first) field.tabIndex = -1;
  table.parentElement.scrollLeft = table.parentElement.scrollWidth;
  table.addEventListener("keydown", (event) => {
    const at = rows.findIndex((row) => row.includes(event.target));
    if (at < 0) return;
    const place = rows[at].indexOf(event.target);
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const leap = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) go(rows[at][place + step]);
    if (leap) {
      let next = at + leap;
      while (rows[next] && !rows[next].length) next += leap;
      const nearest = (a, b) =>
        Math.abs(middle(a) - middle(event.target)) <= Math.abs(middle(b) - middle(event.target)) ? a : b;
      if (rows[next]) go(rows[next].reduce(nearest));
    }
    if (event.key === "Home") go(rows[at][0]);
    if (event.key === "End") go(rows[at].at(-1));
    if (step || leap || event.key === "Home" || event.key === "End") event.preventDefault();
  });
}
