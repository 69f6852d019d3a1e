// Make elements. Text from goldens and tests is added as text, never as HTML.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const SYMBOLS = {
  same: "=", "within noise": "\u2248", drift: "\u25b2", structure: "\u25c6", missing: "\u2205", error: "!",
  hung: "\u21bb", crashed: "\u2716", passed: "\u2713", skipped: "\u2013", "not run": "\u2026",
  "not installed": "\u2298", golden: "\u25cf",
};
const GOOD = ["same", "passed", "golden"];
const NEUTRAL = ["skipped", "not run", "not installed", "not compared"];

function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.flat(2).filter((child) => child !== null && child !== undefined));
  return element;
}

function toneOf(verdict) {
  if (GOOD.includes(verdict)) return "good";
  if (verdict === "within noise") return "noise";
  return NEUTRAL.includes(verdict) ? "" : "bad";
}

function verdictChip(verdict, attributes = {}) {
  const name = attributes.href ? "a" : "span";
  return el(name, { class: `verdict ${toneOf(verdict)}`, ...attributes }, `${SYMBOLS[verdict] || ""} ${verdict}`);
}

function size(number) {
  const value = Number(number);
  if (number === null || number === undefined) return "";
  if (value === 0) return "0";
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : "\u221e";
  if (value >= 0.01 && value < 10000) return String(Number(value.toPrecision(2)));
  return value.toExponential(1).replace(".0e", "e").replace("e+", "e");
}

function short(number) {
  return number === null ? "" : String(Number(Number(number).toPrecision(4)));
}

// Allow a long name to break at its separators.
function breakable(text) {
  return text.split(/(?<=::|\/|\[|, |==)/).flatMap((part, index) => (index ? [el("wbr"), part] : [part]));
}

function scrollBox(label, child, isLow = false) {
  return el("div", { class: isLow ? "scroll low" : "scroll", tabindex: "0", role: "region", "aria-label": label }, child);
}
