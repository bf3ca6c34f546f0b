"use strict";
// Filter, sort, the cards near the window, and the full-screen view.
(() => {
  const $ = (id) => document.getElementById(id);
  const { models, dimensions, pairs, current: last } = JSON.parse($("data").textContent);
  const shells = [...document.querySelectorAll(".pair")];
  const column = Object.fromEntries(dimensions.map((d, k) => [d.name, k]));
  const labels = models.map((model) => model.label);
  let current = last; // the model that the reference is compared with
  let arranged = shells.map((_, i) => i);
  let visible = arranged;
  let descending = true;
  let strips = false;

  // --- cards ------------------------------------------------------------------------------------------------------
  // A page of thousands holds headings only; cards are filled when they come near the window and emptied when they
  // are far from it, keeping their height, so that nothing jumps.
  const fill = (shell) => {
    const pair = pairs[shell.dataset.i];
    const button = Cards.element("button", { class: strips ? "shots film" : "shots", type: "button", "aria-label": `Full screen: ${pair.prompt}` });
    if (strips) button.append(Cards.element("ol", {}, ...Cards.film(pair, dimensions, models, current)));
    else button.append(Cards.picture(pair.sides[0], pair, labels[0], "base"), Cards.picture(pair.sides[current], pair, labels[current], "tuned"));
    const parts = strips ? [] : [Cards.scores(pair, dimensions, [labels[0], labels[current]], current)];
    const ats = strips ? models.map((_, at) => at) : [0, current];
    shell.replaceChildren(shell.firstElementChild, button, ...parts, ...Cards.errors(pair, labels, ats));
    shell.style.minHeight = "";
    shell.classList.add("filled");
  };

  const empty = (shell) => {
    if (!shell.classList.contains("filled") || shell.contains(document.activeElement)) return;
    shell.style.minHeight = `${shell.offsetHeight}px`;
    shell.replaceChildren(shell.firstElementChild);
    shell.classList.remove("filled");
  };

  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) { if (!target.hidden) empty(target); } else if (!target.classList.contains("filled")) fill(target);
    }
    const sample = document.querySelector(".pair.filled:not([hidden])");
    if (sample) $("pairs").style.setProperty("--height", `${sample.offsetHeight}px`);
  }, { rootMargin: "900px 0px" });

  // At once, so that nothing flickers; the others follow when they come near.
  const redraw = () => {
    for (const shell of shells) {
      if (shell.classList.contains("filled")) fill(shell);
      else shell.style.minHeight = "";
    }
  };

  // --- filter and sort -------------------------------------------------------------------------------------------
  const value = (pair, key) => {
    if (key === "change") return pair.sides[current].change;
    const [side, name] = key.split(":");
    const [base, tuned] = [pair.sides[0].scores[column[name]], pair.sides[current].scores[column[name]]];
    if (side === "base") return base;
    if (side === "tuned") return tuned;
    return Cards.difference(base, tuned);
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
    for (const i of order) shells[i].hidden = !shown.has(i);
    if (order.some((i, at) => arranged[at] !== i)) $("pairs").append(...order.map((i) => shells[i]));
    arranged = order;
    $("empty").hidden = visible.length > 0;
    $("count").textContent = visible.length === pairs.length
      ? `${pairs.length} pairs` : `${visible.length} of ${pairs.length} pairs`;
    const names = key === "order" ? ["First to last", "Last to first"] : ["High first", "Low first"];
    $("direction-text").textContent = names[descending ? 0 : 1];
    $("direction").firstChild.textContent = descending ? "↓" : "↑";
    $("direction").setAttribute("aria-pressed", String(!descending));
    for (const preset of document.querySelectorAll(".presets button")) {
      const on = preset.dataset.sort === key && descending !== ("rising" in preset.dataset);
      preset.setAttribute("aria-pressed", String(on));
    }
  };

  const describe = () => {
    const { line, alarms } = models[current];
    $("verdict").textContent = models.length > 2 ? `${labels[current]}: ${line}` : line;
    $("alarms").hidden = !alarms.length;
    $("alarms").replaceChildren(...alarms.map((alarm) => Cards.element("li", { class: alarm.severity },
      Cards.element("b", {}, `${alarm.severity === "serious" ? "Serious" : "Warning"}: ${alarm.meaning}.`), ` ${alarm.text}`)));
  };

  const choose = (at) => {
    current = Math.min(Math.max(at, 1), models.length - 1);
    if ($("model")) $("model").value = String(current);
    describe();
    redraw();
    update();
  };

  $("controls").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["filter", "category", "sort"]) $(id)?.addEventListener("input", update);
  $("model")?.addEventListener("input", () => choose(Number($("model").value)));
  $("direction").addEventListener("click", () => { descending = !descending; update(); });
  for (const preset of document.querySelectorAll(".presets button")) {
    preset.addEventListener("click", () => {
      $("sort").value = preset.dataset.sort;
      descending = !("rising" in preset.dataset);
      update();
    });
  }
  $("all-scores").addEventListener("click", () => {
    const on = document.body.classList.toggle("all-scores");
    $("all-scores").setAttribute("aria-pressed", String(on));
  });
  $("strips")?.addEventListener("click", () => {
    strips = document.body.classList.toggle("strips");
    $("strips").setAttribute("aria-pressed", String(strips));
    redraw();
  });

  // --- full-screen view ------------------------------------------------------------------------------------------
  const viewer = $("viewer");
  const stage = $("stage");
  let position = 0;

  const show = (at) => {
    position = Math.min(Math.max(at, 0), visible.length - 1);
    const pair = pairs[visible[position]];
    for (const [kind, index] of [["base", 0], ["tuned", current]]) {
      const [image, side] = [$(`viewer-${kind}`), pair.sides[index]];
      if (side.full) image.src = side.full;
      else image.removeAttribute("src");
      image.alt = side.full ? `${labels[index]}: ${pair.prompt}` : `${labels[index]}: picture missing`;
      image.width = pair.width;
      image.height = pair.height;
      $(`caption-${kind}`).textContent = labels[index];
    }
    stage.style.setProperty("--ratio", pair.width / pair.height);
    $("film").style.setProperty("--count", models.length);
    $("film").replaceChildren(...(stage.dataset.mode === "strip" ? Cards.film(pair, dimensions, models, current, true) : []));
    $("film").querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
    $("viewer-prompt").textContent = `${pair.prompt} ${pair.member}`.trim();
    $("viewer-position").textContent = `${position + 1} of ${visible.length}`;
    const names = [labels[0], labels[current]];
    $("viewer-scores").replaceChildren(Cards.scores(pair, dimensions, names, current), ...Cards.errors(pair, labels, [0, current]));
    if (models.length > 2) $("viewer-scores").querySelector("thead").classList.remove("visually-hidden");
    $("previous").disabled = position === 0;
    $("next").disabled = position === visible.length - 1;
    const next = pairs[visible[position + 1]];
    if (next) for (const index of [0, current]) if (next.sides[index].full) new Image().src = next.sides[index].full;
    try { history.replaceState(null, "", `#pair-${pair.id}`); } catch { /* some viewers forbid it */ }
  };

  const open = (i) => {
    show(visible.indexOf(i));
    if (!viewer.open) viewer.showModal();
    $("viewer-close").focus({ focusVisible: false });
  };

  const mode = (name) => {
    stage.dataset.mode = name;
    for (const button of document.querySelectorAll(".modes button")) {
      button.setAttribute("aria-pressed", String(button.dataset.mode === name));
    }
    show(position);
  };
  const toggle = (name) => mode(stage.dataset.mode === name ? "side" : name);

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
  for (const button of document.querySelectorAll(".modes button")) button.addEventListener("click", () => mode(button.dataset.mode));
  $("split").addEventListener("input", () => split(Number($("split").value)));
  // A finger that moves across goes to the next pair, unless it moves the slider or the strip.
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
  const keys = {
    ArrowLeft: () => show(position - 1),
    ArrowRight: () => show(position + 1),
    ArrowUp: () => models.length > 2 && (choose(current - 1), show(position)),
    ArrowDown: () => models.length > 2 && (choose(current + 1), show(position)),
    Home: () => show(0),
    End: () => show(visible.length - 1),
  };
  // On the document: a page opened at #pair-... may have moved the focus out of the dialog.
  document.addEventListener("keydown", (event) => {
    if (!viewer.open || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key.toLowerCase() === "s") toggle("slider");
    else if (event.key.toLowerCase() === "p" && models.length > 2) toggle("strip");
    else if (event.key in keys && document.activeElement !== $("split")) {
      keys[event.key]();
      event.preventDefault();
    }
  });
  viewer.addEventListener("close", () => {
    const shell = shells[visible[position]];
    shell.scrollIntoView({ block: "nearest" });
    if (!shell.classList.contains("filled")) fill(shell);
    shell.querySelector(".shots").focus({ preventScroll: true });
    try { history.replaceState(null, "", location.pathname + location.search); } catch { /* as above */ }
  });

  choose(current);
  for (const i of visible.slice(0, 6)) fill(shells[i]);
  for (const shell of shells) near.observe(shell);
  const linked = pairs.findIndex((pair) => location.hash === `#pair-${pair.id}`);
  if (linked >= 0) open(linked);
})();
