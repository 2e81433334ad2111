"use strict";
// Tables: a click on a heading sorts, numbers by data-v, data-order or text, what is empty last; buttons copy.
const tables = (() => {
  const collator = new Intl.Collator(undefined, { numeric: true });
  function sortBy(table, column, falling) {
    const heads = table.tHead.rows[0].cells, body = table.tBodies[0], key = (line) => {
      const cell = line.cells[column];
      const given = cell.dataset.v ?? cell.dataset.order;
      if (given !== undefined) return Number(given);
      const number = Number(cell.textContent);
      return cell.textContent.trim() && Number.isFinite(number) ? number : cell.textContent === "—" ? null : cell.textContent;
    };
    const lines = Array.from(body.rows, (line) => [key(line), line]);
    lines.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      const order = typeof a === "number" && typeof b === "number" ? a - b : collator.compare(a, b);
      return falling ? -order : order;
    });
    body.append(...lines.map(([, line]) => line));
    Array.from(heads).forEach((head, i) => head.setAttribute("aria-sort", i !== column ? "none" : falling ? "descending" : "ascending"));
  }
  function sortAgain(table) {
    const heads = Array.from(table.tHead.rows[0].cells), column = heads.findIndex((head) => ["ascending", "descending"].includes(head.getAttribute("aria-sort")));
    if (column >= 0) sortBy(table, column, heads[column].getAttribute("aria-sort") === "descending");
  }

  // Rows of text as they are seen, the heading first; `exact` gives the digits behind a number.
  function rowsOf(table, exact) {
    const text = (cell) => (exact && cell.dataset.v !== undefined ? cell.dataset.v : cell.textContent.trim().replace(/\s+/g, " "));
    return [table.tHead.rows[0], ...Array.from(table.tBodies[0].rows).filter((line) => !line.hidden)].map((line) => Array.from(line.cells, text));
  }
  function toCSV(table) {
    const quote = (text) => (/^[=+@\t\r]|^-\D/.test(text) ? `"'${text.replace(/"/g, '""')}"` : /[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);
    return rowsOf(table, true).map((line) => line.map(quote).join(",")).join("\n") + "\n";
  }
  const SIGNS = { "σ": "$\\sigma$", "≥": "$\\geq$", "×": "$\\times$", "±": "$\\pm$", "—": "--", "α": "$\\alpha$", "τ": "$\\tau$", "²": "$^2$", "ᵢ": "$_i$", "<": "$<$", ">": "$>$", "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}" };
  function toLatex(table) {
    const escape = (text) => text.replace(/σ(\d+)/g, "\u0001$1\u0002").replace(/[&%$#_{}]/g, "\\$&").replace(/[σ≥×±—ατ²ᵢ<>~^]|\\(?![&%$#_{}])/g, (sign) => SIGNS[sign]).replace(/\u0001(\d+)\u0002/g, "$\\sigma_{$1}$$");
    const lines = rowsOf(table, false).map((line) => `${line.map(escape).join(" & ")} \\\\`);
    return ["% needs \\usepackage{booktabs}", `\\begin{tabular}{l${"r".repeat(table.tHead.rows[0].cells.length - 1)}}`, "\\toprule", lines[0], "\\midrule", ...lines.slice(1), "\\bottomrule", "\\end{tabular}"].join("\n") + "\n";
  }

  async function copy(text, button) {
    const said = button.textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {  // a browser that keeps the clipboard from files
      const area = document.body.appendChild(Object.assign(document.createElement("textarea"), { value: text, className: "away" }));
      area.select();
      document.execCommand("copy");
      area.remove();
      button.focus();
    }
    button.dataset.copied = text;
    button.textContent = "copied";
    setTimeout(() => { button.textContent = said; }, 1500);
  }
  function button(text, label, give) {
    const made = Object.assign(document.createElement("button"), { type: "button", textContent: text, className: "copy" });
    made.setAttribute("aria-label", label);
    made.addEventListener("click", () => copy(give(), made));
    return made;
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    Array.from(table.tHead.rows[0].cells).forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        sortBy(table, column, now === "ascending" || (now !== "descending" && column > 0));
      });
    });
    // On a phone a row is a list; each number then names its column.
    for (const line of table.tBodies[0].rows) Array.from(line.cells).forEach((cell, i) => { cell.dataset.title = table.tHead.rows[0].cells[i].textContent; });
    const name = table.getAttribute("aria-label"), box = document.createElement("p");
    box.className = "copies";
    box.append(button("Copy CSV", `Copy as CSV: ${name}`, () => toCSV(table)), button("Copy LaTeX", `Copy as LaTeX: ${name}`, () => toLatex(table)));
    table.parentElement.after(box);
  }
  for (const text of document.querySelectorAll("pre.copied")) text.after(button("Copy", `Copy: ${text.getAttribute("aria-label")}`, () => text.textContent));
  const find = document.getElementById("find-class");
  if (find) {
    find.addEventListener("input", (event) => {
      const wanted = event.target.value.toLowerCase();
      for (const line of document.getElementById("class-table").tBodies[0].rows) line.hidden = !line.cells[0].textContent.toLowerCase().includes(wanted);
    });
  }
  // A link to what is closed opens it, and so does print.
  const openTarget = () => { const target = document.getElementById(decodeURIComponent(location.hash.slice(1))); target?.closest("details")?.setAttribute("open", ""); };
  window.addEventListener("hashchange", openTarget);
  openTarget();
  window.addEventListener("beforeprint", () => { for (const one of document.querySelectorAll("details.print")) one.open = true; });
  return { rowsOf, sortAgain, toCSV, toLatex };
})();
