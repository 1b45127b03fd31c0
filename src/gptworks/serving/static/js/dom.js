// DOM helpers. Elements are built from text, never from markup.

export const find = (id) => document.getElementById(id);

/** An element with attributes (functions become event listeners) and children: elements, or strings as text. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** Have a screen reader read this out politely. */
export function announce(words) {
  find("announcer").textContent = words;
}

let fading;

/** Show a short message at the bottom of the page. */
export function toast(words) {
  find("toast").textContent = words;
  clearTimeout(fading);
  fading = setTimeout(() => (find("toast").textContent = ""), 4000);
}

/** 0.4%, 31%, > 99%. */
export function percent(share) {
  if (share > 0.995 && share < 1) return "> 99%";
  if (share < 0.001) return "< 0.1%";
  return `${share < 0.0995 ? (100 * share).toFixed(1) : Math.round(100 * share)}%`;
}

/** 1,234 or 124M. */
export function count(number) {
  if (number >= 1e9) return `${+(number / 1e9).toPrecision(3)}B`;
  if (number >= 1e6) return `${+(number / 1e6).toPrecision(3)}M`;
  return number.toLocaleString("en");
}

/** Text with visible spaces, tabs and line breaks. */
export function visible(text) {
  return text.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "∅";
}
