// The page's state as a URL fragment, which browsers do not send to the server.

import { DEFAULTS, parse } from "./settings.js";

const PLAIN = ["mode", "system", "prompt", "second"];
const LANES = ["a", "b"];
export const MODES = ["complete", "instruct", "chat", "classify"];

/** `state`: mode, system, prompt, second, colour, and lanes of {model, settings, turns}. */
export function encode(state) {
  const out = new URLSearchParams();
  for (const name of PLAIN) if (state[name]) out.set(name, state[name]);
  if (!state.colour) out.set("colour", "0");
  state.lanes.forEach(({ model, settings, turns }, number) => {
    const lane = LANES[number];
    out.set(`${lane}.model`, model);
    for (const [name, value] of Object.entries(settings)) {
      if (value !== DEFAULTS[name] && value !== null) out.set(`${lane}.${name}`, value);
    }
    if (turns?.length) out.set(`${lane}.turns`, JSON.stringify(turns));
  });
  return `#${out}`;
}

/** The state in a fragment, or null if it holds none. Unknown or invalid parts are ignored. */
export function decode(fragment) {
  const fields = new URLSearchParams(fragment.replace(/^#/, ""));
  if (!MODES.includes(fields.get("mode"))) return null;
  const state = { colour: fields.get("colour") !== "0", lanes: [] };
  for (const name of PLAIN) state[name] = fields.get(name) ?? "";
  for (const lane of LANES) {
    if (!fields.has(`${lane}.model`)) break;
    const settings = { ...DEFAULTS };
    for (const name of Object.keys(DEFAULTS)) {
      if (fields.has(`${lane}.${name}`)) settings[name] = parse(name, fields.get(`${lane}.${name}`));
    }
    state.lanes.push({ model: fields.get(`${lane}.model`), settings, turns: conversation(fields.get(`${lane}.turns`)) });
  }
  return state;
}

/** [[user, input, answer], ...] */
function conversation(json) {
  try {
    const turns = JSON.parse(json) ?? [];
    return turns.filter((turn) => Array.isArray(turn) && turn.length === 3 && turn.every((part) => typeof part === "string"));
  } catch {
    return [];
  }
}
