// Answers what llama.cpp makes of a GGUF file: node llama.mjs NODE_LLAMA_CPP QUESTION.json ANSWER.json; a question is {"model", "texts", "prompts", "n", ...}
import {pathToFileURL} from "node:url";
import fs from "node:fs";
import path from "node:path";

const folder = process.argv[2];
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(path.join(folder, "dist", "index.js")).href);
const asked = JSON.parse(fs.readFileSync(process.argv[3], "utf8"));
const llama = await getLlama({
    build: "never", gpu: false, usePrebuiltBinaries: true, skipDownload: true, maxThreads: 1, logLevel: LlamaLogLevel.error
});
const model = await llama.loadModel({modelPath: asked.model, useMmap: false});
const context = await model.createContext({contextSize: asked.context, batchSize: asked.context, threads: 1, flashAttention: false});
const sequence = context.getSequence();
const answer = {
    ids: asked.texts.map((text) => model.tokenize(text)),
    special: asked.texts.map((text) => model.tokenize(text, true)),
    greedy: [],
    bos: model.tokens.bos,
    eos: model.tokens.eos,
    prependBos: model.tokens.shouldPrependBosToken,
    template: model.fileInfo.metadata.tokenizer?.chat_template ?? null
};
for (const prompt of asked.prompts) {
    await sequence.clearHistory();
    const said = [];
    for await (const token of sequence.evaluate(prompt, {temperature: 0, yieldEogToken: true})) {
        said.push(token);
        if (said.length >= asked.n || token === model.tokens.eos) break;
    }
    answer.greedy.push({ids: said, text: model.detokenize(said, true)});
}
fs.writeFileSync(process.argv[4], JSON.stringify(answer));
await llama.dispose();
process.exit(0);
