"""Generated answers compared with their references.

ROUGE-L: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", section 3. BLEU: Papineni et al. 2002,
with sacrebleu (Post 2018) and its signature. Both are cheap, and miss right answers in other words.
"""

import importlib.metadata
from collections.abc import Sequence
from typing import Any

import numpy as np

from gptworks.data.conversations import Conversation
from gptworks.generation.engine import generate_many
from gptworks.generation.requests import GenerateSettings
from gptworks.messages import counted
from gptworks.model.build import Model
from gptworks.text.templates import Chat
from gptworks.text.tokenizer import Tokenizer

NEEDS = "ROUGE-L and BLEU need two libraries: pip install 'gptworks[eval]'"


def respond(
    model: Model, tokenizer: Tokenizer, conversations: Sequence[Conversation], max_tokens: int
) -> list[dict[str, Any]]:
    """Greedy answers of the model in place of each conversation's last message, as rows of results/responses.json.

    Keys: `instruction`, `input`, `output` (the reference), `model_response`, `finish_reason`, and `messages` if the
    conversation has earlier ones.
    """
    chat = Chat(tokenizer)
    prompts = [chat.prompt(conversation[:-1]) for conversation in conversations]
    settings = GenerateSettings(max_tokens=max_tokens, temperature=0.0)
    samples = generate_many(model, tokenizer, prompts, settings)
    rows = []
    for conversation, sample in zip(conversations, samples, strict=True):
        *before, question, answer = conversation
        row: dict[str, Any] = {"instruction": question.content, "input": question.input}
        row |= {
            "output": answer.content,
            "model_response": sample.text,
            "finish_reason": sample.finish_reason,
        }
        if before:
            row["messages"] = [{"role": message.role, "content": message.content} for message in before]
        rows.append(row)
    return rows


def line(scores: dict[str, Any]) -> str:
    """The scores in one line."""
    overlap = scores.get("missing") or f"ROUGE-L {scores['rouge_l']:.3f}, BLEU {scores['bleu']:.1f}"
    return (
        f"{counted(scores['n'], 'answer')} in results/responses.json: {overlap}, "
        f"exact match {scores['exact_match']:.2f}, {scores['ended_by_themselves']:.0%} end with end-of-text"
    )


def scores(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean ROUGE-L (F1), corpus BLEU and exact match of the rows that `respond` makes, with their definitions."""
    pairs = [(row["output"], row["model_response"]) for row in rows]
    same = np.array([" ".join(reference.split()) == " ".join(answer.split()) for reference, answer in pairs])
    measured: dict[str, Any] = {
        "n": len(pairs),
        "exact_match": float(same.mean()),
        "ended_by_themselves": float(np.mean([row["finish_reason"] == "eos" for row in rows])),
    }
    try:
        from rouge_score import rouge_scorer
        from sacrebleu.metrics.bleu import BLEU
    except ImportError:
        return measured | {"missing": NEEDS}
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    rouge = np.array([scorer.score(reference, answer)["rougeL"].fmeasure for reference, answer in pairs])
    bleu = BLEU()
    corpus = bleu.corpus_score([answer for _, answer in pairs], [[reference for reference, _ in pairs]])
    error = float(rouge.std(ddof=1) / len(rouge) ** 0.5) if len(rouge) > 1 else None
    return measured | {
        "rouge_l": float(rouge.mean()),
        "rouge_l_standard_error": error,
        "bleu": corpus.score,
        "definitions": {
            "exact_match": "equal but for spaces",
            "rouge_l": f"F1, mean of answers, no stemming (rouge-score {importlib.metadata.version('rouge-score')})",
            "bleu": str(bleu.get_signature()),
        },
    }
