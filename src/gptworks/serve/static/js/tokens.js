// Text made of tokens, each one coloured, and walked through by pointer, touch or arrow keys.

import { announce, make, percent, visible } from "./dom.js";
import * as popover from "./popover.js";

/** Probabilities between two colours; theme.css has one colour more. */
export const EDGES = [0.5, 0.2, 0.05, 0.01, 0.001];

/** Alternatives asked for with each token. */
export const TOP = 8;

/** 0 for a likely token, 5 for one that surprised the model. */
export const level = (logprob) => EDGES.filter((edge) => Math.exp(logprob) < edge).length;

/**
 * Puts streamed text and streamed tokens together.
 *
 * A token may arrive before its text, which waits until characters are whole or a stop string is ruled out. Tokens that
 * only together make a character become one.
 */
export class Aligner {
  text = "";
  tokens = [];

  /** Finished items: {text, logprob, top}. Logprob is null where it is not known. */
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
        items.push(this.together());
      }
    }
    return items;
  }

  /** What is left once the stream has ended: a token that a stop string cut, say. */
  end() {
    return this.text ? [this.together()] : [];
  }

  together() {
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

/** A box of tokens. `about(item, index)` makes the card of one, `tells(item)` its words for a screen reader. */
export class TokenBox {
  constructor(label, about, tells) {
    Object.assign(this, { about, tells, items: [], at: -1 });
    this.root = make("div", {
      class: "tokens", tabindex: "0", role: "group", "aria-label": `${label}. Arrow keys walk through its tokens.`,
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
    event.preventDefault(); // also of Enter, which would press the button that gets the focus
    if (event.key === "Enter") return popover.enter();
    this.look(Math.max(0, Math.min(this.items.length - 1, steps[event.key])));
    announce(this.tells(this.items[this.at]));
    this.items[this.at].span.scrollIntoView({ block: "nearest" });
  }
}

/** The card of a generated token: its probability, and what else could have been. `take(text)` goes on from another. */
export function alternatives(item, take) {
  if (item.logprob === null) {
    const why = item.why ?? "Nothing comes before it, so it has no probability.";
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
    const whole = !text.startsWith("bytes:\\x"); // how the API spells what is no text of its own
    const inside = take && !own && whole
      ? make("button", { type: "button", click: () => take(text) }, ...parts)
      : make("div", {}, ...parts);
    return make("li", { class: own ? "own" : "" }, inside);
  });
  const foot = take ? [make("p", { class: "hint" }, "Press one, and the text goes on from there.")] : [];
  return make("div", {}, head, make("ol", { "aria-label": take ? "Go on from another token" : "The likeliest tokens" }, ...rows), ...foot);
}

/** The same in words. */
export function inWords(item) {
  if (item.logprob === null) return visible(item.text);
  const others = item.top.filter(({ text }) => text !== item.text).slice(0, 3);
  const told = others.map(({ text, logprob }) => `${visible(text)} ${percent(Math.exp(logprob))}`);
  return `${visible(item.text)}, ${percent(Math.exp(item.logprob))}. Or ${told.join(", ")}`;
}

function rank(item) {
  if (item.parts > 1) return `${item.parts} tokens that make one character`;
  const place = item.top.findIndex(({ text }) => text === item.text);
  if (place < 0 || place >= TOP) return item.top.length ? `not among the ${TOP} likeliest` : ""; // the API adds it to them
  return place === 0 ? "the likeliest" : `${place + 1}${["nd", "rd"][place - 1] ?? "th"} likeliest`;
}
