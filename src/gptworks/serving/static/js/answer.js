// One answer as it streams in: its tokens, how it ended, and statistics.

import { stream, Trouble } from "./api.js";
import { announce, make, toast } from "./dom.js";
import { Aligner, alternatives, inWords, level, TokenBox } from "./tokens.js";

const REASONS = { length: "reached the token limit", stop: "finished" };

export class Answer {
  /** `take(index, text)`, if given, continues from another token. `given`: the prompt, shown before the answer. */
  constructor(label, { seed, given = "", take = null }) {
    Object.assign(this, { label, seed, given, controller: new AbortController(), reason: null, state: "waiting" });
    const about = (item, index) => alternatives(item, take && !item.given && ((text) => take(index, text)));
    this.box = new TokenBox(label, about, inWords);
    this.shownPrompt = make("span", { class: "given" }, given);
    this.box.root.append(this.shownPrompt);
    this.facts = make("p", { class: "facts quiet" }, "Waiting for the first token…");
    this.root = make("div", { class: "answer waiting" }, this.box.root, this.facts);
  }

  /** The generated text, without the prompt. */
  get text() {
    return this.box.items.filter(({ given }) => !given).map(({ text }) => text).join("");
  }

  get scored() {
    return this.box.items.filter(({ given, logprob }) => !given && logprob !== null);
  }

  get running() {
    return this.state === "waiting" || this.state === "running";
  }

  keep(items) {
    for (const { span, ...item } of items) this.push(item);
  }

  push(item) {
    if (item.given && this.shownPrompt.isConnected) this.shownPrompt.remove();
    this.box.push(item, item.why ? "chosen" : item.logprob === null ? "" : `p${level(item.logprob)}`);
  }

  /** Send the request and show the stream. `first(choices)` receives the first token's alternatives. */
  async run(body, first) {
    const start = performance.now();
    const aligner = new Aligner();
    this.kept = this.box.items.length;
    let [prompt, seen] = [body.echo ? body.prompt : "", 0];
    const add = (items) => {
      for (const item of items) {
        const given = prompt !== "";
        prompt = prompt.slice(item.text.length);
        if (!given && !seen++) first(item.top);
        this.push({ ...item, given });
      }
    };
    try {
      for await (const { text, tokens, reason } of stream(body, this.controller.signal)) {
        this.firstAfter ??= performance.now() - start;
        this.turn("running");
        add(aligner.push(text, tokens));
        this.reason = reason ?? this.reason;
      }
      add(aligner.end());
      this.turn("done");
    } catch (error) {
      add(aligner.end());
      if (error.name !== "AbortError" && !(error instanceof Trouble)) throw error;
      this.trouble = error instanceof Trouble ? error : null;
      this.turn(this.trouble ? "failed" : "stopped");
    }
    this.took = performance.now() - start;
    this.conclude();
  }

  stop() {
    this.controller.abort();
  }

  turn(state) {
    if (state === this.state) return;
    this.root.classList.replace(this.state, state);
    this.state = state;
    if (state === "running") this.facts.textContent = "Generating…";
  }

  conclude() {
    if (this.trouble) {
      if (!this.box.items.length) this.box.root.remove(); // a very long prompt would hide the message
      this.facts.replaceChildren(make("span", { class: "trouble" }, this.trouble.message));
      return announce(`${this.label} failed: ${this.trouble.message}`);
    }
    const end = this.state === "stopped" ? "stopped" : REASONS[this.reason] ?? this.reason;
    const parts = [...this.figures(), end].map((words) => make("span", {}, words));
    const copy = make("button", { type: "button", class: "plain", click: () => this.copy() }, "Copy");
    this.facts.replaceChildren(...parts, copy);
    announce(`${this.label}, ${end}: ${this.text}`);
  }

  figures() {
    const n = tokensIn(this.box.items.slice(this.kept));
    const out = [`${n} token${n === 1 ? "" : "s"}`];
    if (this.firstAfter !== undefined) out.push(`first token after ${seconds(this.firstAfter)}`);
    if (n > 1) out.push(`${speed(n / (this.took / 1000))} tokens/s`); // measured from Run, because several may arrive at once
    const known = this.scored;
    if (known.length) {
      const mean = known.reduce((sum, { logprob }) => sum + logprob, 0) / known.length;
      out.push(`perplexity ${Math.exp(-mean).toPrecision(3)}`);
    }
    if (this.seed !== null) out.push(`seed ${this.seed}`);
    return out;
  }

  async copy() {
    try {
      await navigator.clipboard.writeText(this.text);
      toast("Answer copied");
    } catch {
      toast("The browser does not allow copying here; select the text instead");
    }
  }
}

/** The number of generated tokens; one item may be several that form one character. */
export const tokensIn = (items) => items.filter(({ given }) => !given).reduce((sum, { parts = 1 }) => sum + parts, 0);

const seconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toPrecision(3)} s`);
const speed = (rate) => (rate >= 10 ? Math.round(rate) : rate.toPrecision(2));
