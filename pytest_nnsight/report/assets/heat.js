// A map of token by layer, with one cell for each token of each layer.

function heatMap(map, what) {
  const bytes = mapBytes(map[what]);
  const columns = map.tokens.length;
  const count = map.rows.length;
  const numbers = [...bytes].filter((byte) => byte > 0 && byte < 255);
  const low = numbers.length ? Math.min(...numbers) : 1;
  const high = numbers.length ? Math.max(...numbers) : 254;
  const canvas = el("canvas", {
    width: columns, height: count, tabindex: "0", role: "img",
    "aria-label": `${what} of ${columns} tokens in ${count} layers; arrow keys move from cell to cell`,
    onpointermove: (event) => point(cellAt(event)),
    onkeydown: move,
  });
  const readout = el("output", { class: "mono", "aria-live": "polite" });
  let cell = { row: 0, column: 0 };

  function paint() {
    const style = getComputedStyle(document.documentElement);
    const [from, to, hole, ground] = ["--low", "--high", "--hole", "--ground"].map((name) => rgb(style.getPropertyValue(name)));
    const context = canvas.getContext("2d");
    const image = context.createImageData(columns, count);
    bytes.forEach((byte, index) => {
      const share = (byte - low) / Math.max(1, high - low);
      const colour = byte === 0 ? ground : byte === 255 ? hole : from.map((c, i) => c + share * (to[i] - c));
      image.data.set([...colour.map(Math.round), 255], index * 4);
    });
    context.putImageData(image, 0, 0);
  }

  function cellAt(event) {
    const box = canvas.getBoundingClientRect();
    const share = (at, from, length, n) => Math.max(0, Math.min(n - 1, Math.floor(((at - from) / length) * n)));
    return { row: share(event.clientY, box.top, box.height, count), column: share(event.clientX, box.left, box.width, columns) };
  }

  function move(event) {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    point({
      row: Math.max(0, Math.min(count - 1, cell.row + step[0])),
      column: Math.max(0, Math.min(columns - 1, cell.column + step[1])),
    });
  }

  function point(to) {
    cell = to;
    const value = byteValue(bytes[cell.row * columns + cell.column], what);
    const text = value === null ? "not compared" : value === 0 ? (what === "drift" ? "same" : "0") : size(value);
    const tokens = map.each > 1 ? `tokens ${cell.column * map.each} to ${(cell.column + 1) * map.each - 1}` : `token ${cell.column}`;
    readout.value = `${map.rows[cell.row]}, ${tokens} \u201c${map.tokens[cell.column]}\u201d: ${text}`;
  }

  const height = Math.max(60, Math.min(420, count * 13));
  canvas.style.height = `${height}px`;
  const each = Math.ceil(count / Math.floor(height / 12));
  const longest = innerWidth < 640 ? 13 : 24;
  const labels = el("div", { class: "labels", "aria-hidden": "true" }, map.rows.map((name, index) => (
    index % each ? null : el("span", { style: `top:${((index + 0.5) / count) * 100}%` }, name.length > longest ? `\u2026${name.slice(1 - longest)}` : name)
  )));
  const texts = columns > 40 ? null : el("div", { class: "columns", "aria-hidden": "true" }, map.tokens.map((text) => el("span", {}, text)));
  paint();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  point(cell);
  const scale = numbers.length ? el("p", { class: "faint" }, size(byteValue(low, what)), el("span", { class: "ramp" }), size(byteValue(high, what)), " on a logarithmic scale; grey was not compared") : null;
  return el("div", {}, el("div", { class: "heat" }, labels, canvas, texts), readout, scale);
}

function rgb(text) {
  const hex = text.trim().slice(1);
  return [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16));
}
