// Settings of a lane: what there is, what each one says of itself, and their controls.

import { make, percent, visible } from "./dom.js";
import { EXAMPLE, reshape } from "./sampling.js";

const GENERATING = ["complete", "instruct", "chat"];

/** Of every setting: name, label, range, and what its value means, in words. */
export const SETTINGS = [
  { name: "temperature", label: "Temperature", default: 0.8, min: 0, max: 2, step: 0.05, modes: GENERATING,
    says: (v) => v === 0 ? "Always the likeliest token: the same answer every time."
      : v < 1 ? "Likely tokens become likelier: safer, more alike."
      : v === 1 ? "The model's own probabilities, as it was trained."
      : "Unlikely tokens become likelier: more daring, more mistakes." },
  { name: "top_k", label: "Top-k", default: 50, min: 0, max: 100, step: 1, modes: GENERATING,
    says: (v) => v === 0 ? "Any token may be drawn." : v === 1 ? "Only the likeliest token may be drawn."
      : `Only the ${v} likeliest tokens may be drawn.` },
  { name: "top_p", label: "Top-p", default: 1, min: 0.05, max: 1, step: 0.05, modes: GENERATING,
    says: (v) => v === 1 ? "Nothing is cut off the tail."
      : `Only the likeliest tokens that together have ${percent(v)} may be drawn.` },
  { name: "min_p", label: "Min-p", default: 0, min: 0, max: 0.5, step: 0.01, modes: GENERATING,
    says: (v) => v === 0 ? "However unlikely a token is, it may be drawn."
      : `Tokens less likely than ${percent(v)} of the likeliest one's chance are left out.` },
  { name: "repetition_penalty", label: "Repetition penalty", default: 1, min: 1, max: 2, step: 0.05, modes: GENERATING,
    says: (v) => v === 1 ? "Words may come again as the model likes." : "Tokens that already occurred become less likely." },
  { name: "max_tokens", label: "Length", default: 128, number: true, min: 1, modes: GENERATING,
    says: (v) => `Stop after ${v} token${v === 1 ? "" : "s"} at most; a token is about three quarters of a word.` },
  { name: "seed", label: "Seed", default: null, number: true, min: 0, placeholder: "new each time", modes: GENERATING,
    says: (v) => v === null ? "Another answer each time. Both sides of a comparison share it."
      : "The same seed, prompt and settings give the same answer." },
  { name: "stop", label: "Stop before", default: "", placeholder: "\\n\\n", modes: GENERATING,
    says: (v) => v === "" ? "A string that ends the answer, such as \\n\\n for an empty line."
      : `The answer ends before the first ${visible(unescape(v))}` },
  { name: "attribution", label: "Which tokens mattered", default: "leave_one_out", modes: ["classify"],
    choices: { leave_one_out: "Leave one out", gradient_x_input: "Gradient × input", none: "Do not ask" },
    says: (v) => ({ leave_one_out: "Each token is left out once. What its absence costs the class, in nats of log-odds, is what it did.",
      gradient_x_input: "One backward pass: how the class's log-odds change as a token's embedding grows. Quick, for long texts.",
      none: "Classes only." })[v] },
];

export const DEFAULTS = Object.fromEntries(SETTINGS.map((one) => [one.name, one.default]));

/** Bars of the figure. */
const SHOWN = 8;

const PRESETS = {
  Likeliest: { temperature: 0, top_k: 50, top_p: 1, min_p: 0 },
  Balanced: { temperature: 0.8, top_k: 50, top_p: 1, min_p: 0 },
  "As trained": { temperature: 1, top_k: 0, top_p: 1, min_p: 0 },
};

/** A setting's value from text; its default, if that makes no sense. */
export function parse(name, text) {
  const one = SETTINGS.find((setting) => setting.name === name);
  if (one.choices) return text in one.choices ? text : one.default;
  if (one.name === "stop") return text;
  const value = text.trim() === "" ? NaN : Number(text);
  if (!Number.isFinite(value)) return one.default;
  const whole = one.number || one.step === 1 ? Math.round(value) : value;
  return Math.min(one.max ?? Number.MAX_SAFE_INTEGER, Math.max(one.min, whole));
}

/** `\n` and `\t` as people type them. */
export const unescape = (text) => text.replaceAll("\\n", "\n").replaceAll("\\t", "\t");

/** What goes into a request's body. */
export function requested(settings) {
  const { temperature, top_k, top_p, min_p, repetition_penalty, max_tokens, stop } = settings;
  const body = { temperature, top_k, top_p, min_p, repetition_penalty, max_tokens };
  return stop ? { ...body, stop: [unescape(stop)] } : body;
}

