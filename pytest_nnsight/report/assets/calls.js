// The table of modules: drift, and statistics of both runs.

const STATISTICS = ["mean", "std", "min", "max", "rms"];
const COLUMNS = [
  ["module", (row) => row.label], ["class", (row) => row.class], ["output", (row) => `${row.output} ${row.shape}`],
  ["state", (row) => row.state], ["drift", (row) => row.rel, true], ["worst token", (row) => row.worst, true],
  ["allowed", (row) => row.allowed, true],
  ...STATISTICS.map((name, at) => [name, (row) => row.then && row.then[at], true, at]),
];

function callsTable(rows, isCompared) {
  const columns = isCompared ? COLUMNS : COLUMNS.filter(([name]) => !["state", "drift", "worst token", "allowed"].includes(name));
  const body = el("tbody", {});
  let order = { at: null, down: true };
  const filter = el("input", { type: "search", oninput: show, spellcheck: "false" });
  const only = el("input", { type: "checkbox", onchange: show });
  const count = el("span", { class: "faint", role: "status" });
  const heads = columns.map(([name], at) => {
    const head = el("th", { scope: "col" }, el("button", { type: "button", onclick: () => sort(at) }, name));
    return head;
  });

  function sort(at) {
    order = { at, down: order.at === at ? !order.down : Boolean(columns[at][2]) };
    heads.forEach((head, index) => {
      if (index === at) head.setAttribute("aria-sort", order.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    show();
  }

  function show() {
    const query = filter.value.toLowerCase();
    let shown = rows.filter((row) => `${row.label} ${row.class}`.toLowerCase().includes(query));
    if (only.checked) shown = shown.filter((row) => row.state === "drift" || row.state === "structure");
    if (order.at !== null) {
      const read = columns[order.at][1];
      const isNumber = columns[order.at][2];
      const key = (row) => (isNumber ? (read(row) === null ? -Infinity : Number(read(row))) : read(row));
      shown = [...shown].sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : a.index - b.index) * (order.down ? -1 : 1));
    }
    body.replaceChildren(...shown.map(line));
    count.textContent = `${shown.length} of ${rows.length} modules`;
  }

  function line(row) {
    return el("tr", { "data-path": row.path }, columns.map(([name, read, isNumber, at]) => {
      if (at !== undefined) return el("td", { class: "number" }, shift(row, at));
      if (name === "module") return el("td", { class: "path mono" }, row.label, row.visits > 1 ? el("span", { class: "faint" }, ` of ${row.visits} visits`) : null);
      if (name === "state") return el("td", {}, verdictChip(read(row)));
      return el("td", { class: isNumber ? "number" : "" }, isNumber ? size(read(row)) : String(read(row) ?? ""));
    }));
  }

  function shift(row, at) {
    if (!row.then) return "";
    const then = short(row.then[at]);
    const now = row.now ? short(row.now[at]) : then;
    return then === now ? then : el("span", { class: "shift" }, `${then} \u2192 ${now}`);
  }

  function select(path) {
    filter.value = "";
    only.checked = false;
    show();
    body.querySelectorAll("tr.here").forEach((row) => row.classList.remove("here"));
    const found = [...body.children].find((row) => row.dataset.path === path);
    if (!found) return;
    found.classList.add("here");
    found.tabIndex = -1;
    found.focus({ preventScroll: true });
    found.scrollIntoView({ block: "center" });
  }

  show();
  const table = el("table", {}, el("thead", {}, el("tr", {}, heads)), body);
  const tools = el("div", { class: "tools" }, el("label", {}, "Filter modules", filter), isCompared ? el("label", { class: "inline" }, only, "only modules that drift") : null, count);
  return { element: el("div", {}, tools, scrollBox("Modules", table)), select };
}
