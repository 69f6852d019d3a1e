// The module tree; the colour of a module shows the largest drift inside it.

function moduleTree(rows, onselect) {
  const root = { name: "<model>", children: new Map(), row: null, rel: 0 };
  for (const row of rows) {
    let node = root;
    if (row.path !== "<model>") {
      for (const name of row.path.split(".")) {
        if (!node.children.has(name)) node.children.set(name, { name, children: new Map(), row: null, rel: 0 });
        node = node.children.get(name);
      }
    }
    node.row = row;
  }
  const largest = gather(root);
  return el("div", { class: "tree mono" }, branch(root, largest, onselect, 0));
}

function gather(node) {
  const drift = node.row && node.row.rel !== null ? Number(node.row.rel) : 0;
  node.isStructure = Boolean(node.row && node.row.state === "structure");
  node.rel = drift;
  for (const child of node.children.values()) {
    node.rel = Math.max(node.rel, gather(child));
    node.isStructure ||= child.isStructure;
  }
  return node.rel;
}

function branch(node, largest, onselect, depth) {
  const share = node.rel > 0 ? Math.max(0.08, Math.min(1, 1 + Math.log10(Math.min(node.rel, largest) / largest) / 6)) : 0;
  const swatch = el("span", { class: "swatch", "aria-hidden": "true", style: node.rel > 0 ? `background:color-mix(in oklab, var(--high) ${Math.round(share * 100)}%, var(--low))` : "" });
  const drift = node.isStructure ? "structure" : node.rel > 0 ? size(node.rel) : "same";
  const parts = [swatch, node.name, node.row ? el("span", { class: "faint" }, ` ${node.row.class}`) : null, ` ${drift} `];
  const link = node.row ? el("button", { type: "button", onclick: () => onselect(node.row), "aria-label": `show ${node.row.path} in the table` }, "\u2192") : null;
  if (!node.children.size) return el("div", { class: "leaf" }, parts, link);
  const inner = [...node.children.values()].map((child) => branch(child, largest, onselect, depth + 1));
  return el("details", { open: depth < 2 }, el("summary", {}, parts), link ? el("div", { class: "leaf" }, link, " output of this module") : null, inner);
}
