// Generated text of the golden and of this session, with the first token that differs.

function generatedText(generated) {
  const { flip } = generated;
  const found = el("div", {});
  if (flip) {
    const margin = flip.margin === "Infinity" ? "sampled" : `margin ${size(flip.margin)}, noise ${size(flip.noise)}`;
    const kind = flip.is_near_tie ? "a near tie, which noise explains" : "more than noise explains";
    found.append(el("p", { class: "message bad" }, `Prompt ${flip.row}, step ${flip.step}: ${flip.then} \u2192 ${flip.now} (${margin}): ${kind}`));
  } else if (generated.now) {
    found.append(el("p", {}, "All tokens are the same."));
  }
  generated.then.forEach((then, row) => {
    const now = generated.now ? generated.now[row] : null;
    found.append(el("div", { class: "sides" }, side("Golden", then, flip, row), now ? side("This session", now, flip, row) : null));
  });
  return found;
}

function side(title, tokens, flip, row) {
  const step = flip && flip.row === row ? flip.step : null;
  const pieces = tokens.pieces.map((piece, index) => {
    const margin = tokens.margins[index];
    const mark = step === null ? "" : index === step ? " differs" : index > step ? " after" : "";
    return el("span", { class: `token${mark}`, title: margin === undefined ? null : `step ${index}, logit margin ${size(margin)}` }, piece);
  });
  const margin = step === null ? undefined : tokens.margins[step];
  const note = margin === undefined ? null : el("p", { class: "faint" }, `logit margin of the marked token ${size(margin)}`);
  return el("div", {}, el("h4", {}, title), el("div", { class: "mono" }, pieces.length ? pieces : "(nothing)"), note);
}
