// The modes of the page: which kinds of model each needs, and its labels.

export const MODES = {
  complete: { name: "Complete", kinds: ["base", "chat", "instruct"], prompt: "Prompt", empty: true,
    hint: "The model continues this text.",
    examples: ["Once upon a time", "The meaning of life is", "Dear diary,"] },
  instruct: { name: "Instruct", kinds: ["instruct"], prompt: "Instruction", second: "Input", why: "the text the instruction applies to",
    hint: "One instruction, one answer.",
    examples: ["Name three primary colours.", "Write a haiku about the sea.", "Give three tips for sleeping well."] },
  chat: { name: "Chat", kinds: ["chat"], prompt: "Message", hint: "Enter sends the message, Shift+Enter starts a new line.",
    examples: ["Who are you?", "Tell me a joke about cats."] },
  classify: { name: "Classify", kinds: ["classifier"], prompt: "Text", second: "Second text",
    why: "for models trained on pairs", hint: "The model predicts the class.",
    examples: ["WINNER!! Claim your free prize now, text WIN to 80086", "See you at five, shall I bring the tickets?"] },
};

/** The models that a mode can use. */
export const able = (models, mode) => models.filter(({ kind }) => MODES[mode].kinds.includes(kind));

/** The mode that a kind of model is made for. */
export const natural = ({ kind }) => ({ base: "complete", instruct: "instruct", chat: "chat", classifier: "classify" })[kind];
