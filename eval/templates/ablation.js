// A row of the table, pointed at or focused, keeps its point and its curves in sight and dims the others.
addEventListener("DOMContentLoaded", () => {
  for (const group of document.querySelectorAll(".group")) {
    const pick = (row) => {
      const number = row?.dataset.variant;
      group.classList.toggle("picking", Boolean(number));
      for (const mark of group.querySelectorAll('svg g[id*="-variant-"]'))
        mark.classList.toggle("picked", Boolean(number) && mark.id.endsWith(`-variant-${number}`));
    };
    const at = (event) => pick(event.target.closest?.("tr[data-variant]"));
    group.addEventListener("pointerover", at);
    group.addEventListener("pointerleave", () => pick(null));
    group.addEventListener("focusin", at);
    group.addEventListener("focusout", () => pick(null));
  }
});
