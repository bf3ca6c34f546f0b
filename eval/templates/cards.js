"use strict";
// Cards of the gallery as elements. Prompts and errors are only ever text: nothing here parses HTML.
const Cards = (() => {
  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };

  // As the report prints them: a true minus sign, no signed zero, a dash for what is missing.
  const text = (value, digits) => (value === null ? "–" : value.toFixed(digits).replace("-", "−"));
  const signed = (value, digits) => {
    if (value === null) return "–";
    const size = Math.abs(value).toFixed(digits);
    return Number(size) === 0 ? size : (value > 0 ? "+" : "−") + size;
  };
  const difference = (base, tuned) => (base === null || tuned === null ? null : tuned - base);

  const tone = (d, value) => {
    if (value === null || d.neutral || Number(value.toFixed(d.digits)) === 0) return "flat";
    return value > 0 ? "up" : "down";
  };

  const picture = (side, pair, label, kind) => {
    const shot = element("span", { class: `shot ${kind}` });
    if (side.image) {
      shot.append(element("img", {
        src: side.image, width: pair.width, height: pair.height, alt: `${label}: ${pair.prompt}`,
        loading: "lazy", decoding: "async",
      }));
    } else {
      shot.style.aspectRatio = `${pair.width} / ${pair.height}`;
      shot.append(element("span", { class: "gone small" }, "picture missing"));
    }
    shot.append(element("span", { class: "tag" }, label));
    return shot;
  };

  // Scores of two sides and their difference.
  const scores = (pair, dimensions, labels, at) => {
    const [base, tuned] = [pair.sides[0], pair.sides[at]];
    const head = element("tr", {}, ...["Score", ...labels, "Difference"].map((name) => element("th", { scope: "col" }, name)));
    const rows = dimensions.map((d, k) => {
      const [x, y] = [base.scores[k], tuned.scores[k]];
      const delta = difference(x, y);
      return element("tr", { class: d.role + (d.extra ? " extra" : "") },
        element("th", { scope: "row" }, d.label), element("td", {}, text(x, d.digits)), element("td", {}, text(y, d.digits)),
        element("td", { class: `delta ${tone(d, delta)}` }, signed(delta, d.digits)));
    });
    return element("table", { class: "scores" }, element("thead", { class: "visually-hidden" }, head), element("tbody", {}, ...rows));
  };

  const errors = (pair, labels, ats) => {
    const found = ats.filter((at) => pair.sides[at].error).map((at) => `${labels[at]}: ${pair.sides[at].error}`);
    return found.length ? [element("p", { class: "error small" }, found.join("; "))] : [];
  };

  // All models of one noise in a row, each with its reward and how far that is from the reference's.
  const film = (pair, dimensions, models, current, full) => {
    const reward = dimensions[0];
    return pair.sides.map((side, at) => {
      const shot = picture(full ? { image: side.full } : side, pair, models[at].label, at === current ? "tuned" : at ? "" : "base");
      const delta = difference(pair.sides[0].scores[0], side.scores[0]);
      const figures = element("span", { class: "small figures" }, text(side.scores[0], reward.digits), " ");
      if (at) figures.append(element("span", { class: `delta ${tone(reward, delta)}` }, signed(delta, reward.digits)));
      return element("li", at === current ? { "aria-current": "true" } : {}, shot, figures);
    });
  };

  return { element, picture, scores, errors, film, difference };
})();
