import json

import pytest

from tests.evaluation.conftest import HELLASWAG


@pytest.mark.slow  # lm-eval, in fresh interpreters
def test_both_choose_the_same_answers(benchmark, byte_tokenizer, tmp_path):
    byte_tokenizer.save(tmp_path / "bytes")
    (tmp_path / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in HELLASWAG))
    words = ["--data", str(tmp_path / "val.jsonl"), "--tokenizer", str(tmp_path / "bytes"), "--n-layer", "1"]
    result = benchmark("choice.py", *words, "--rounds", "1", "--questions", "4", "--batch-sizes", "2")
    mine, their = result["table"]["gptworks fp32"], result["table"]["lm_eval hf fp32, batch 2"]
    assert their["same_answers"] == their["questions"] == 4
    assert their["largest_difference"] < 1e-3
    assert their["accuracy"] == mine["accuracy"]
    assert their["ours_is_faster_by"] == pytest.approx(
        mine["examples_per_second"] / their["examples_per_second"]
    )
