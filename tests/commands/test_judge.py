import json

import pytest

from gptworks import runs
from gptworks.cli import main
from gptworks.model import checkpoint
from tests.evaluation.judges import Judge, serving

KEY = "sk-never-to-be-written-7391"
ROWS = [
    {"instruction": f"Say {n}.", "input": "", "output": str(n), "model_response": f"It is {n}"}
    for n in range(10)
]


@pytest.fixture
def run(tmp_path, tiny_gpt2, byte_tokenizer):
    """A run with one checkpoint, and responses."""
    folder = tmp_path / "run" / "checkpoints" / "step-000001"
    tiny_gpt2.save_pretrained(folder)
    byte_tokenizer.save(folder)
    (folder / "trainer").mkdir()
    (folder / "trainer" / "complete.json").write_text('{"sha256": {}}')
    (folder / "trainer" / "state.json").write_text('{"step": 1, "epoch": 0.5}')
    (tmp_path / "run" / "results").mkdir()
    (tmp_path / "run" / "results" / "responses.json").write_text(json.dumps(ROWS))
    return tmp_path / "run"


def judged(run, url, *more):
    argv = [
        "judge",
        str(run),
        "--base-url",
        url,
        "--judge",
        "openai:j",
        "--pause",
        "0.001",
        "--concurrency",
        "2",
    ]
    return main([*argv, *more])


def everything(folder):
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


def test_scores_are_kept_with_all_they_mean_and_the_key_is_not(run, capsys, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    judge = Judge(
        lambda prompt: "not sure" if "Say 3." in prompt else f"{KEY} 90" if "Say 4." in prompt else "80"
    )
    with serving(judge) as url:
        assert judged(run, url, "--key-env", "JUDGE_KEY", "--price", "1", "2", "--split", "test") == 0
    printed = capsys.readouterr()
    assert "10 requests" in printed.err
    assert "about $0.00" in printed.err
    assert set(judge.keys) == {f"Bearer {KEY}"}
    result = json.loads((run / "results" / "judge-j.json").read_text())
    (row,) = result["rows"]
    assert (row["value"], row["n"], row["split"]) == (80, 8, "test")
    (note,) = row["notes"]
    assert note.startswith("2 ")
    assert row["model_fingerprint"] == checkpoint.fingerprint(runs.Run(run).checkpoint())
    assert [one["said"] for one in result["judged"]][3] == ["not sure"]
    assert "points 80.00" in printed.out
    assert KEY.encode() not in everything(run)
    assert KEY not in printed.out + printed.err


def test_a_judge_that_fails_half_way_is_resumed_from_the_cache(run, capsys):
    broken = Judge(lambda prompt: "50", misbehave=lambda n: 503 if n > 4 else None)
    fine = Judge(lambda prompt: "50")
    with serving(broken) as url:
        assert judged(run, url, "--tries", "2") == 75
        assert "6 got no reply" in capsys.readouterr().out
        broken.misbehave = lambda n: None
        before = len(broken.prompts)
        assert judged(run, url) == 0
        assert len(broken.prompts) - before == 6
    assert "6 requests (4 more are cached)" in capsys.readouterr().err
    assert not fine.prompts


def test_pairs_are_shown_in_both_orders(run, capsys):
    judge = Judge(lambda prompt: "A" if prompt.index("It is") < prompt.index("Assistant B") else "B")
    with serving(judge) as url:
        assert judged(run, url, "--against", "reference", "--n", "3") == 0
    assert len(judge.prompts) == 6
    (row,) = json.loads((run / "results" / "judge-j-against-reference.json").read_text())["rows"]
    assert (row["value"], row["metric"]) == (1.0, "wins against reference")


def test_a_run_answers_questions_itself_and_once(run, tmp_path, capsys):
    data = tmp_path / "test.json"
    data.write_text(json.dumps([{"instruction": "Hi", "input": "", "output": "Ho"}, {**ROWS[0]}]))
    with serving(judge := Judge(lambda prompt: "1")) as url:
        # The tiny model's context is shorter than the template: no room, no answer, and that is said.
        assert judged(run, url, "--data", str(data)) == 0
    assert "1 instructions fill the model's context" in capsys.readouterr().err
    assert any("model response ``" in prompt for prompt in judge.prompts)
    with serving(judge) as url:
        assert judged(run, url, "--data", str(data), "--dry-run") == 0
    assert "fill the model's context" not in capsys.readouterr().err
    assert len(judge.prompts) == 2


def test_a_run_is_asked_as_it_was_taught(run, tmp_path, byte_tokenizer, capsys):
    folder = runs.Run(run).checkpoint()
    byte_tokenizer.with_template(
        "{{ messages[0].content }}?{% if messages[1] %}x{{ eos_token }}{% endif %}"
    ).save(folder)
    data = tmp_path / "test.json"
    data.write_text(json.dumps([{"instruction": "Hi", "input": "", "output": "Ho"}]))
    capsys.readouterr()
    with serving(judge := Judge(lambda prompt: "1")) as url:
        assert judged(run, url, "--data", str(data), "--max-tokens", "4") == 0
    assert (
        main(["generate", str(run), "--prompt", "Hi?", "--temperature", "0", "--max-tokens", "4", "--json"])
        == 0
    )
    (alone,) = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert alone["text"].strip() in judge.prompts[0]
    assert "no chat template" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["RUN"], "OPENAI_API_KEY"),
        (["RUN", "--judge", "gpt-4o"], "openai:MODEL"),
        (["RUN", "--base-url", "localhost:80"], "--base-url localhost:80"),
        (["RUN", "--base-url", "http://127.0.0.1:9/v1", "--tries", "1"], "http://127.0.0.1:9/v1"),
        (["nowhere"], "nowhere"),
        (["RUN", "--data", "nothing.json", "--base-url", "http://127.0.0.1:9/v1"], "nothing.json"),
        (["RUN", "--against", "nothing.json", "--base-url", "http://127.0.0.1:9/v1"], "nothing.json"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_one_line(run, monkeypatch, tmp_path, capsys, argv, named):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    if argv == ["nowhere"]:
        argv = ["nowhere", "--base-url", "http://127.0.0.1:9/v1"]
    assert main(["judge", *[str(run) if word == "RUN" else word for word in argv]]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert named in last
    assert not list((run / "results").glob("judge-[a-z]*-*.json"))


def test_nonsense_from_the_judge_is_no_score(run, capsys):
    with serving(Judge(lambda prompt: "As a language model")) as url:
        assert judged(run, url) == 2
    assert "As a language model" in capsys.readouterr().err
