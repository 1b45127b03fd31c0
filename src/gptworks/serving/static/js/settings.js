// The settings of a lane: names, ranges, explanations and controls.

import { make, percent, visible } from "./dom.js";
import { EXAMPLE, reshape } from "./sampling.js";

const GENERATING = ["complete", "instruct", "chat"];

/** Name, label, range and modes of each setting; `explain(value)` describes a value in words. */
export const SETTINGS = [
  { name: "temperature", label: "Temperature", default: 0.8, min: 0, max: 2, step: 0.05, modes: GENERATING,
    explain: (v) => v === 0 ? "Always picks the most likely token, so the answer is the same every time."
      : v < 1 ? "Makes likely tokens more likely: safer and less varied."
      : v === 1 ? "Uses the model's own probabilities."
      : "Makes unlikely tokens more likely: more varied, with more mistakes." },
  { name: "top_k", label: "Top-k", default: 50, min: 0, max: 100, step: 1, modes: GENERATING,
    explain: (v) => v === 0 ? "Off: no limit on the number of tokens." : v === 1 ? "Picks the most likely token only."
      : `Samples from the ${v} most likely tokens only.` },
  { name: "top_p", label: "Top-p", default: 1, min: 0.05, max: 1, step: 0.05, modes: GENERATING,
    explain: (v) => v === 1 ? "Off: no limit on cumulative probability."
      : `Samples from the most likely tokens whose probabilities add up to ${percent(v)}.` },
  { name: "min_p", label: "Min-p", default: 0, min: 0, max: 0.5, step: 0.01, modes: GENERATING,
    explain: (v) => v === 0 ? "Off: no minimum probability."
      : `Excludes tokens with less than ${percent(v)} of the most likely token's probability.` },
  { name: "repetition_penalty", label: "Repetition penalty", default: 1, min: 1, max: 2, step: 0.05, modes: GENERATING,
    explain: (v) => v === 1 ? "Off: repetition is not penalized." : "Makes tokens that already occurred less likely." },
  { name: "max_tokens", label: "Max tokens", default: 128, number: true, min: 1, modes: GENERATING,
    explain: (v) => `Stops after at most ${v} token${v === 1 ? "" : "s"}. A token is about three quarters of a word.` },
  { name: "seed", label: "Seed", default: null, number: true, min: 0, placeholder: "random", modes: GENERATING,
    explain: (v) => v === null ? "A new random seed for each run, shared by both sides of a comparison."
      : "The same seed, prompt and settings give the same answer." },
  { name: "stop", label: "Stop sequence", default: "", placeholder: "\\n\\n", modes: GENERATING,
    explain: (v) => v === "" ? "Text that ends the answer, such as \\n\\n for an empty line."
      : `Ends the answer before the first ${visible(unescape(v))}` },
  { name: "attribution", label: "Token attribution", default: "leave_one_out", modes: ["classify"],
    choices: { leave_one_out: "Leave one out", gradient_x_input: "Gradient × input", none: "Off" },
    explain: (v) => ({ leave_one_out: "Leaves out each token once. Its attribution is how much the class's log-odds (in nats) drop without it.",
      gradient_x_input: "One backward pass: how the class's log-odds change as a token's embedding grows. Fast enough for long texts.",
      none: "Shows only the classes." })[v] },
];

export const DEFAULTS = Object.fromEntries(SETTINGS.map((one) => [one.name, one.default]));

/** Bars in the figure. */
const SHOWN = 8;

const PRESETS = {
  Greedy: { temperature: 0, top_k: 50, top_p: 1, min_p: 0 },
  Balanced: { temperature: 0.8, top_k: 50, top_p: 1, min_p: 0 },
  "Unmodified": { temperature: 1, top_k: 0, top_p: 1, min_p: 0 },
};

/** Parse a setting's value; falls back to the default if the text is invalid. */
export function parse(name, text) {
  const one = SETTINGS.find((setting) => setting.name === name);
  if (one.choices) return text in one.choices ? text : one.default;
  if (one.name === "stop") return text;
  const value = text.trim() === "" ? NaN : Number(text);
  if (!Number.isFinite(value)) return one.default;
  const whole = one.number || one.step === 1 ? Math.round(value) : value;
  return Math.min(one.max ?? Number.MAX_SAFE_INTEGER, Math.max(one.min, whole));
}

/** Replace typed \n and \t with the characters. */
export const unescape = (text) => text.replaceAll("\\n", "\n").replaceAll("\\t", "\t");

/** The settings as fields of a request body. */
export function requested(settings) {
  const { temperature, top_k, top_p, min_p, repetition_penalty, max_tokens, stop } = settings;
  const body = { temperature, top_k, top_p, min_p, repetition_penalty, max_tokens };
  return stop ? { ...body, stop: [unescape(stop)] } : body;
}

/** A line such as `temperature 0.8 · top-k 50 · 128 tokens`. */
export function summary(settings, mode) {
  if (mode === "classify") return SETTINGS.find((one) => one.name === "attribution").choices[settings.attribution];
  const parts = [settings.temperature === 0 ? "greedy" : `temperature ${settings.temperature}`];
  if (settings.temperature > 0) {
    if (settings.top_k) parts.push(`top-k ${settings.top_k}`);
    if (settings.top_p < 1) parts.push(`top-p ${settings.top_p}`);
    if (settings.min_p) parts.push(`min-p ${settings.min_p}`);
  }
  if (settings.repetition_penalty > 1) parts.push(`repetition penalty ${settings.repetition_penalty}`);
  parts.push(`${settings.max_tokens} tokens`);
  if (settings.seed !== null) parts.push(`seed ${settings.seed}`);
  return parts.join(" · ");
}

/** The settings panel of one lane. It changes `settings` in place and calls `changed`. */
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
    this.update();
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

  /** Change some values. `by` is the control the user is typing in; its text is left alone. */
  set(values, by) {
    Object.assign(this.settings, values);
    this.update(by);
    this.changed();
  }

  /** Show the settings of a mode. */
  suit(mode) {
    for (const { one, root } of this.rows) root.hidden = !one.modes.includes(mode);
    this.presets.hidden = this.figure.hidden = mode === "classify";
  }

  /** Mark the settings that differ between the two sides. */
  differ(both) {
    for (const { one, root } of this.rows) root.classList.toggle("differs", Boolean(both) && both[0][one.name] !== both[1][one.name]);
  }

  /** Use these alternatives ({text, logprob}, most likely first) of a real token in the figure. */
  explain(choices) {
    this.choices = choices;
    this.draw();
  }

  update(by) {
    for (const { one, control, shown, hint } of this.rows) {
      const value = this.settings[one.name];
      if (control !== by) control.value = value ?? "";
      shown.textContent = one.step ? String(value) : "";
      hint.textContent = one.explain(value);
      if (one.step) control.setAttribute("aria-valuetext", `${value}. ${one.explain(value)}`);
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
        make("span", { class: "bar" }, thin, thick), make("span", { class: "share" }, after[i] ? percent(after[i]) : "0%"));
    });
    const words = this.choices
      ? "The most likely first tokens of the answer: the model's probabilities (thin line) and those after these settings."
      : "Example: “The cat sat on the …” The model's probabilities (thin line) and those after these settings.";
    this.figure.replaceChildren(make("figcaption", {}, words), make("ol", {}, ...bars));
  }
}
