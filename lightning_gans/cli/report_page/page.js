"use strict";

// Charts: show each line's last value up to the step under the pointer.
for (const figure of document.querySelectorAll("figure.chart")) {
  const svg = figure.querySelector("svg");
  const cursor = svg.querySelector(".cursor");
  const outputs = figure.querySelectorAll("output");
  const [step, ...values] = outputs;
  const lines = [...svg.querySelectorAll("[data-steps]")].map((path) => ({
    places: (path.getAttribute("d").match(/-?[\d.]+/g) ?? []).filter((_, k) => k % 2 === 0).map(Number),
    steps: path.dataset.steps.split(" "),
    values: path.dataset.values.split(" "),
  }));
  const show = (x) => {
    const all = lines.flatMap(({ places, steps }) => places.map((place, k) => [place, steps[k]]));
    const [place, text] = all.reduce((best, next) => (Math.abs(next[0] - x) < Math.abs(best[0] - x) ? next : best));
    step.textContent = text;
    cursor.setAttribute("transform", `translate(${place})`);
    lines.forEach((line, k) => {
      const last = line.places.findLastIndex((other) => other <= place);
      values[k].textContent = last < 0 ? "–" : line.values[last];
    });
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    show(((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width);
    figure.classList.add("pointed");
  });
  svg.addEventListener("pointerleave", () => {
    show(svg.viewBox.baseVal.width);
    figure.classList.remove("pointed");
  });
}

// Pictures: a slider over the steps, and a button that plays them.
for (const viewer of document.querySelectorAll("figure.viewer")) {
  const caption = viewer.querySelector("figcaption");
  if (!caption) continue;
  const pictures = viewer.querySelectorAll("img");
  const [button, slider, output] = caption.children;
  let timer = 0;
  const show = () => {
    pictures.forEach((picture, k) => (picture.hidden = k !== slider.valueAsNumber));
    output.textContent = pictures[slider.valueAsNumber].alt;
  };
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    button.classList.remove("playing");
  };
  const next = () => {
    slider.valueAsNumber = (slider.valueAsNumber + 1) % pictures.length;
    show();
    if (slider.valueAsNumber === pictures.length - 1) stop();
  };
  button.addEventListener("click", () => {
    if (timer) return stop();
    timer = setInterval(next, 500);
    button.classList.add("playing");
    next();
  });
  slider.addEventListener("input", () => {
    stop();
    show();
  });
  caption.hidden = false;
  show();
}
