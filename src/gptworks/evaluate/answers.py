"""How good answers are, as far as comparing them with a reference says anything.

ROUGE-L: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", section 3. BLEU: Papineni et al. 2002,
through sacrebleu (Post 2018), whose signature says how. Cheap, and blind to answers that are right in other words.
"""

import importlib.metadata
from collections.abc import Sequence
from typing import Any

import numpy as np

from gptworks.data.conversations import Conversation
from gptworks.generate.batch import generate_many
from gptworks.generate.settings import GenerateSettings
from gptworks.model.build import Model
from gptworks.text.templates import Chat
from gptworks.text.tokenizer import Tokenizer
from gptworks.wording import counted

NEEDS = "ROUGE-L and BLEU need two libraries: pip install 'gptworks[eval]'"


def respond(
    model: Model, tokenizer: Tokenizer, conversations: Sequence[Conversation], max_tokens: int
) -> list[dict[str, Any]]:
    """What the model says, taking the likeliest token, in place of each conversation's last answer.

    `instruction`, `input`, `output` (the reference), `model_response`, `finish_reason`, and the `messages` before,
    where there are any.
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


def line(found: dict[str, Any]) -> str:
    """Scores in a line."""
    both = found.get("missing") or f"ROUGE-L {found['rouge_l']:.3f}, BLEU {found['bleu']:.1f}"
    return (
        f"{counted(found['n'], 'answer')} in results/responses.json: {both}, exact {found['exact_match']:.2f}, "
        f"{found['ended_by_themselves']:.0%} end by themselves"
    )


def scores(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean ROUGE-L (F1), corpus BLEU and the share of exact matches, with definitions; of `respond`'s rows."""
    pairs = [(row["output"], row["model_response"]) for row in rows]
    same = np.array([" ".join(wanted.split()) == " ".join(said.split()) for wanted, said in pairs])
    found: dict[str, Any] = {
        "n": len(pairs),
        "exact_match": float(same.mean()),
        "ended_by_themselves": float(np.mean([row["finish_reason"] == "eos" for row in rows])),
    }
    try:
        from rouge_score import rouge_scorer
        from sacrebleu.metrics.bleu import BLEU
    except ImportError:
        return found | {"missing": NEEDS}
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    rouge = np.array([scorer.score(wanted, said)["rougeL"].fmeasure for wanted, said in pairs])
    bleu = BLEU()
    corpus = bleu.corpus_score([said for _, said in pairs], [[wanted for wanted, _ in pairs]])
    error = float(rouge.std(ddof=1) / len(rouge) ** 0.5) if len(rouge) > 1 else None
    return found | {
        "rouge_l": float(rouge.mean()),
        "rouge_l_standard_error": error,
        "bleu": corpus.score,
        "definitions": {
            "exact_match": "equal but for spaces",
            "rouge_l": f"F1, mean of answers, no stemming (rouge-score {importlib.metadata.version('rouge-score')})",
            "bleu": str(bleu.get_signature()),
        },
    }
