"use strict";
// Sorts and filters tables. Nothing on the page depends on it.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") === "descending";
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      for (const body of table.tBodies) {
        const rows = [...body.rows].filter((row) => row.cells.length === heads.length);
        const value = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();
        rows.sort((a, b) => {
          const [x, y] = [value(a), value(b)];
          const order = x === "" || y === "" ? (x === "") - (y === "") || 0 : isNaN(x) || isNaN(y) ? y.localeCompare(x) : y - x;
          return up && x !== "" && y !== "" ? -order : order;
        });
        body.append(...rows);
      }
    });
  });
}
for (const table of document.querySelectorAll("table.filterable")) {
  if (table.rows.length < 20) continue;
  const label = document.createElement("label");
  const input = document.createElement("input");
  input.type = "search";
  label.className = "search";
  label.append("Filter ", input);
  table.parentElement.before(label);
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase();
    for (const body of table.tBodies)
      for (const row of body.rows)
        row.hidden = ![...row.cells].some((cell) => cell.textContent.toLowerCase().includes(wanted));
  });
}
