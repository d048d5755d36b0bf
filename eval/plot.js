// The numbers of a plot under the pointer, or under the arrow keys once the plot has the focus.
function readPlots(root) {
  for (const svg of root.querySelectorAll("svg.lines")) readPlot(svg);
}

function readPlot(svg) {
  const lines = [...svg.querySelectorAll("path[data-x]")].map((path) => {
    const places = path.getAttribute("d").match(/[-\d.]+/g).map(Number);
    const [heads, told] = ["x", "y"].map((name) => path.dataset[name].split("|"));
    const tone = [...path.classList].find((name) => name.startsWith("tone-"));
    return { name: path.dataset.name, tone, heads, told, x: heads.map((_, index) => places[2 * index]) };
  });
  if (!lines.length) return;
  const stops = [...new Set(lines.flatMap((line) => line.x))].sort((one, two) => one - two);
  const values = svg.parentElement.appendChild(document.createElement("div"));
  values.className = "values";
  values.setAttribute("aria-live", "polite");
  const cursor = svg.appendChild(document.createElementNS(svg.namespaceURI, "path"));
  cursor.setAttribute("class", "cursor");
  const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
  let stop = -1;

  const nearest = (all, x) => all.reduce((best, one, index) => (Math.abs(one - x) < Math.abs(all[best] - x) ? index : best), 0);

  function show(index) {
    stop = index;
    values.replaceChildren();
    cursor.setAttribute("d", index < 0 ? "" : `M${stops[index]} 0V${height - 24}`);
    if (index < 0) return;
    values.style.left = stops[index] < width / 2 ? `${(100 * stops[index]) / width + 2}%` : "";
    values.style.right = stops[index] < width / 2 ? "" : `${100 - (100 * stops[index]) / width + 2}%`;
    let head = "";
    for (const line of lines) {
      const point = nearest(line.x, stops[index]);
      if (line.heads[point] !== head) values.append(Object.assign(document.createElement("strong"), { textContent: head = line.heads[point] }));
      const row = values.appendChild(document.createElement("div"));
      row.className = line.tone;
      row.append(document.createElement("i"), line.name, Object.assign(document.createElement("b"), { textContent: line.told[point] }));
    }
  }

  svg.tabIndex = 0;
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    show(nearest(stops, ((event.clientX - box.left) / box.width) * width));
  });
  svg.addEventListener("pointerleave", () => show(-1));
  svg.addEventListener("blur", () => show(-1));
  svg.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    show(Math.min(Math.max(stop < 0 ? (by < 0 ? stops.length : -1) + by : stop + by, 0), stops.length - 1));
  });
}
