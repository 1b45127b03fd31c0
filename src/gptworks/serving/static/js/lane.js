// One side of the page: a model, its settings and its answers.

import { Answer, tokensIn } from "./answer.js";
import { Verdict } from "./classifier.js";
import { count, make } from "./dom.js";
import { DEFAULTS, Panel, requested, summary } from "./settings.js";
import { TOP } from "./tokens.js";

export class Lane {
  /** `page` has mode, echo and system, and the callbacks `changed`, `settled` and `unfold`. */
  constructor(letter, page, { model, settings, turns }) {
    Object.assign(this, { letter, page, model, settings: { ...DEFAULTS, ...settings }, turns: [], verdict: null });
    this.panel = new Panel(`setting-${letter}`, this.settings, () => this.changed());
    this.badge = make("span", { class: "badge", "aria-hidden": "true" }, letter.toUpperCase());
    this.select = make("select", { "aria-label": `Model ${letter.toUpperCase()}`, change: () => this.choose(this.select.value) });
    this.about = make("span", { class: "quiet about" });
    this.toggle = make("button", { type: "button", class: "toggle", "aria-expanded": "false",
      "aria-controls": `panel-${letter}`, click: () => this.page.unfold(!this.opened) });
    this.results = make("div", { class: "results" });
    this.panel.root.id = `panel-${letter}`;
    this.inner = make("div", { class: "inner" },
      make("div", { class: "head" }, this.badge, this.select, this.about, this.toggle), this.results, this.panel.root);
    this.root = make("section", { class: "lane", "aria-label": `Side ${letter.toUpperCase()}` }, this.inner);
    for (const [content, input, text] of turns ?? []) this.restore(content, input, text);
    this.changed();
  }

  get served() {
    return this.page.models.find(({ id }) => id === this.model);
  }

  get running() {
    return [this.verdict, ...this.turns.flatMap(({ answers }) => answers)].filter((one) => one?.running);
  }

  get opened() {
    return this.toggle.ariaExpanded === "true";
  }

  /** Show or hide the settings where there is no room for them beside the answers. */
  open(wanted) {
    this.toggle.ariaExpanded = String(wanted);
    this.inner.classList.toggle("open", wanted);
  }

  /** Offer these models and show the settings of the current mode. */
  suit(models) {
    if (!models.some(({ id }) => id === this.model)) this.model = models[0].id;
    this.select.replaceChildren(...models.map(({ id }) => make("option", { value: id, selected: id === this.model }, id)));
    this.panel.suit(this.page.mode);
    this.choose(this.model);
  }

  choose(model) {
    this.model = model;
    const { parameters, context } = this.served;
    const facts = [parameters && `${count(parameters)} parameters`, context && `${count(context)}-token context`];
    this.about.textContent = facts.filter(Boolean).join(" · ");
    this.changed();
  }

  changed() {
    this.toggle.textContent = `Settings: ${summary(this.settings, this.page.mode)}`;
    this.page.changed();
  }

  /** Send a new prompt; in a chat it continues the conversation. */
  ask({ content, input, seed }) {
    if (this.page.mode === "classify") return this.classify(content, input);
    if (this.page.mode !== "chat") this.clear();
    return this.answer(this.turn(content, input), { seed });
  }

  /** Generate another answer to the last prompt. */
  again(seed) {
    if (this.page.mode === "classify") return this.verdict && this.classify(this.verdict.body.input, this.verdict.body.pair);
    const turn = this.turns.at(-1);
    return turn && this.answer(turn, { seed });
  }

  async classify(input, pair) {
    this.clear();
    const body = { model: this.model, input, attribution: this.settings.attribution };
    this.verdict = new Verdict(this.page.named(this), pair ? { ...body, pair } : body);
    this.results.replaceChildren(this.verdict.root);
    await this.verdict.run();
    this.page.settled();
  }

  turn(content, input) {
    const turn = { content, input, answers: [], shown: -1, root: make("article", { class: "turn" }) };
    this.turns.push(turn);
    this.results.append(turn.root);
    return turn;
  }

