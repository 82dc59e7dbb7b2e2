"use strict";

// Sorting: a heading's button sorts its column upwards, then downwards; cells without a value stay last.
for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const sign = heading.ariaSort === "ascending" ? -1 : 1;
    const body = heading.closest("table").tBodies[0];
    const key = (row) => row.cells[heading.cellIndex].dataset.value;
    const order = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      return sign * (isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y);
    };
    body.append(...[...body.rows].sort(order));
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.ariaSort = sign > 0 ? "ascending" : "descending";
  });
}

// Enlarging: a picture in a dialog; Escape, the button or a click beside the picture closes it.
const dialog = document.querySelector("dialog");
for (const button of document.querySelectorAll(".enlarge")) {
  button.addEventListener("click", () => {
    const image = button.querySelector("img");
    const frame = dialog.querySelector(".enlarged");
    frame.className = `${button.className.replace("enlarge", "")} enlarged`;
    frame.replaceChildren(image.cloneNode());
    dialog.querySelector("p").textContent = image.alt;
    dialog.showModal();
  });
}
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());

// The explorer: the controls choose a cell and a step of it, which is drawn from the cell's sprites.
function explore(section, data) {
  const form = section.querySelector("form");
  const { family, stop, eta, step, view, play } = form.elements;
  const make = (parent, tag, properties) => parent.appendChild(Object.assign(document.createElement(tag), properties));

  const tiles = section.querySelector(".tiles-of-samples");
  const canvases = Array.from({ length: data.samples }, () =>
    make(tiles, "canvas", { width: data.width, height: data.height }),
  );
  const scales = data.metrics.map((metric, k) => {
    const scale = make(section.querySelector(".scales"), "div", { className: "scale" });
    make(scale, "span", { textContent: metric });
    const value = make(scale, "b");
    const track = make(scale, "div", { className: "track" });
    const mark = (className, at) => (make(track, "i", { className }).style.left = `${at}%`);
    for (const { numbers } of data.cells) if (numbers[k].at !== null) mark("", numbers[k].at);
    const floor = make(track, "i", { className: "floor" });
    const here = make(track, "i", { className: "here" });
    const said = make(scale, "small");
    return { value, said, floor, here };
  });
  for (const cell of data.cells) {
    for (const name of ["x", "x0"]) cell[name] = Object.assign(new Image(), { src: cell[name] });
  }

  // What was asked for. Not every stop has every eta, so the slider shows the nearest one; the wish stays.
  const start = data.cells[data.start];
  const wish = { family: start.family, stop: start.stop, eta: start.eta, progress: 1 };
  let shown = start;
  const among = (family) => data.cells.filter((cell) => cell.family === family).sort((a, b) => a.stop - b.stop || a.eta - b.eta);
  const nearest = (values, wanted) =>
    values.reduce((best, value, k) => (Math.abs(value - wanted) < Math.abs(values[best] - wanted) ? k : best), 0);

  function slide(slider, labels, position, said) {
    slider.max = labels.length - 1;
    slider.value = position;
    slider.disabled = labels.length < 2;
    slider.setAttribute("aria-valuetext", said);
    slider.parentElement.querySelector("output").textContent = said;
    const ticks = slider.parentElement.querySelector(".ticks");
    ticks.replaceChildren();
    const every = Math.ceil(labels.length / 12);
    labels.forEach((label, k) => make(ticks, "span", { textContent: k % every ? "" : label }));
  }

  function draw(sprite, row) {
    const [w, h] = [data.width, data.height];
    canvases.forEach((canvas, k) => canvas.getContext("2d").drawImage(sprite, k * w, row * h, w, h, 0, 0, w, h));
  }

  function show() {
    const cells = among(wish.family);
    const stops = cells.filter((cell, k) => k === 0 || cell.stop !== cells[k - 1].stop);
    const here = cells.filter((cell) => cell.stop === wish.stop);
    const k = nearest(here.map((cell) => cell.eta), wish.eta);
    shown = here[k];
    const at = Math.round(wish.progress * (shown.steps.length - 1));
    const [t, p] = shown.steps[at];
    family.value = wish.family;
    slide(stop, stops.map((cell) => cell.nfe), wish.stop, shown.tau ? `${shown.nfe} (${shown.tau})` : `${shown.nfe}`);
    slide(eta, here.map((cell) => cell.eta), k, `${shown.eta}`);
    slide(step, shown.steps.map(([t]) => t), at, `t = ${t} → ${p < 0 ? "data" : p}`);

    const sprite = shown[view.value];
    if (sprite.complete) draw(sprite, at);
    else sprite.onload = show; // of whatever is chosen by then
    const what = view.value === "x" ? `x after the step t = ${t} → ${p < 0 ? "data" : p}` : `x0 predicted at t = ${t}`;
    tiles.setAttribute("aria-label", `${data.samples} samples of ${shown.caption}: ${what}`);
    section.querySelector(".says").textContent = `${shown.caption}: ${what}`;
    scales.forEach(({ value, said, floor, here }, k) => {
      const number = shown.numbers[k];
      value.textContent = number.value;
      said.textContent = `floor ${number.floor}`;
      for (const [mark, at] of [[floor, number.floor_at], [here, number.at]]) {
        mark.hidden = at === null;
        mark.style.left = `${at}%`;
      }
    });
  }

  form.addEventListener("input", (event) => {
    if (event.target.name === "family") {
      wish.family = Number(family.value);
      const cells = among(wish.family);
      wish.stop = cells[nearest(cells.map((cell) => cell.nfe), shown.nfe)].stop;
    } else if (event.target.name === "stop") wish.stop = Number(stop.value);
    else if (event.target.name === "eta") wish.eta = among(wish.family).filter((cell) => cell.stop === wish.stop)[eta.value].eta;
    else if (event.target.name === "step") wish.progress = step.value / Math.max(1, step.max);
    show();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const link of document.querySelectorAll("[data-cell]")) {
    link.addEventListener("click", () => {
      const { family, stop, eta } = data.cells.find((cell) => cell.name === link.dataset.cell);
      Object.assign(wish, { family, stop, eta });
      show();
    });
  }

  // Playing: from where the step stands, or from the start; the button again or any control stops it.
  let playing = 0;
  function pause() {
    clearInterval(playing);
    playing = 0;
    play.textContent = "Play the steps";
  }
  function advance(by) {
    const last = Math.max(1, shown.steps.length - 1);
    wish.progress = Math.min(1, (Math.round(wish.progress * last) + by) / last);
    if (wish.progress === 1) pause();
    show();
  }
  form.addEventListener("input", pause);
  play.addEventListener("click", () => {
    if (playing) return pause();
    if (wish.progress === 1) wish.progress = 0;
    play.textContent = "Pause";
    playing = setInterval(advance, 250, 1);
    advance(0);
  });

  show();
  section.hidden = false;
}

const section = document.getElementById("explorer");
if (section) explore(section, JSON.parse(document.getElementById("explorer-data").textContent));
