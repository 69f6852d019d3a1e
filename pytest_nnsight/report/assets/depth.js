// Drift or norm of every module in order of execution, on a logarithmic scale.

const MARGIN = { left: 58, right: 12, top: 26, bottom: 34 };
const HEIGHT = 320;
const BAND = 16; // pixels below the scale for equal bits, above it for drift without a number

function markerPath(part, x, y, r) {
  if (part === "attention") return `M${x - r},${y}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`;
  if (part === "mlp") return `M${x - r},${y - r}h${2 * r}v${2 * r}h${-2 * r}z`;
  if (part === "norm") return `M${x},${y - r - 1}l${r},${r + 1}l${-r},${r + 1}l${-r},${-r - 1}z`;
  return `M${x},${y - r}l${r + 1},${2 * r}h${-2 * r - 2}z`;
}

function scaleOf(rows, what) {
  const read = (row) => (what === "drift" ? row.rel : row.then && row.then[4]);
  const numbers = rows.map(read).concat(what === "drift" ? rows.flatMap((r) => [r.allowed, r.noise]) : []);
  const finite = numbers.map(Number).filter((n) => n > 0 && Number.isFinite(n)).map(Math.log10);
  const low = finite.length ? Math.floor(Math.min(...finite)) : -7;
  const high = finite.length ? Math.ceil(Math.max(...finite)) : 0;
  return { read, low, high: Math.max(high, low + 1) };
}

