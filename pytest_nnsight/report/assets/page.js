// What the address asks for -> the grid, the list, and one test with all that is known of it.

const view = JSON.parse(document.getElementById("report").textContent);
const main = document.getElementById("content");
const listHolder = el("div", {});
const testHolder = el("div", {});

function wish() {
  const given = new URLSearchParams(location.hash.slice(1));
  const at = Math.max(0, Math.min(view.trials.length - 1, Number(given.get("trial")) || 0));
  return { at, name: given.get("test") };
}

function route() {
  const { at, name } = wish();
  const trial = view.trials[at];
  if (!trial) return;
  if (listHolder.dataset.at !== String(at)) {
    listHolder.dataset.at = String(at);
    listHolder.replaceChildren(...listOf(trial, at));
  }
  const test = trial.tests.find((each) => each.test === name) || (name ? null : worstOf(trial));
  listHolder.querySelectorAll("tr[data-test]").forEach((row) => row.classList.toggle("here", Boolean(test) && row.dataset.test === test.test));
  testHolder.replaceChildren(test ? testSection(test, at) : el("p", {}, name ? `There is no test ${name} here.` : ""));
  if (name && test) testHolder.querySelector("h2").scrollIntoView();
}

function listOf(trial, at) {
  const found = [];
  if (trial.label) found.push(el("h2", {}, trial.label));
  if (trial.failure) found.push(el("p", { class: "said bad" }, trial.failure));
  if (trial.tests.length && !view.is_run) found.push(testList(trial, at, view.order));
  for (const [title, lines] of [["Could not be collected", trial.errors], ["Did not run", trial.not_run]]) {
    if (lines.length) found.push(el("h2", {}, title), el("ul", { class: "mono" }, lines.map((text) => el("li", {}, text))));
  }
  return found;
}

function worstOf(trial) {
  const rank = (test) => view.order.indexOf(test.verdict);
  return trial.tests.reduce((worst, test) => (!worst || rank(test) > rank(worst) ? test : worst), null);
}

function testSection(test, at) {
  const found = el("section", { "aria-label": "One test" },
    el("h2", {}, verdictChip(test.verdict), " ", el("a", { href: linkTo(at, test.test) }, breakable(test.test))));
  if (test.said) found.append(el("p", { class: `said mono ${toneOf(test.verdict)}` }, test.said));
  if (test.hint) found.append(el("p", { class: "said noise" }, test.hint));
  if (test.command) found.append(el("p", {}, "Run it again: ", el("code", {}, test.command)));
  if (test.command && ["drift", "structure", "missing"].includes(test.verdict)) {
    found.append(el("p", {}, "If this is right: ", el("code", {}, `${test.command} --snapshot-update`)));
  }
  for (const golden of test.goldens) found.append(...goldenParts(golden, test.goldens.length > 1));
  if (test.text) {
    found.append(el("details", { open: ["hung", "crashed"].includes(test.verdict) }, el("summary", {}, "What pytest said, with the stack"), el("pre", { tabindex: "0" }, test.text)));
  }
  return found;
}

const NOTES = { tie: "Compared up to it", differ: "Bits differ, within tolerance", unchecked: "Not checked bit by bit" };

function goldenParts(golden, isOneOfMany) {
  const found = [];
  if (isOneOfMany) found.push(el("h3", {}, verdictChip(golden.verdict), " ", golden.golden));
  else if (!view.is_run) found.push(el("p", { class: "faint mono" }, golden.golden));
  for (const name of ["tie", "differ", "unchecked"]) {
    if (golden[name]) found.push(el("p", { class: "said noise" }, `${NOTES[name]}: ${golden[name]}`));
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
  const isMoved = isCompared && rows.some((row) => Number(row.rel) > 0 || row.state === "structure");
  found.push(el("p", { class: "faint" }, `${detail.kind} of ${detail.model.spec} (${detail.model.class}), ${detail.calls} calls`), promptText(detail.prompt));
  found.push(switched(isCompared, isMoved, (what) => charts(what, rows, detail, golden, onselect)));
  if (detail.generated) found.push(el("h3", {}, "Generated text"), generatedText(detail.generated));
  found.push(el("h3", {}, "Modules"), calls.element);
  found.push(el("details", {}, el("summary", {}, "Module tree"), moduleTree(rows, onselect)));
  found.push(el("details", { open: golden.verdict !== "same" }, el("summary", {}, isCompared ? "Versions and settings, then and now" : "Versions and settings"), settingsTable(detail.then, detail.now, detail.config)));
  return found;
}

function promptText(text) {
  const quoted = el("p", { class: "mono" }, `\u201c${text}\u201d`);
  return text.length > 300 ? el("details", {}, el("summary", {}, "The prompt"), quoted) : quoted;
}

let switches = 0;

function switched(isCompared, isMoved, make) {
  const holder = el("div", {});
  const name = `what-${(switches += 1)}`;
  const first = isMoved ? "drift" : "norm";
  const choice = (value, text) => el("label", { class: "beside" }, el("input", { type: "radio", name, value, checked: value === first, onchange: () => holder.replaceChildren(make(value)) }), text);
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
