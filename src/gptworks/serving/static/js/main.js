// The page: the prompt, one or two lanes that answer it, and what they share.

import * as api from "./api.js";
import { announce, find, make, toast } from "./dom.js";
import { listen } from "./keys.js";
import { Lane } from "./lane.js";
import { decode, encode } from "./link.js";
import { able, MODES, natural } from "./modes.js";
import * as popover from "./popover.js";
import { EDGES } from "./tokens.js";

const page = {
  models: [],
  lanes: [],
  mode: "complete",

  get echo() { return find("echo").checked; },
  get system() { return find("system").value.trim(); },
  named: (lane) => (page.lanes.length > 1 ? `Answer ${lane.letter.toUpperCase()}` : "Answer"),
  changed,
  settled,
  branched() {
    popover.hide();
    announce("Continuing from another token.");
  },
  follow() {
    if (page.mode === "chat") toBottom();
  },
  /** Open or close the settings of both sides together, so that the answers stay aligned. */
  unfold(wanted) {
    for (const lane of page.lanes) lane.open(wanted);
  },
};

const toBottom = () => scrollTo(0, document.documentElement.scrollHeight);

let atEnd = true;

/** Keep a chat scrolled to its end while it grows, if the user is there. */
function stick() {
  addEventListener("scroll", () => (atEnd = innerHeight + scrollY > document.documentElement.scrollHeight - 90), { passive: true });
  new ResizeObserver(() => page.mode === "chat" && atEnd && running().length && toBottom()).observe(find("lanes"));
}

async function start() {
  popover.mount();
  stick();
  legend();
  for (const [id, action] of Object.entries({ again, clear, compare, link, theme })) find(id).addEventListener("click", action);
  find("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    running().length ? stop() : run();
  });
  find("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    api.useKey(find("key").value);
    open();
  });
  find("colour").addEventListener("change", recolour);
  listen({ run, stop, again, compare, link, colour: () => find("colour").click(), chats: () => page.mode === "chat" });
  addEventListener("hashchange", () => page.models.length && decode(location.hash) && restore());
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    find("prompt").focus();
  });
  await open();
}

/** Load the list of models and show the page. */
async function open() {
  try {
    page.models = await api.models();
  } catch (trouble) {
    find("key-form").hidden = trouble.status !== 401;
    find("trouble").hidden = trouble.status === 401;
    find("trouble").textContent = trouble.message;
    if (trouble.status === 401) find("key").focus();
    return;
  }
  find("trouble").hidden = find("key-form").hidden = true;
  find("ask").hidden = find("view").hidden = false;
  restore();
}

/** Restore the state in the URL, or start with defaults. */
function restore() {
  const state = decode(location.hash);
  const mode = state && able(page.models, state.mode).length ? state.mode : natural(page.models[0]);
  for (const lane of page.lanes) lane.clear();
  for (const name of ["system", "prompt", "second"]) find(name).value = state?.[name] ?? "";
  find("colour").checked = state?.colour ?? true;
  page.mode = mode;
  const missing = state?.lanes.filter(({ model }) => !page.models.some(({ id }) => id === model)) ?? [];
  find("trouble").hidden = missing.length === 0;
  find("trouble").textContent = `The link uses ${missing.map(({ model }) => model).join(" and ")}, which is not served here. `
    + "Start gptworks serve with it, or choose another model.";
  const lanes = state?.lanes.length ? state.lanes : [{ model: able(page.models, mode)[0].id }];
  page.lanes = lanes.map((lane, number) => new Lane("ab"[number], page, able(page.models, mode).some(({ id }) => id === lane.model)
    ? lane : { ...lane, model: able(page.models, mode)[0].id }));
  suit(mode);
  recolour();
}

/** Switch the page to a mode. */
function suit(mode) {
  const changed = page.mode !== mode;
  page.mode = mode;
  const { prompt, second, why, hint, examples } = MODES[mode];
  document.body.dataset.mode = mode;
  const possible = Object.keys(MODES).filter((one) => able(page.models, one).length);
  if (find("modes").querySelectorAll("input").length !== possible.length) {
    find("modes").append(...possible.map((one) => make("label", {}, make("input", { type: "radio", name: "mode", value: one,
      change: () => suit(one) }), MODES[one].name)));
  }
  find("modes").querySelector(`[value="${mode}"]`).checked = true;
  find("prompt-label").textContent = prompt;
  find("prompt-hint").textContent = hint;
  find("second-field").hidden = !second;
  find("second-label").replaceChildren(`${second} `, make("span", { class: "quiet" }, `(optional: ${why})`));
  find("system-field").hidden = mode !== "chat";
  find("again").hidden = mode === "classify";
  // the prompt is above the answers, except in a chat
  if (mode === "chat") find("lanes").after(find("ask"));
  else find("view").before(find("ask"));
  find("run").dataset.word = { chat: "Send", classify: "Classify" }[mode] ?? "Run";
  find("examples").replaceChildren(...examples.map((text) => make("button", { type: "button", class: "plain", click: () => example(text) }, text)));
  find("echo").closest("label").hidden = mode !== "complete";
  find("colour-label").textContent = mode === "classify" ? "Colour by attribution" : "Colour by probability";
  find("legend").hidden = mode === "classify";
  find("legend-classes").hidden = mode !== "classify";
  if (changed) for (const lane of page.lanes) lane.clear();
  for (const lane of page.lanes) lane.suit(able(page.models, mode));
  arrange();
}

