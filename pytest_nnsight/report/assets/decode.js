// Read the rows and numbers from the columns and maps of a report.

const TEXTS = ["path", "class", "part", "output", "shape", "state"]; // stored as indices into words

function moduleRows(modules, words) {
  return modules.path.map((_, index) => {
    const row = { index };
    for (const [name, column] of Object.entries(modules)) row[name] = TEXTS.includes(name) ? words[column[index]] : column[index];
    row.label = row.visit ? `${row.path}#${row.visit}` : row.path;
    return row;
  });
}

function mapBytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

const DECADES = { drift: [-9, 1], norm: [-4, 8] };

function byteValue(byte, what) {
  if (byte === 255) return null;
  if (byte === 0) return 0;
  const [low, high] = DECADES[what];
  return 10 ** (low + ((byte - 1) / 253) * (high - low));
}

function layerOf(path) {
  const found = /^(\D*\.(\d+))(?:\.|$)/.exec(path);
  return found ? { path: found[1], number: found[2] } : null;
}
