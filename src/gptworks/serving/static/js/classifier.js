// A classifier's prediction: the probability of every class, and the attribution of each token to one of them.

import { classify, Trouble } from "./api.js";
import { announce, make, percent, visible } from "./dom.js";
import { TokenBox } from "./tokens.js";

const METHODS = {
  leave_one_out: "leave one out",
  gradient_x_input: "gradient × input",
};

export class Verdict {
  constructor(label, body) {
    Object.assign(this, { label, body, controller: new AbortController(), state: "waiting" });
    this.root = make("div", { class: "answer verdict waiting" }, make("p", { class: "facts quiet" }, "Reading…"));
  }

  get running() {
    return this.state === "waiting";
  }

  stop() {
    this.controller.abort();
  }

  async run() {
    const start = performance.now();
    try {
      const response = await classify(this.body, this.controller.signal);
      this.turn("done");
      this.show(response.data[0], performance.now() - start);
    } catch (error) {
      if (error.name !== "AbortError" && !(error instanceof Trouble)) throw error;
      const words = error instanceof Trouble ? error.message : "Stopped.";
      this.turn(error instanceof Trouble ? "failed" : "stopped");
      this.root.replaceChildren(make("p", { class: "facts" }, make("span", { class: "trouble" }, words)));
      announce(`${this.label}: ${words}`);
    }
  }

  turn(state) {
    this.root.classList.replace(this.state, state);
    this.state = state;
  }

  show(result, took) {
    const parts = "value" in result ? [this.number(result)] : [this.verdict(result), this.classes(result)];
    if (result.attribution) parts.push(...this.tokens(result));
    const facts = [`${result.n_tokens} token${result.n_tokens === 1 ? "" : "s"}`, `${(took / 1000).toPrecision(2)} s`];
    if (result.truncated) facts.push("truncated to the model's context");
    parts.push(make("p", { class: "facts quiet" }, ...facts.map((words) => make("span", {}, words))));
    this.root.replaceChildren(...parts);
    announce(`${this.label}: ${"value" in result ? result.value : `most likely ${result.label}`}`);
  }

  number({ value }) {
    return make("p", { class: "prediction" }, "The model predicts ", make("b", {}, value.toFixed(3)));
  }

  verdict({ label, probabilities }) {
    return make("p", { class: "prediction" }, "Most likely ", make("b", {}, label),
      make("span", { class: "quiet" }, `, ${percent(probabilities[label])}`));
  }

  /** Bars; pressing one explains its class. */
  classes({ probabilities, attribution }) {
    const rows = Object.entries(probabilities).sort((a, b) => b[1] - a[1]).map(([name, share]) => {
      const bar = make("i");
      bar.style.inlineSize = `${100 * share}%`;
      const parts = [make("span", { class: "name" }, name), make("span", { class: "bar" }, bar),
        make("span", { class: "share" }, percent(share))];
      const inside = attribution
        ? make("button", { type: "button", "aria-pressed": String(name === attribution.label),
            title: `Show the token attributions for ${name}`, click: () => this.explain(name) }, ...parts)
        : make("div", {}, ...parts);
      return make("li", {}, inside);
    });
    return make("ol", { class: "classes", "aria-label": "Classes" }, ...rows);
  }

  explain(name) {
    this.body = { ...this.body, target: name };
    this.run();
  }

  tokens({ attribution, tokens }) {
    const about = attribution.label === null ? "the predicted value" : attribution.label;
    const largest = Math.max(...tokens.map((token) => Math.abs(token.attribution ?? 0)), 1e-9);
    const box = new TokenBox(`Token attributions for ${about}`, (item) => card(item, about), (item) => words(item, about));
    for (const { text, attribution: value } of tokens) box.push({ text, value }, shade(value, largest));
    const title = make("p", { class: "quiet tokens-title" }, "Token attributions for ", make("b", {}, about),
      ` (${METHODS[attribution.method]}, in ${attribution.unit})`);
    return [title, box.root];
  }
}

/** Tokens below a fortieth of the strongest attribution stay uncoloured. */
function shade(value, largest) {
  const strength = Math.abs(value ?? 0) / largest;
  if (strength < 0.025) return "even";
  return `${value > 0 ? "for" : "against"}${Math.min(4, Math.ceil(4 * strength))}`;
}

function card({ text, value }, about) {
  const sign = value === null ? "is the whole text, so it cannot be left out."
    : `${value > 0 ? "+" : "−"}${Math.abs(value).toFixed(3)} for ${about}`;
  return make("div", {}, make("p", {}, make("b", { class: "token" }, visible(text)), ` ${sign}`));
}

const words = ({ text, value }, about) =>
  value === null ? visible(text) : `${visible(text)}, ${value.toFixed(2)} for ${about}`;
