// The list of tests, and the grid of tests by version or model.

function testList(session, at, order) {
  const body = el("tbody", {});
  const verdicts = [...new Set(session.tests.map((test) => test.verdict))];
  const filter = el("input", { type: "search", id: "filter", oninput: show, spellcheck: "false" });
  const verdict = el("select", { id: "verdict", onchange: show }, el("option", { value: "" }, "all"), verdicts.map((name) => el("option", { value: name }, name)));
  const sort = el("select", { id: "sort", onchange: show }, ["worst first", "in order of execution", "slowest first", "by name"].map((name) => el("option", {}, name)));
  const count = el("span", { class: "faint", role: "status" });
  const orders = {
    "worst first": (a, b) => order.indexOf(b.verdict) - order.indexOf(a.verdict),
    "in order of execution": () => 0,
    "slowest first": (a, b) => b.seconds - a.seconds,
    "by name": (a, b) => (a.test < b.test ? -1 : 1),
  };

  function show() {
    const query = filter.value.toLowerCase();
    const shown = session.tests.filter((test) => (
      `${test.test} ${test.message} ${goldenOf(test, order).start || ""}`.toLowerCase().includes(query) && (!verdict.value || test.verdict === verdict.value)
    )).sort(orders[sort.value]);
    body.replaceChildren(...shown.map(line));
    count.textContent = `${shown.length} of ${session.tests.length} tests`;
  }

  function line(test) {
    const golden = goldenOf(test, order);
    const amount = golden.kind === "values" ? `${size(golden.rel)} (allowed ${size(golden.allowed)})` : golden.change || (golden.noise ? size(golden.noise) : "");
    const cause = golden.cause ? `${golden.is_certain ? "" : "likely "}${golden.cause}` : golden.start ? "" : test.message;
    return el("tr", { "data-test": test.test },
      el("td", {}, verdictChip(test.verdict)),
      el("td", { class: "name" }, el("a", { href: linkTo(at, test.test) }, breakable(test.test))),
      el("td", { class: "name mono" }, golden.start || ""), el("td", {}, amount), el("td", { class: "name" }, cause),
      el("td", { class: "number" }, test.seconds === null ? "" : `${test.seconds} s`));
  }

  show();
  const heads = ["verdict", "test", "starts at", "size", "cause", "time"].map((name) => el("th", { scope: "col" }, name));
  const table = el("table", {}, el("thead", {}, el("tr", {}, heads)), body);
  const tools = el("div", { class: "tools" }, el("label", {}, "Filter tests", filter), el("label", {}, "Verdict", verdict), el("label", {}, "Sort", sort), count);
  return el("section", { "aria-label": "Tests" }, el("h2", {}, "Tests"), session.tests.length > 1 ? tools : null, scrollBox("Table of tests", table));
}

// The worst comparison of a test.
function goldenOf(test, order) {
  const rank = (golden) => order.indexOf(golden.verdict);
  return test.goldens.reduce((worst, golden) => (!worst || rank(golden) > rank(worst) ? golden : worst), null) || {};
}

function linkTo(at, test) {
  return `#session=${at}&test=${encodeURIComponent(test)}`;
}

function testGrid(grid) {
  const heads = [el("th", { scope: "col" }, "test"), ...grid.columns.map((name) => el("th", { scope: "col" }, breakable(name)))];
  const rows = grid.rows.map((row) => el("tr", {},
    el("th", { scope: "row" }, breakable(row.name)),
    row.cells.map((cell) => el("td", {}, cell ? verdictChip(cell.verdict, cell.test === null ? {} : { href: linkTo(cell.session, cell.test), "aria-label": `${cell.verdict}: ${row.name}` }) : ""))));
  return el("section", { "aria-label": "Grid" }, el("h2", {}, grid.title),
    scrollBox("Table of tests and verdicts", el("table", { class: "grid" }, el("thead", {}, el("tr", {}, heads)), el("tbody", {}, rows))));
}
