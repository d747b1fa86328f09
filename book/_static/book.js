// What the theme leaves undone for keyboards, screen readers and paper.
"use strict";

window.addEventListener("load", () => {
  // A name that leaves out the words on the button cannot be spoken to: let those words be the name.
  // One that has them and says more stays, such as that of a cell of a confusion matrix.
  for (const item of document.querySelectorAll("summary[aria-label], button[aria-label]")) {
    const words = item.innerText.trim().toLowerCase();
    if (words && !item.getAttribute("aria-label").toLowerCase().includes(words)) item.removeAttribute("aria-label");
  }
  nameFolds();
  // In the contents, what opens a page's subpages is a bare arrow.
  for (const item of document.querySelectorAll("summary")) {
    if (item.textContent.trim() || item.hasAttribute("aria-label")) continue;
    const page = item.closest("li")?.querySelector("a")?.textContent.trim() ?? "";
    item.setAttribute("aria-label", `Pages of ${page}`);
  }
  // The icons of the colour button bring names of their own, whenever they are drawn; its label is enough.
  for (const button of document.querySelectorAll(".theme-switch-button")) {
    const silence = () => {
      for (const icon of button.querySelectorAll("svg")) {
        icon.querySelector("title")?.remove();
        icon.removeAttribute("aria-labelledby");
        icon.removeAttribute("role");
        icon.setAttribute("aria-hidden", "true");
      }
    };
    silence();
    new MutationObserver(silence).observe(button, { childList: true });
  }
  // Of a list, its items: the roles that docutils writes are not allowed inside of one any more.
  for (const work of document.querySelectorAll(".citation-list > .citation")) work.setAttribute("role", "listitem");
  // The logo stands outside of every landmark.
  const sidebar = document.querySelector("#pst-primary-sidebar");
  if (sidebar) {
    sidebar.setAttribute("role", "region");
    sidebar.setAttribute("aria-label", "The book");
  }
  markScrollable();
});

// A fold is called by its title; folds of one title are told apart by the heading above them.
function nameFolds() {
  const folds = [...document.querySelectorAll(".bd-article :is(details > summary, .toggle-button)")];
  const words = (item) => item?.textContent.replace(/\s+/g, " ").replace(/ ?#$/, "").trim();
  const title = (fold) => words(fold.querySelector(".collapsed") ?? fold.closest(".admonition-title") ?? fold);
  const titles = folds.map(title);
  const names = folds.map((fold, i) => {
    const once = titles.filter((other) => other === titles[i]).length === 1;
    return once ? titles[i] : `${titles[i]}, under: ${words(fold.closest("section")?.querySelector("h1, h2, h3, h4"))}`;
  });
  folds.forEach((fold, i) => {
    const same = names.slice(0, i).filter((other) => other === names[i]).length;
    fold.setAttribute("aria-label", same ? `${names[i]}, ${same + 1}` : names[i]);
  });
}

// What scrolls sideways on a narrow window must be reachable by the Tab key. The theme does so for code only.
function markScrollable() {
  for (const box of document.querySelectorAll(".bd-article :is(pre, div.math, .output, .cell_output table)")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  }
}
window.addEventListener("resize", markScrollable);
window.addEventListener("load", () => window.MathJax?.startup?.promise?.then(markScrollable));

// Tables in a cell with the tag "sortable": the head of each column is a button that sorts the rows.
const NO_VALUE = ["", "-", "–", "not timed"];
const UNITS = { s: 1, min: 60, h: 3600 };
const NUMBER = /^([-+−]?)(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?(?: ?%| (s|min|h))?(?: ?(?:±|to|\(|of) ?.*)?$/;

// The number at the beginning of a cell: "92.08 ± 0.16", "50,000", "51.7 min"; NaN if there is none.
function leadingNumber(text) {
  const [, sign, whole, fraction = "", unit = "s"] = NUMBER.exec(text) ?? [];
  if (whole === undefined) return NaN;
  return (sign && sign !== "+" ? -1 : 1) * Number(whole.replaceAll(",", "") + fraction) * UNITS[unit];
}

// The order of rows by the texts of one column: numbers by value, all else as text, what has no value last.
function orderOf(texts, direction) {
  const values = texts.map((text) => (NO_VALUE.includes(text) ? null : text));
  const numbers = values.map((value) => (value === null ? null : leadingNumber(value)));
  const numeric = !numbers.some(Number.isNaN);
  const compare = (i, j) =>
    numeric ? numbers[i] - numbers[j] : values[i].localeCompare(values[j], "en", { numeric: true });
  return texts
    .map((_, i) => i)
    .sort((i, j) => {
      if (values[i] === null || values[j] === null) return (values[i] === null) - (values[j] === null);
      return direction * compare(i, j);
    });
}

function makeSortable(table) {
  const heads = [...table.querySelectorAll("thead th")];
  const body = table.tBodies[0];
  if (!body || body.rows.length < 2) return;
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort-by";
    button.append(...(head.querySelector("p") ?? head).childNodes);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      const rows = [...body.rows];
      const texts = rows.map((row) => row.cells[column].textContent.trim());
      body.append(...orderOf(texts, direction).map((i) => rows[i]));
    });
  });
}
window.addEventListener("load", () => document.querySelectorAll(".tag_sortable table").forEach(makeSortable));

// On paper nothing can be unfolded: print with everything open, and close it again.
let opened = [];
window.addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const fold of opened) fold.open = true;
});
window.addEventListener("afterprint", () => {
  for (const fold of opened) fold.open = false;
});

// A card over every link to a term or a work: cards.js has the definitions, the link's title the work.
window.addEventListener("DOMContentLoaded", () => {
  const card = Object.assign(document.createElement("div"), { id: "book-card", hidden: true });
  card.setAttribute("role", "tooltip");
  document.body.append(card);
  const textOf = (link) => {
    if (link.title) link.dataset.card = link.title;
    link.removeAttribute("title"); // else the browser would show it, too
    const term = link.pathname.endsWith("/glossary.html") && decodeURIComponent(link.hash.slice(1));
    return link.dataset.card ?? window.bookCards?.[term];
  };
  let shown = null;
  const hide = () => {
    shown?.removeAttribute("aria-describedby");
    shown = null;
    card.hidden = true;
  };
  const show = (event) => {
    const link = event.target.closest?.(".bd-article a.internal[href*='#']");
    if (!link || link === shown) return;
    hide();
    const text = textOf(link);
    if (!text) return;
    card.textContent = text;
    card.hidden = false;
    if (text.includes("\\(")) window.MathJax?.typesetPromise?.([card]);
    const at = link.getBoundingClientRect();
    const left = Math.max(8, Math.min(at.left, document.documentElement.clientWidth - card.offsetWidth - 8));
    const above = at.top > card.offsetHeight + 12;
    card.style.left = `${left + window.scrollX}px`;
    card.style.top = `${window.scrollY + (above ? at.top - card.offsetHeight - 6 : at.bottom + 6)}px`;
    link.setAttribute("aria-describedby", "book-card");
    shown = link;
  };
  document.addEventListener("mouseover", show);
  document.addEventListener("focusin", show);
  document.addEventListener("mouseout", (event) => event.target.closest?.("a") === shown && hide());
  document.addEventListener("focusout", hide);
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
});
