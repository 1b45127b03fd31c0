// What can be done with which kind of model, and how the page asks for it.

export const MODES = {
  complete: { name: "Complete", kinds: ["base", "chat", "instruct"], prompt: "Prompt", empty: true,
    hint: "The model goes on from here.",
    examples: ["Once upon a time", "The meaning of life is", "Dear diary,"] },
  instruct: { name: "Instruct", kinds: ["instruct"], prompt: "Instruction", second: "Input", why: "what it is about",
    hint: "One instruction, one answer.",
    examples: ["Name three primary colours.", "Write a haiku about the sea.", "Give three tips for sleeping well."] },
  chat: { name: "Chat", kinds: ["chat"], prompt: "Message", hint: "Enter sends, Shift+Enter breaks the line.",
    examples: ["Who are you?", "Tell me a joke about cats."] },
  classify: { name: "Classify", kinds: ["classifier"], prompt: "Text", second: "Second text",
    why: "for a model that was trained on pairs", hint: "The model says what it is.",
    examples: ["WINNER!! Claim your free prize now, text WIN to 80086", "See you at five, shall I bring the tickets?"] },
};

/** Models that can do it. */
export const able = (models, mode) => models.filter(({ kind }) => MODES[mode].kinds.includes(kind));

/** What a model is for. */
export const natural = ({ kind }) => ({ base: "complete", instruct: "instruct", chat: "chat", classifier: "classify" })[kind];
