// Keyboard shortcuts, and the dialog that lists them. Letters need Alt, so that nobody triggers one by accident.

import { find, make } from "./dom.js";
import * as popover from "./popover.js";

const LISTED = [
  ["Ctrl/⌘ + Enter", "Run (in a chat, just Enter)"], ["Esc", "Close the open card, or stop generating"], ["Alt + R", "Regenerate"],
  ["Alt + C", "Turn comparison on or off"], ["Alt + P", "Turn colours on or off"], ["Alt + L", "Copy a link"],
  ["← →", "In an answer: move through its tokens"], ["Enter", "On a token: choose an alternative"], ["Alt + K", "Show this list"],
];

/** `actions`: run, stop, again, compare, colour, link. */
export function listen(actions) {
  const letters = { KeyR: actions.again, KeyC: actions.compare, KeyP: actions.colour, KeyL: actions.link, KeyK: list };
  addEventListener("keydown", (event) => {
    const enter = event.key === "Enter" && !event.isComposing;
    const sends = event.target.id === "prompt" && actions.chats() && !event.shiftKey;
    if (enter && (event.ctrlKey || event.metaKey || sends)) {
      event.preventDefault();
      actions.run();
    } else if (event.key === "Escape" && !find("keys").open) {
      if (!popover.hide()) actions.stop();
    } else if (event.altKey && !event.ctrlKey && !event.metaKey && letters[event.code]) {
      event.preventDefault();
      letters[event.code]();
    }
  });
  find("help").addEventListener("click", list);
}

function list() {
  const rows = LISTED.flatMap(([keys, words]) => [make("dt", {}, make("kbd", {}, keys)), make("dd", {}, words)]);
  find("keys-list").replaceChildren(...rows);
  find("keys").showModal();
}
