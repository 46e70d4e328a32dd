// Tables can be sorted and filtered, and the command can be copied. Without scripts everything is readable as it is.
"use strict";
const made = (name, about) => Object.assign(document.createElement(name), about);
const words = new Intl.Collator("en", { numeric: true });
const compare = (one, other) => "order" in one.dataset
  ? one.dataset.order - other.dataset.order : words.compare(one.textContent, other.textContent);

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells], rows = [...body.rows];
  heads.forEach((head, column) => {
    const button = made("button", { type: "button", textContent: head.textContent, title: "sort" });
    head.replaceChildren(button);
    button.onclick = () => {
      const down = head.ariaSort === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.ariaSort = down ? "descending" : "ascending";
      rows.sort((a, b) => (down ? -1 : 1) * compare(a.cells[column], b.cells[column]));
      body.append(...rows);
    };
  });
  if (rows.length > 8) {
    const field = made("input", { type: "search", placeholder: "filter rows", className: "filter" });
    field.ariaLabel = "filter rows";
    field.oninput = () => rows.forEach((row) => {
      row.hidden = !row.textContent.toLowerCase().includes(field.value.trim().toLowerCase());
    });
    table.parentElement.before(field);
  }
}

for (const command of document.querySelectorAll("pre.command")) {
  const button = made("button", { type: "button", textContent: "Copy", className: "copy" });
  button.onclick = async () => {
    try {
      await navigator.clipboard.writeText(command.textContent);
    } catch {
      getSelection().selectAllChildren(command);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  };
  command.before(button);
}
