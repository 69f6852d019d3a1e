// The environments of the golden and of this session; differences are marked.

const NAMES = {
  spec: "model", revision: "revision", class: "model class", parameters: "parameters", weights: "fingerprint of the weights",
  device: "device", dtype: "dtype", attention: "attention", threads: "threads", cpu: "processor", kernels: "kernels",
};

function settingsTable(then, now, config) {
  const pairs = Object.keys(NAMES).map((key) => [NAMES[key], then[key], now && now[key]]);
  for (const name of new Set([...Object.keys(then.versions), ...Object.keys((now && now.versions) || {})])) {
    pairs.push([name, then.versions[name], now && now.versions[name]]);
  }
  const rows = pairs.filter(([, old, fresh]) => old || fresh).map(([name, old, fresh]) => {
    const differs = now !== null && old !== fresh;
    return el("tr", { class: differs ? "differs" : "" },
      el("th", { scope: "row" }, name), el("td", { class: "name" }, String(old ?? "absent")),
      now ? el("td", { class: "name" }, String(fresh ?? "absent")) : null,
      now ? el("td", {}, differs ? "\u2260 differs" : "=") : null);
  });
  const heads = ["setting", "golden", ...(now ? ["this session", "differs"] : [])].map((text) => el("th", { scope: "col" }, text));
  const changes = (config || []).map((text) => el("li", { class: "mono" }, text));
  return el("div", {},
    scrollBox("Settings of the golden and of this session", el("table", {}, el("thead", {}, el("tr", {}, heads)), el("tbody", {}, rows)), true),
    changes.length ? el("div", {}, el("p", {}, "Config keys with other values:"), el("ul", {}, changes)) : null);
}