function depthChart(rows, options) {
  const { what, start, onselect } = options;
  const { read, low, high } = scaleOf(rows, what);
  const holder = el("div", { class: "chart" });
  const readout = el("output", { class: "mono" });
  const slider = el("input", { class: "along",
    type: "range", min: 0, max: Math.max(0, rows.length - 1), value: 0,
    "aria-label": "Module, in order of execution",
    oninput: () => point(Number(slider.value)),
    onkeydown: (event) => { if (event.key === "Enter") onselect(rows[slider.value]); },
  });
  let geometry = null;
  let cursor = null;

  function y(number) {
    const { bottom, top } = geometry;
    const value = Number(number);
    if (number === null || number === undefined || Number.isNaN(value)) return null;
    if (value === 0) return bottom + BAND;
    if (value === Infinity) return top - BAND / 2;
    return bottom - ((Math.log10(value) - low) / (high - low)) * (bottom - top);
  }

  function x(index) {
    return geometry.left + ((index + 0.5) / Math.max(1, rows.length)) * geometry.width;
  }

  function draw() {
    const width = Math.max(280, holder.clientWidth || 900);
    geometry = {
      left: MARGIN.left, width: width - MARGIN.left - MARGIN.right, top: MARGIN.top, bottom: HEIGHT - MARGIN.bottom - BAND,
    };
    const drawing = svg("svg", {
      viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", height: HEIGHT, "aria-label": options.label,
      onpointermove: (event) => point(nearest(event)),
      onclick: (event) => onselect(rows[nearest(event)]),
    });
    drawing.append(...axis(), ...layers(), ...lines(), ...marks());
    cursor = svg("line", { class: "cursor", y1: geometry.top - BAND, y2: geometry.bottom + BAND, visibility: "hidden" });
    drawing.append(cursor);
    holder.replaceChildren(drawing);
    slider.style.marginLeft = `${MARGIN.left - 8}px`;
    slider.style.width = `${width - MARGIN.left - MARGIN.right + 16}px`;
  }

  function axis() {
    const found = [];
    for (let decade = low; decade <= high; decade += Math.max(1, Math.ceil((high - low) / 8))) {
      const at = y(10 ** decade);
      found.push(svg("line", { class: "axis", x1: geometry.left, x2: geometry.left + geometry.width, y1: at, y2: at }));
      found.push(svg("text", { x: geometry.left - 6, y: at + 4, "text-anchor": "end" }, decade ? `1e${decade}` : "1"));
    }
    if (what === "drift") {
      found.push(svg("text", { x: geometry.left - 6, y: y(0) + 4, "text-anchor": "end" }, "same"));
    }
    return found;
  }

  function layers() {
    const firsts = [];
    rows.forEach((row, index) => {
      const layer = layerOf(row.path);
      const last = firsts[firsts.length - 1];
      if (layer && (!last || last.path !== layer.path) && !firsts.some((f) => f.path === layer.path)) {
        firsts.push({ ...layer, index });
      }
    });
    const each = Math.ceil(firsts.length / Math.max(2, Math.floor(geometry.width / 45)));
    return firsts.filter((_, i) => i % each === 0).flatMap((layer) => [
      svg("line", { class: "axis", x1: x(layer.index) - 2, x2: x(layer.index) - 2, y1: geometry.bottom + BAND + 6, y2: geometry.bottom + BAND + 11 }),
      svg("text", { x: x(layer.index), y: HEIGHT - 6 }, layer.number),
    ]);
  }

  function lines() {
    if (what !== "drift") return [];
    const found = [];
    for (const name of ["allowed", "noise"]) {
      const drawn = rows.filter((row) => Number(row[name]) > 0);
      if (!drawn.length) continue;
      const path = drawn.map((row, i) => `${i ? "L" : "M"}${x(row.index).toFixed(1)},${y(row[name]).toFixed(1)}`);
      found.push(svg("path", { class: name, d: path.join("") }));
    }
    const first = rows.find((row) => row.path === start);
    if (first) {
      const at = x(first.index);
      const space = { left: at - geometry.left, right: geometry.left + geometry.width - at };
      const isLate = space.left > space.right;
      const text = `starts here: ${start}`;
      const fits = text.length * 7 < Math.max(space.left, space.right);
      found.push(svg("line", { class: "start", x1: at, x2: at, y1: geometry.top - 10, y2: geometry.bottom + BAND }));
      found.push(svg("text", { class: "start", x: at + (isLate ? -6 : 6), y: geometry.top - 12, "text-anchor": isLate ? "end" : "start" }, fits ? text : "starts here"));
    }
    return found;
  }

  function marks() {
    const radius = rows.length > 200 ? 2.2 : 3.5;
    const paths = {};
    for (const row of rows) {
      const at = row.state === "structure" && what === "drift" && row.rel === null ? geometry.top - BAND / 2 : y(read(row));
      if (at !== null) (paths[row.part] ||= []).push(markerPath(row.part, x(row.index), at, radius));
    }
    return Object.entries(paths).map(([part, found]) => svg("path", { class: part, d: found.join("") }));
  }

  function nearest(event) {
    const box = holder.firstChild.getBoundingClientRect();
    const share = (event.clientX - box.left - MARGIN.left) / (box.width - MARGIN.left - MARGIN.right);
    return Math.max(0, Math.min(rows.length - 1, Math.floor(share * rows.length)));
  }

  function point(index) {
    const row = rows[index];
    slider.value = index;
    slider.setAttribute("aria-valuetext", describe(row));
    readout.value = describe(row);
    if (!cursor) return;
    cursor.setAttribute("x1", x(index));
    cursor.setAttribute("x2", x(index));
    cursor.setAttribute("visibility", "visible");
  }

  function describe(row) {
    const norm = row.then ? `rms ${short(row.then[4])}` : "";
    if (what !== "drift") return `${row.label} (${row.class}, ${row.shape}): ${norm}`;
    const drift = row.rel === null ? row.state : `drift ${size(row.rel)}, worst token ${size(row.worst)}, allowed ${size(row.allowed)}`;
    return `${row.label} (${row.class}, ${row.shape}): ${drift}`;
  }

  new ResizeObserver(draw).observe(holder);
  draw();
  const first = rows.findIndex((row) => row.path === start);
  if (rows.length) point(Math.max(0, first));
  return el("div", {}, holder, slider, readout, key(rows, what));
}

function key(rows, what) {
  const parts = ["attention", "mlp", "norm", "other"].filter((part) => rows.some((row) => row.part === part));
  const items = parts.map((part) => el("li", {}, svg("svg", { viewBox: "0 0 26 14", "aria-hidden": "true" }, svg("path", { class: part, d: markerPath(part, 13, 7, 4.5) })), part === "mlp" ? "MLP" : part));
  if (what === "drift") {
    items.push(el("li", {}, "\u2013\u2009\u2013 allowed"));
    const isMeasured = rows.some((row) => Number(row.noise) > 0);
    items.push(el("li", {}, isMeasured ? "\u00b7\u00b7\u00b7 measured noise" : "noise was not measured (--nnsight-calibrate)"));
  }
  return el("ul", { class: "key" }, items);
}
