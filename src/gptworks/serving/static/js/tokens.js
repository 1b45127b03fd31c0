// Text as coloured tokens that can be inspected by pointer, touch or arrow keys.

import { announce, make, percent, visible } from "./dom.js";
import * as popover from "./popover.js";

/** Probabilities at which the colour changes; theme.css has one more colour. */
export const EDGES = [0.5, 0.2, 0.05, 0.01, 0.001];

/** Alternatives requested for each token. */
export const TOP = 8;

/** 0 for a likely token, 5 for a very unlikely one. */
export const level = (logprob) => EDGES.filter((edge) => Math.exp(logprob) < edge).length;

/**
 * Aligns streamed text with streamed tokens.
 *
 * A token may arrive before its text, which is held back until characters are complete and no stop string is possible.
 * Tokens that form one character together become one item.
 */
export class Aligner {
  text = "";
  tokens = [];

  /** -> finished items {text, logprob, top}; logprob is null where it is unknown. */
  push(text, tokens) {
    this.text += text;
    this.tokens.push(...tokens);
    const items = [];
    while (this.text) {
      const token = this.tokens[0];
      if (token?.text && this.text.startsWith(token.text)) {
        items.push(this.tokens.shift());
        this.text = this.text.slice(token.text.length);
      } else if (token?.text.startsWith(this.text)) {
        break;
      } else {
        items.push(this.merge());
      }
    }
    return items;
  }

  /** -> what is left when the stream ends, such as a token that a stop string cut. */
  end() {
    return this.text ? [this.merge()] : [];
  }

  merge() {
    const known = this.tokens.length > 0 && this.tokens.every(({ logprob }) => logprob !== null);
    const item = {
      text: this.text,
      logprob: known ? this.tokens.reduce((sum, { logprob }) => sum + logprob, 0) : null,
      top: this.tokens.length === 1 ? this.tokens[0].top : [],
      parts: this.tokens.length,
    };
    [this.text, this.tokens] = ["", []];
    return item;
  }
}

/** A box of tokens. `about(item, index)` builds a token's card, `describe(item)` its text for a screen reader. */
export class TokenBox {
  constructor(label, about, describe) {
    Object.assign(this, { about, describe, items: [], at: -1 });
    this.root = make("div", {
      class: "tokens", tabindex: "0", role: "group", "aria-label": `${label}. Use the arrow keys to move through its tokens.`,
      pointerover: (event) => event.pointerType === "mouse" && this.look(this.index(event.target)),
      pointerout: popover.leave,
      click: (event) => this.look(this.index(event.target)),
      keydown: (event) => this.walk(event),
      focusout: popover.leave,
    });
  }

  push(item, name) {
    const classes = ["t", name, item.text.includes("\n") ? "break" : "", item.given ? "given" : ""];
    const span = make("span", { class: classes.filter(Boolean).join(" ") }, item.text);
    span.dataset.index = this.items.push({ ...item, span }) - 1;
    this.root.append(span);
  }

  index(target) {
    return Number(target.dataset?.index ?? -1);
  }

  look(index) {
    const item = this.items[index];
    if (!item || !this.root.isConnected) return;
    this.at = index;
    popover.show(item.span, this.about(item, index));
  }

  walk(event) {
    const steps = { ArrowRight: this.at + 1, ArrowLeft: this.at - 1, Home: 0, End: this.items.length - 1 };
    if (event.altKey || event.ctrlKey || event.metaKey || !this.items.length) return;
    if (event.key !== "Enter" && !(event.key in steps)) return;
    event.preventDefault(); // Enter too, which would press the button that gets the focus
    if (event.key === "Enter") return popover.enter();
    this.look(Math.max(0, Math.min(this.items.length - 1, steps[event.key])));
    announce(this.describe(this.items[this.at]));
    this.items[this.at].span.scrollIntoView({ block: "nearest" });
  }
}

/** The card of a generated token: its probability and its alternatives. `take(text)` continues from another token. */
export function alternatives(item, take) {
  if (item.logprob === null) {
    const why = item.why ?? "is the first token, so it has no probability.";
    return make("div", {}, make("p", {}, make("b", { class: "token" }, visible(item.text)), ` ${why}`));
  }
  const head = make("p", {}, make("b", { class: "token" }, visible(item.text)), ` ${percent(Math.exp(item.logprob))} `,
    make("span", { class: "quiet" }, rank(item)));
  const highest = item.top[0]?.logprob ?? 0;
  const rows = item.top.map(({ text, logprob }) => {
    const bar = make("i");
    bar.style.inlineSize = `${100 * Math.exp(logprob - highest)}%`;
    const own = text === item.text;
    const parts = [make("span", { class: "token" }, visible(text)), make("span", { class: "bar" }, bar),
      make("span", { class: "share" }, percent(Math.exp(logprob)))];
    const isText = !text.startsWith("bytes:\\x"); // the API's notation for incomplete characters
    const inside = take && !own && isText
      ? make("button", { type: "button", click: () => take(text) }, ...parts)
      : make("div", {}, ...parts);
    return make("li", { class: own ? "own" : "" }, inside);
  });
  const foot = take ? [make("p", { class: "hint" }, "Choose a token to continue from it.")] : [];
  return make("div", {}, head, make("ol", { "aria-label": take ? "Continue from another token" : "Most likely tokens" }, ...rows), ...foot);
}

/** The same as text. */
export function inWords(item) {
  if (item.logprob === null) return visible(item.text);
  const others = item.top.filter(({ text }) => text !== item.text).slice(0, 3);
  const rest = others.map(({ text, logprob }) => `${visible(text)} ${percent(Math.exp(logprob))}`);
  return `${visible(item.text)}, ${percent(Math.exp(item.logprob))}. Alternatives: ${rest.join(", ")}`;
}

function rank(item) {
  if (item.parts > 1) return `${item.parts} tokens that form one character`;
  const place = item.top.findIndex(({ text }) => text === item.text);
  if (place < 0 || place >= TOP) return item.top.length ? `not among the top ${TOP}` : ""; // the API adds the drawn token
  return place === 0 ? "most likely" : `${place + 1}${["nd", "rd"][place - 1] ?? "th"} most likely`;
}
