// The card beside a token: its alternatives, or its attribution.

import { make } from "./dom.js";

const card = make("div", { class: "popover", role: "group", "aria-label": "About this token", hidden: true });
let owner = null;
let leaving;

export function mount() {
  document.querySelector("main").append(card);
  card.addEventListener("pointerenter", () => clearTimeout(leaving));
  card.addEventListener("pointerleave", leave);
  card.addEventListener("focusout", (event) => {
    if (!card.contains(event.relatedTarget) && !owner?.parentElement.contains(event.relatedTarget)) hide();
  });
  document.addEventListener("pointerdown", (event) => {
    if (!card.contains(event.target) && !event.target.closest?.(".t")) hide();
  });
  addEventListener("scroll", place, { passive: true });
  addEventListener("resize", hide);
}

/** Show `content` beside a token. */
export function show(span, content) {
  clearTimeout(leaving);
  if (owner === span && !card.hidden) return;
  owner?.classList.remove("at");
  owner = span;
  span.classList.add("at");
  card.replaceChildren(content);
  card.hidden = false;
  place();
}

/** Hide the card shortly, unless the pointer or the focus moves into it. */
export function leave() {
  clearTimeout(leaving);
  leaving = setTimeout(() => card.contains(document.activeElement) || hide(), 220);
}

/** -> true if the card was open. */
export function hide() {
  if (card.hidden) return false;
  const focused = card.contains(document.activeElement);
  const back = owner?.closest("[tabindex]");
  owner?.classList.remove("at");
  owner = null;
  card.hidden = true;
  if (focused) back?.focus();
  return true;
}

/** Move the focus to the card's first button, if it has one. */
export function enter() {
  card.querySelector("button")?.focus();
}

function place() {
  if (card.hidden) return;
  const line = owner.getClientRects()[0];
  if (!line) return void hide();
  const { offsetWidth: width, offsetHeight: height } = card;
  const room = document.documentElement.clientWidth;
  const below = line.bottom + 6;
  const fits = below + height < innerHeight || line.top < height + 6;
  card.style.left = `${Math.max(8, Math.min(line.left - 12, room - width - 8))}px`;
  card.style.top = `${fits ? below : line.top - height - 6}px`;
}
