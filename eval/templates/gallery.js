"use strict";
// Filter, sort and the full-screen view. The cards are in the page already; this only orders, hides and enlarges them.
(() => {
  const $ = (id) => document.getElementById(id);
  const { pairs } = JSON.parse($("data").textContent);
  const cards = [...document.querySelectorAll(".pair")];
  let arranged = cards.map((_, i) => i);
  let visible = arranged;
  let descending = true;

  // --- filter and sort -------------------------------------------------------------------------------------------
  const value = (pair, key) => {
    if (key === "change") return pair.change;
    const [side, name] = key.split(":");
    const [base, tuned] = [pair.base[name], pair.tuned[name]];
    if (side === "base") return base;
    if (side === "tuned") return tuned;
    return base === null || tuned === null ? null : tuned - base;
  };

  const compare = (key) => (a, b) => {
    if (key === "order") return descending ? a - b : b - a;
    const [x, y] = [value(pairs[a], key), value(pairs[b], key)];
    if (x === null || y === null) return (x === null) - (y === null) || a - b; // missing scores last, either way
    return (descending ? y - x : x - y) || a - b;
  };

  const update = () => {
    const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const category = $("category")?.value ?? "";
    const key = $("sort").value;
    const matches = (i) => words.every((word) => pairs[i].prompt.toLowerCase().includes(word))
      && (!category || pairs[i].category === category);
    const order = pairs.map((_, i) => i).sort(compare(key));
    visible = order.filter(matches);
    const shown = new Set(visible);
    for (const i of order) cards[i].hidden = !shown.has(i);
    // Moving thousands of cards is the costly part: leave them where they are when only the filter changed.
    if (order.some((i, at) => arranged[at] !== i)) $("pairs").append(...order.map((i) => cards[i]));
    arranged = order;
    $("empty").hidden = visible.length > 0;
    $("count").textContent = visible.length === pairs.length
      ? `${pairs.length} pairs` : `${visible.length} of ${pairs.length} pairs`;
    const names = key === "order" ? ["First to last", "Last to first"] : ["High first", "Low first"];
    $("direction-text").textContent = names[descending ? 0 : 1];
    $("direction").firstChild.textContent = descending ? "↓" : "↑";
  };

  $("controls").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["filter", "category", "sort"]) $(id)?.addEventListener("input", update);
  $("direction").addEventListener("click", () => {
    descending = !descending;
    $("direction").setAttribute("aria-pressed", String(!descending));
    update();
  });
  $("all-scores").addEventListener("click", () => {
    const on = document.body.classList.toggle("all-scores");
    $("all-scores").setAttribute("aria-pressed", String(on));
  });

  // --- full-screen view ------------------------------------------------------------------------------------------
  const viewer = $("viewer");
  const stage = $("stage");
  let position = 0;

  const show = (at) => {
    position = Math.min(Math.max(at, 0), visible.length - 1);
    const pair = pairs[visible[position]];
    for (const [side, label] of [["base", "Before"], ["tuned", "After"]]) {
      const image = $(`viewer-${side}`);
      image.src = pair.images[side];
      image.alt = `${label}: ${pair.prompt}`;
      image.width = pair.width;
      image.height = pair.height;
    }
    stage.style.setProperty("--ratio", pair.width / pair.height);
    $("viewer-prompt").textContent = `${pair.prompt} ${pair.member}`.trim();
    $("viewer-position").textContent = `${position + 1} of ${visible.length}`;
    $("viewer-scores").replaceChildren(cards[visible[position]].querySelector(".scores").cloneNode(true));
    $("previous").disabled = position === 0;
    $("next").disabled = position === visible.length - 1;
    const next = pairs[visible[position + 1]];
    if (next) for (const source of Object.values(next.images)) new Image().src = source;
    try { history.replaceState(null, "", `#pair-${pair.id}`); } catch { /* some viewers forbid it */ }
  };

  const open = (i) => {
    show(visible.indexOf(i));
    if (!viewer.open) viewer.showModal();
    $("viewer-close").focus({ focusVisible: false });
  };

  const mode = (name) => {
    stage.dataset.mode = name;
    $("mode-side").setAttribute("aria-pressed", String(name === "side"));
    $("mode-slider").setAttribute("aria-pressed", String(name === "slider"));
  };

  const split = (percent) => {
    const bounded = Math.min(Math.max(percent, 0), 100);
    stage.style.setProperty("--split", `${bounded}%`);
    $("split").value = bounded;
  };

  const drag = (event) => {
    const box = $("viewer-tuned").getBoundingClientRect();
    split((100 * (event.clientX - box.left)) / box.width);
  };

  $("pairs").addEventListener("click", (event) => {
    const card = event.target.closest(".shots")?.closest(".pair");
    if (card) open(Number(card.dataset.i));
  });
  $("previous").addEventListener("click", () => show(position - 1));
  $("next").addEventListener("click", () => show(position + 1));
  $("viewer-close").addEventListener("click", () => viewer.close());
  $("mode-side").addEventListener("click", () => mode("side"));
  $("mode-slider").addEventListener("click", () => mode("slider"));
  $("split").addEventListener("input", () => split(Number($("split").value)));
  // A finger that moves across goes to the next pair, unless it moves the slider.
  let touched = null;
  stage.addEventListener("pointerdown", (event) => {
    touched = event.pointerType === "touch" && event.isPrimary && stage.dataset.mode === "side" ? event : null;
  });
  stage.addEventListener("pointerup", (event) => {
    if (!touched || !event.isPrimary) return;
    const [dx, dy] = [event.clientX - touched.clientX, event.clientY - touched.clientY];
    if (Math.abs(dx) > 48 && Math.abs(dx) > 2 * Math.abs(dy)) show(position - Math.sign(dx));
    touched = null;
  });
  stage.addEventListener("pointerdown", (event) => {
    if (stage.dataset.mode !== "slider" || event.target === $("split")) return;
    stage.setPointerCapture(event.pointerId);
    drag(event);
  });
  stage.addEventListener("pointermove", (event) => {
    if (stage.hasPointerCapture(event.pointerId)) drag(event);
  });
  // On the document: a page opened at #pair-... may have moved the focus out of the dialog.
  document.addEventListener("keydown", (event) => {
    if (!viewer.open || event.ctrlKey || event.metaKey || event.altKey) return;
    const onSlider = document.activeElement === $("split");
    if (event.key === "ArrowLeft" && !onSlider) show(position - 1);
    else if (event.key === "ArrowRight" && !onSlider) show(position + 1);
    else if (event.key === "Home" && !onSlider) show(0);
    else if (event.key === "End" && !onSlider) show(visible.length - 1);
    else if (event.key.toLowerCase() === "s") mode(stage.dataset.mode === "slider" ? "side" : "slider");
    else return;
    if (event.key.toLowerCase() !== "s") event.preventDefault();
  });
  viewer.addEventListener("close", () => {
    const card = cards[visible[position]];
    card.querySelector(".shots").focus({ preventScroll: true });
    card.scrollIntoView({ block: "nearest" });
    try { history.replaceState(null, "", location.pathname + location.search); } catch { /* as above */ }
  });

  update();
  const linked = pairs.findIndex((pair) => location.hash === `#pair-${pair.id}`);
  if (linked >= 0) open(linked);
})();
