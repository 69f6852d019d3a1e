// Draw the grid, the list of tests, and the one test that the address names.

const view = JSON.parse(document.getElementById("report").textContent);
const main = document.getElementById("content");
const listHolder = el("div", {});
const testHolder = el("div", {});

function addressed() {
  const parameters = new URLSearchParams(location.hash.slice(1));
  const at = Math.max(0, Math.min(view.sessions.length - 1, Number(parameters.get("session")) || 0));
  return { at, name: parameters.get("test") };
}

function route() {
  const { at, name } = addressed();
  const session = view.sessions[at];
  if (!session) return;
  if (listHolder.dataset.at !== String(at)) {
    listHolder.dataset.at = String(at);
    listHolder.replaceChildren(...listOf(session, at));
  }
  const test = session.tests.find((each) => each.test === name) || (name ? null : worstOf(session));
  listHolder.querySelectorAll("tr[data-test]").forEach((row) => row.classList.toggle("here", Boolean(test) && row.dataset.test === test.test));
  testHolder.replaceChildren(test ? testSection(test, at) : el("p", {}, name ? `This report has no test ${name}.` : ""));
  if (name && test) testHolder.querySelector("h2").scrollIntoView();
}

function listOf(session, at) {
  const found = [];
  if (session.label) found.push(el("h2", {}, session.label));
  if (session.failure) found.push(el("p", { class: "message bad" }, session.failure));
  if (session.tests.length && !view.is_golden) found.push(testList(session, at, view.order));
  if (session.structure.length) found.push(structureSection(session.structure, at));
  for (const [title, lines] of [["Could not be collected", session.errors], ["Did not run", session.not_run]]) {
    if (lines.length) found.push(el("h2", {}, title), el("ul", { class: "mono" }, lines.map((text) => el("li", {}, text))));
  }
  return found;
}

// Each change of the structure once, with links to its tests.
function structureSection(changes, at) {
  return el("section", { "aria-label": "Structure" }, el("h2", {}, "Structure only, all values equal"), changes.map((change) => el("details", {},
    el("summary", {}, `${change.change}, first at ${change.start} (${change.evidence}), ${change.tests.length} test${change.tests.length > 1 ? "s" : ""}${change.is_accepted ? ", accepted" : ""}`),
    el("ul", { class: "mono" }, change.tests.map((name) => el("li", {}, el("a", { href: linkTo(at, name) }, breakable(name))))))));
}

function worstOf(session) {
  const rank = (test) => view.order.indexOf(test.verdict);
  return session.tests.reduce((worst, test) => (!worst || rank(test) > rank(worst) ? test : worst), null);
}

function testSection(test, at) {
  const found = el("section", { "aria-label": "One test" },
    el("h2", {}, verdictChip(test.verdict), " ", el("a", { href: linkTo(at, test.test) }, breakable(test.test))));
  if (test.message) found.append(el("p", { class: `message mono ${toneOf(test.verdict)}` }, test.message));
  if (test.hint) found.append(el("p", { class: "message noise" }, test.hint));
  if (test.command) found.append(el("p", {}, "Run it again: ", el("code", {}, test.command)));
  if (test.command && ["drift", "structure", "missing"].includes(test.verdict)) {
    found.append(el("p", {}, "If this is right: ", el("code", {}, `${test.command} --snapshot-update`)));
  }
  for (const golden of test.goldens) found.append(...goldenParts(golden, test.goldens.length > 1));
  if (test.text) {
    found.append(el("details", { open: ["hung", "crashed"].includes(test.verdict) }, el("summary", {}, "Output of pytest, with the stack"), el("pre", { tabindex: "0" }, test.text)));
  }
  return found;
}

const NOTES = {
  tie: "Another token in a near tie, later calls not compared",
  differ: "Within tolerance, but not equal bit by bit",
  unchecked: "Not checked bit by bit, because the environment differs from the golden's",
};

function goldenParts(golden, isOneOfMany) {
  const found = [];
  if (isOneOfMany) found.push(el("h3", {}, verdictChip(golden.verdict), " ", golden.golden));
  else if (!view.is_golden) found.push(el("p", { class: "faint mono" }, golden.golden));
  for (const name of ["tie", "differ", "unchecked"]) {
    if (golden[name]) found.push(el("p", { class: "message noise" }, `${NOTES[name]}: ${golden[name]}`));
  }
  const detail = golden.detail;
  if (!detail) {
    if (golden.left_out) found.push(el("p", { class: "faint" }, "Its details are left out to keep this page small; the JSON report has them."));
    return found;
  }
  const rows = moduleRows(detail.modules, view.words);
  const isCompared = detail.now !== null;
  const calls = callsTable(rows, isCompared);
  const onselect = (row) => calls.select(row.path);
  const hasDrift = isCompared && rows.some((row) => Number(row.rel) > 0 || row.state === "structure");
  found.push(el("p", { class: "faint" }, `${detail.kind} of ${detail.model.spec} (${detail.model.class}), ${detail.calls} calls`), promptText(detail.prompt));
  found.push(chartSwitch(isCompared, hasDrift, (what) => charts(what, rows, detail, golden, onselect)));
  if (detail.generated) found.push(el("h3", {}, "Generated text"), generatedText(detail.generated));
  found.push(el("h3", {}, "Modules"), calls.element);
  found.push(el("details", {}, el("summary", {}, "Module tree"), moduleTree(rows, onselect)));
  found.push(el("details", { open: golden.verdict !== "same" }, el("summary", {}, isCompared ? "Versions and settings of the golden and of this session" : "Versions and settings"), settingsTable(detail.then, detail.now, detail.config)));
  return found;
}

function promptText(text) {
  const quoted = el("p", { class: "mono" }, `\u201c${text}\u201d`);
  return text.length > 300 ? el("details", {}, el("summary", {}, "The prompt"), quoted) : quoted;
}

let switchCount = 0;

function chartSwitch(isCompared, hasDrift, make) {
  const holder = el("div", {});
  const name = `what-${(switchCount += 1)}`;
  const first = hasDrift ? "drift" : "norm";
  const choice = (value, text) => el("label", { class: "inline" }, el("input", { type: "radio", name, value, checked: value === first, onchange: () => holder.replaceChildren(make(value)) }), text);
  holder.append(make(first));
  const choices = el("fieldset", {}, el("legend", {}, "Show"), el("div", { class: "tools" }, choice("drift", "drift"), choice("norm", "norms of the golden")));
  return el("div", {}, isCompared ? choices : null, holder);
}

function charts(what, rows, detail, golden, onselect) {
  const title = what === "drift" ? "Drift over depth" : "Root mean square over depth";
  const label = what === "drift" && golden.start ? `${title}: starts at ${golden.start}` : title;
  const maps = detail.maps.filter((map) => map[what]);
  return el("div", {},
    el("h3", {}, title), depthChart(rows, { what, label, start: golden.where || "", onselect }),
    maps.length ? el("h3", {}, what === "drift" ? "Drift, token by layer" : "Norms, token by layer") : null,
    maps.map((map) => heatMap(map, what)));
}

if (view.grid) main.append(testGrid(view.grid));
main.append(listHolder, testHolder);
addEventListener("hashchange", route);
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
route();
