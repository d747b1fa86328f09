// What the theme leaves undone for keyboards, screen readers and paper.
"use strict";

window.addEventListener("load", () => {
  // A name that leaves out the words on the button cannot be spoken to: let those words be the name.
  for (const item of document.querySelectorAll("summary[aria-label], button[aria-label]")) {
    if (item.innerText.trim()) item.removeAttribute("aria-label");
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

// What scrolls sideways on a narrow window must be reachable by the Tab key. The theme does so for code only.
function markScrollable() {
  for (const box of document.querySelectorAll(".bd-article :is(pre, div.math, .output, .cell_output table)")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  }
}
window.addEventListener("resize", markScrollable);
window.addEventListener("load", () => window.MathJax?.startup?.promise?.then(markScrollable));

// On paper nothing can be unfolded: print with everything open, and close it again.
let opened = [];
window.addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const fold of opened) fold.open = true;
});
window.addEventListener("afterprint", () => {
  for (const fold of opened) fold.open = false;
});