/** A line such as `temperature 0.8 · top-k 50 · 128 tokens`. */
export function summary(settings, mode) {
  if (mode === "classify") return SETTINGS.find((one) => one.name === "attribution").choices[settings.attribution];
  const parts = [settings.temperature === 0 ? "likeliest tokens" : `temperature ${settings.temperature}`];
  if (settings.temperature > 0) {
    if (settings.top_k) parts.push(`top-k ${settings.top_k}`);
    if (settings.top_p < 1) parts.push(`top-p ${settings.top_p}`);
    if (settings.min_p) parts.push(`min-p ${settings.min_p}`);
  }
  if (settings.repetition_penalty > 1) parts.push(`repetition ${settings.repetition_penalty}`);
  parts.push(`${settings.max_tokens} tokens`);
  if (settings.seed !== null) parts.push(`seed ${settings.seed}`);
  return parts.join(" · ");
}

/** The panel of one lane's settings. It changes `settings` in place and tells `changed`. */
export class Panel {
  constructor(id, settings, changed) {
    Object.assign(this, { id, settings, changed });
    this.rows = SETTINGS.map((one) => this.row(one));
    this.presets = make("div", { class: "presets", role: "group", "aria-label": "Presets" },
      ...Object.entries(PRESETS).map(([name, values]) =>
        make("button", { type: "button", click: () => this.set(values) }, name)));
    this.figure = make("figure", { class: "next" });
    this.root = make("div", { class: "settings" }, this.presets, this.figure, ...this.rows.map((row) => row.root));
    this.choices = null;
    this.say();
  }

  row(one) {
    const id = `${this.id}-${one.name}`;
    const hint = make("p", { id: `${id}-hint`, class: "hint" });
    const shown = make("output", { for: id });
    const common = { id, "aria-describedby": `${id}-hint`, name: one.name };
    const changed = () => this.set({ [one.name]: parse(one.name, control.value) }, control);
    const control = one.choices
      ? make("select", { ...common, change: changed },
          ...Object.entries(one.choices).map(([value, words]) => make("option", { value }, words)))
      : make("input", { ...common, placeholder: one.placeholder, min: one.min, max: one.max, step: one.step ?? 1,
          type: one.step ? "range" : one.number ? "number" : "text", spellcheck: "false", input: changed });
    const root = make("div", { class: one.step ? "setting" : "setting boxed" },
      make("label", { for: id }, one.label), shown, control, hint);
    return { one, root, control, shown, hint };
  }

  /** Change some values; `by` is the control that a person is typing in, which is left as it is. */
  set(values, by) {
    Object.assign(this.settings, values);
    this.say(by);
    this.changed();
  }

  /** Show what belongs to a mode. */
  suit(mode) {
    for (const { one, root } of this.rows) root.hidden = !one.modes.includes(mode);
    this.presets.hidden = this.figure.hidden = mode === "classify";
  }

  /** Mark the settings in which two sides differ. */
  differ(both) {
    for (const { one, root } of this.rows) root.classList.toggle("differs", Boolean(both) && both[0][one.name] !== both[1][one.name]);
  }

  /** Explain with these choices ({text, logprob}, likeliest first) of a real next token. */
  explain(choices) {
    this.choices = choices;
    this.draw();
  }

  say(by) {
    for (const { one, control, shown, hint } of this.rows) {
      const value = this.settings[one.name];
      if (control !== by) control.value = value ?? "";
      shown.textContent = one.step ? String(value) : "";
      hint.textContent = one.says(value);
      if (one.step) control.setAttribute("aria-valuetext", `${value}. ${one.says(value)}`);
    }
    this.draw();
  }

  draw() {
    const choices = (this.choices ?? EXAMPLE).slice(0, SHOWN);
    const own = choices.map(({ logprob }) => Math.exp(logprob));
    const after = reshape(own, this.settings);
    const largest = Math.max(...own, ...after);
    const bars = choices.map(({ text }, i) => {
      const [thin, thick] = [make("i", { class: "own" }), make("i", { class: "after" })];
      thin.style.inlineSize = `${(100 * own[i]) / largest}%`;
      thick.style.inlineSize = `${(100 * after[i]) / largest}%`;
      return make("li", { class: after[i] ? "" : "cut" }, make("span", { class: "token" }, visible(text)),
        make("span", { class: "bar" }, thin, thick), make("span", { class: "share" }, after[i] ? percent(after[i]) : "never"));
    });
    const words = this.choices
      ? "The answer's first token: the likeliest, as the model has them (thin line) and as these settings draw among them."
      : "An example, “The cat sat on the …”: the model's probabilities (thin line), and what these settings make of them.";
    this.figure.replaceChildren(make("figcaption", {}, words), make("ol", {}, ...bars));
  }
}