  /** `kept`: tokens of another answer that this one starts with. */
  async answer(turn, { seed, kept = [] }) {
    const complete = this.page.mode === "complete";
    const take = complete ? (index, text) => this.branch(turn, answer, index, text) : null;
    const answer = new Answer(this.page.named(this), { seed, take, given: complete ? turn.content : "" });
    answer.keep(kept);
    const body = this.body(turn, answer, seed);
    turn.shown = turn.answers.push(answer) - 1;
    this.show(turn);
    this.page.changed();
    this.page.follow(turn.root);
    await answer.run(body, (choices) => choices.length > 1 && this.panel.explain(choices));
    this.show(turn);
    this.page.settled();
  }

  /** Continue from another token than the one that was drawn. */
  branch(turn, answer, index, text) {
    answer.stop();
    const kept = [...answer.box.items.slice(0, index), { text, logprob: null, top: [], why: "was chosen by you." }];
    this.page.branched();
    return this.answer(turn, { seed: answer.seed, kept });
  }

  body(turn, answer, seed) {
    const body = { model: this.model, ...requested(this.settings), seed };
    if (this.page.mode === "complete") {
      const kept = tokensIn(answer.box.items);
      const echo = this.page.echo && !answer.box.items.length && turn.content !== "";
      body.max_tokens = Math.max(1, body.max_tokens - kept);
      return { ...body, prompt: turn.content + answer.text, logprobs: TOP, ...(echo ? { echo } : {}) };
    }
    const before = this.turns.slice(0, this.turns.indexOf(turn));
    const earlier = before.flatMap((one) => [user(one), { role: "assistant", content: one.answers[one.shown].text }]);
    const system = this.page.mode === "chat" && this.page.system ? [{ role: "system", content: this.page.system }] : [];
    return { ...body, messages: [...system, ...earlier, user(turn)], logprobs: true, top_logprobs: TOP };
  }

  /** Show a turn: its prompt, the selected answer, and buttons to the other answers. */
  show(turn) {
    const answer = turn.answers[turn.shown];
    const step = (by) => {
      turn.shown += by;
      this.show(turn);
    };
    const arrow = (by, label, sign) => make("button", { type: "button", class: "plain", "aria-label": label,
      disabled: !turn.answers[turn.shown + by], click: () => step(by) }, sign);
    const others = turn.answers.length > 1
      ? [make("div", { class: "others", role: "group", "aria-label": "Answers" }, arrow(-1, "Previous answer", "‹"),
          `${turn.shown + 1} of ${turn.answers.length}`, arrow(1, "Next answer", "›"))]
      : [];
    const asked = this.page.mode === "complete" ? []
      : [make("div", { class: "asked" }, turn.content, ...(turn.input ? [make("p", { class: "quiet" }, turn.input)] : []))];
    turn.root.replaceChildren(...asked, answer.root, ...others);
  }

  restore(content, input, text) {
    const turn = this.turn(content, input);
    const answer = new Answer(this.page.named(this), { seed: null });
    answer.push({ text, logprob: null, top: [], why: "is text from the link." });
    answer.turn("done");
    answer.facts.textContent = "from the link";
    turn.shown = turn.answers.push(answer) - 1;
    this.show(turn);
  }

  stop() {
    for (const one of this.running) one.stop();
  }

  clear() {
    this.stop();
    [this.turns, this.verdict] = [[], null];
    this.results.replaceChildren();
  }

  /** This lane's state in a link. */
  get state() {
    const seed = this.settings.seed ?? this.turns.at(-1)?.answers.at(-1)?.seed ?? null;
    const turns = this.page.mode === "chat" ? this.turns : [];
    return { model: this.model, settings: { ...this.settings, seed },
      turns: turns.map((one) => [one.content, one.input, one.answers[one.shown].text]) };
  }
}

const user = ({ content, input }) => (input ? { role: "user", content, input } : { role: "user", content });
