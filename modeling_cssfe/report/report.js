"use strict";
// Sorts tables of class "sortable" by the data-value of their cells. Empty values stay at the end in both directions.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.setAttribute("aria-sort", "none");
    heading.querySelector("button").addEventListener("click", () => {
      const rising = heading.getAttribute("aria-sort") !== "ascending";
      const body = table.tBodies[0];
      const rows = [...body.rows].map((row) => [row.cells[column].dataset.value, row]);
      // Names are compared as names even if one of them is a number.
      const numbers = heading.classList.contains("number") || rows.every(([value]) => value !== "" && isFinite(value));
      rows.sort(([a], [b]) => {
        if (a === "" || b === "") return (a === "") - (b === "");
        const order = numbers ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true });
        return rising ? order : -order;
      });
      body.append(...rows.map(([, row]) => row));
      for (const other of headings) other.setAttribute("aria-sort", "none");
      heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
      document.getElementById("sort-status").textContent =
        `Sorted by ${heading.textContent.trim()}, ${rising ? "ascending" : "descending"}.`;
    });
  });
}