function arrange() {
  const two = page.lanes.length > 1;
  document.body.classList.toggle("two", two);
  find("compare").setAttribute("aria-pressed", String(two));
  find("lanes").replaceChildren(...page.lanes.map(({ root }) => root));
  changed();
}

function legend() {
  const percent = (share) => `${100 * share}%`;
  const names = [...EDGES.map((edge) => `≥ ${percent(edge)}`), `< ${percent(EDGES.at(-1))}`];
  find("legend").append("likely", ...names.map((name, i) => make("i", { class: `t p${i}` }, name)), "unlikely");
  const echo = make("input", { type: "checkbox", id: "echo" });
  find("view").append(make("label", { class: "check" }, echo, "Colour the prompt too"));
}

const running = () => page.lanes.flatMap((lane) => lane.running);

function run() {
  if (running().length) return;
  const [content, input] = [find("prompt").value, find("second-field").hidden ? "" : find("second").value.trim()];
  if (!content.trim() && !MODES[page.mode].empty) {
    toast(`Enter ${{ chat: "a message", classify: "a text" }[page.mode] ?? "an instruction"} first`);
    return find("prompt").focus();
  }
  popover.hide();
  find("trouble").hidden = true;
  if (matchMedia("(max-width: 46rem)").matches) page.unfold(false); // otherwise the answer would be far below
  const fresh = seed();
  const asked = page.lanes.map((lane) => lane.ask({ content, input, seed: lane.settings.seed ?? fresh }));
  if (page.mode === "chat") find("prompt").value = "";
  announce("Request sent.");
  changed();
  return Promise.all(asked);
}

function again() {
  if (running().length || find("again").disabled) return;
  popover.hide();
  const fresh = seed();
  for (const lane of page.lanes) lane.again(lane.settings.seed ?? fresh);
  changed();
}

function stop() {
  for (const lane of page.lanes) lane.stop();
}

function clear() {
  for (const lane of page.lanes) lane.clear();
  find("prompt").value = find("second").value = "";
  changed();
  find("prompt").focus();
}

/** A new seed; both sides of a comparison use the same one. */
const seed = () => crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;

function example(text) {
  find("prompt").value = text;
  find("prompt").focus();
}

function compare() {
  if (page.lanes.length > 1) {
    page.lanes.pop().clear();
  } else {
    const [first] = page.lanes;
    const models = able(page.models, page.mode);
    const other = models.find(({ id }) => id !== first.model) ?? models[0];
    const lane = new Lane("b", page, { model: other.id, settings: first.settings });
    page.lanes.push(lane);
    lane.suit(models);
    page.unfold(first.opened || models.length === 1); // with a single model, the settings will differ
  }
  announce(page.lanes.length > 1 ? "Comparing two sides." : "Showing one side.");
  arrange();
}

/** Update the buttons and markers after any change to the lanes. */
function changed() {
  const busy = running().length > 0;
  find("run").textContent = busy ? "Stop" : find("run").dataset.word ?? "Run";
  find("run").classList.toggle("stop", busy);
  find("again").disabled = busy || !page.lanes.some(({ turns, verdict }) => turns.length || verdict);
  if (page.lanes.length === 0) return;
  const [a, b] = page.lanes;
  for (const { panel } of page.lanes) panel.differ(b ? [a.settings, b.settings] : null);
}

/** An answer has ended. */
function settled() {
  changed();
  if (page.mode === "chat" && atEnd) toBottom(); // an answer may arrive in one piece, between two frames
  const [a, b] = page.lanes.map((lane) => lane.turns.at(-1)?.answers.at(-1));
  if (!a || !b || a.running || b.running) return;
  for (const one of [a, b]) one.root.querySelector(".fork")?.classList.remove("fork");
  const [left, right] = [a, b].map(({ box }) => box.items.filter(({ given }) => !given));
  const same = left.findIndex(({ text }, i) => text !== right[i]?.text);
  if (same > 0) for (const one of [left, right]) one[same]?.span.classList.add("fork");
}

function recolour() {
  document.body.classList.toggle("uncoloured", !find("colour").checked);
}

async function link() {
  const state = { mode: page.mode, colour: find("colour").checked, lanes: page.lanes.map((lane) => lane.state) };
  for (const name of ["system", "prompt", "second"]) state[name] = find(name).value;
  history.replaceState(null, "", encode(state));
  try {
    await navigator.clipboard.writeText(location.href);
    toast("Link copied, with prompt, models and settings");
  } catch {
    toast("The link is in the address bar");
  }
}

function theme() {
  const order = ["system", "light", "dark"];
  const now = order[(order.indexOf(document.documentElement.dataset.theme ?? "system") + 1) % 3];
  if (now === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = now;
  find("theme").textContent = `Theme: ${now}`;
}

start();
