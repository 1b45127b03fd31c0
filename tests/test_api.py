"""The Python API: the same path as the command line, quiet, and without traces in the process."""

import importlib
import json
import logging
import os
import pkgutil
import signal
import subprocess
import sys
import threading

import pytest

import gptworks as gw
from gptworks.cli import main
from gptworks.errors import UserError

pytestmark = pytest.mark.e2e

TEXT = "".join(f"the cat number {n} sat on mat {n * n}. " for n in range(400))
SHAPE = {"n_layer": 1, "n_head": 2, "n_embd": 16, "context": 32}
SHORT = {"max_steps": 6, "batch_tokens": 256, "precision": "fp32", "compile": "off"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tokenizer, a Dataset and a run that the API made."""
    folder = tmp_path_factory.mktemp("api")
    (folder / "texts").mkdir()
    for n in range(20):
        (folder / "texts" / f"{n}.txt").write_text(TEXT[n * 50 :])
    gw.train_tokenizer(sources=[folder / "texts"], vocab_size=300, out=folder / "bpe")
    data = gw.prepare(
        sources=[folder / "texts"],
        tokenizer=folder / "bpe",
        out=folder / "data",
        prepare={"val_fraction": 0.2, "workers": 1},
    )
    gw.pretrain(data=data, out=folder / "run", model=SHAPE, train=SHORT)
    return folder


def test_importing_it_is_quick_and_loads_no_torch():
    code = (
        "import sys, time; start = time.perf_counter(); import gptworks as gw; gw.Run, gw.UserError, gw.pretrain\n"
        "assert not {'torch', 'transformers', 'matplotlib'} & set(sys.modules)\n"
        "print(time.perf_counter() - start)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_its_names_stay_functions_whatever_is_imported():
    kinds = {name: type(getattr(gw, name)) for name in gw.__all__}
    for module in pkgutil.walk_packages(gw.__path__, "gptworks."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    assert {name: type(getattr(gw, name)) for name in gw.__all__} == kinds
    assert callable(gw.evaluate)
    assert callable(gw.finetune.classify)


def test_a_run_is_the_one_that_the_command_line_makes(place, tmp_path):
    flags = [f"--model.{name.replace('_', '-')}={value}" for name, value in SHAPE.items()]
    flags += [f"--train.{name.replace('_', '-')}={value}" for name, value in SHORT.items()]
    assert main(["pretrain", "--data", str(place / "data"), "--out", str(tmp_path / "run"), *flags]) == 0
    ours, theirs = gw.Run(place / "run"), gw.Run(tmp_path / "run")
    assert [row.get("loss") for row in ours.metrics()] == [row.get("loss") for row in theirs.metrics()]
    same = [run.recipe() | {"out": "", "data": ""} for run in (ours, theirs)]
    assert same[0] == same[1]
    assert ours.finished


def test_a_stopped_run_says_so_and_resumes(place, tmp_path):
    run = gw.pretrain(
        data=place / "data", out=tmp_path / "run", model=SHAPE, train=SHORT | {"max_hours": 1e-9}
    )
    assert (run.finished, run.stopped) == (False, "train.max_hours")
    with pytest.raises(UserError, match="--resume"):
        gw.pretrain(data=place / "data", out=tmp_path / "run", model=SHAPE, train=SHORT)
    run = gw.pretrain(out=tmp_path / "run", resume=True, train={"max_hours": 1})
    assert (run.finished, run.stopped) == (True, None)
    steps = [row["loss"] for row in run.metrics() if "loss" in row]
    assert steps == [row["loss"] for row in gw.Run(place / "run").metrics() if "loss" in row]


def test_a_packaged_recipe_lies_under_the_tables(place, tmp_path):
    run = gw.pretrain(
        "tiny-shakespeare",
        data=place / "data",
        out=tmp_path / "run",
        model=SHAPE,
        train=SHORT | {"max_steps": 1},
    )
    assert run.recipe()["optim"]["name"] == "muon"  # the recipe's
    assert run.recipe()["model"]["n_layer"] == 1


def test_a_model_generates_streams_and_scores(place, capsys):
    lm = gw.load(place / "run", dtype="fp32")
    first, second = lm.generate("the cat", max_tokens=8, samples=2, seed=1)
    assert main(["generate", str(place / "run"), "--prompt", "the cat", "--max-tokens", "8", "--samples", "2", "--seed",
                 "1", "--dtype", "fp32", "--json"]) == 0  # fmt: skip
    assert [row["text"] for row in json.loads(capsys.readouterr().out)] == [first.text, second.text]
    assert "".join(lm.stream("the cat", max_tokens=8, seed=1)) == first.text
    assert first.finish_reason in {"length", "eos", "stop"}
    assert lm.generate("the cat", max_tokens=3, logprobs=0)[0].logprobs[0].logprob < 0
    loss = lm.loss("the cat number 3 sat on mat 9. ")
    assert loss.tokens > 5
    assert 0 < loss.bits_per_byte < 8
    assert lm.model.config.n_layer == 1
    assert lm.tokenizer.vocab_size == 300


def test_chat_uses_the_template_of_training(place, tmp_path):
    rows = [{"instruction": f"Count to {n}.", "input": "", "output": str(n)} for n in range(40)]
    (tmp_path / "data.json").write_text(json.dumps(rows))
    short = {"max_steps": 2, "precision": "fp32"}
    run = gw.finetune.instruct(
        model=place / "run",
        data=tmp_path / "data.json",
        out=tmp_path / "run",
        instruct={"template": "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}"
                  "{% endif %}{% endfor %}", "n_responses": 1, "max_response_tokens": 4},
        train=short,
        lora={"rank": 2},
    )  # fmt: skip
    assert run.recipe()["optim"]["lr"] == 5e-4  # adapters' own default
    answer = gw.load(run).chat([{"role": "user", "content": "Hi"}], max_tokens=4)
    assert isinstance(answer, gw.Sample)
    with pytest.raises(UserError, match="chat template"):
        gw.load(place / "run").chat([{"role": "user", "content": "Hi"}])
    with pytest.raises(UserError, match="role"):
        gw.load(run).chat(["Hi"])
    merged = gw.merge(run, out=tmp_path / "merged")
    assert gw.load(merged).generate("x", max_tokens=2, temperature=0)


def test_a_classifier_predicts(place, tmp_path):
    rows = "".join(
        f"{label}\t{text} {n}\n" for n in range(30) for label, text in (("spam", "win"), ("ham", "see you"))
    )
    (tmp_path / "messages.tsv").write_text(rows)
    run = gw.finetune.classify(
        model=place / "run",
        data=tmp_path / "messages.tsv",
        out=tmp_path / "run",
        classify={"batch_examples": 8},
        train={"max_steps": 3},
    )
    classifier = gw.load(run)
    assert isinstance(classifier, gw.Classifier)
    (prediction,) = classifier.predict(["win 3"])
    assert prediction.label in {"spam", "ham"}
    assert sum(prediction.probabilities.values()) == pytest.approx(1)
    with pytest.raises(UserError, match="list of texts"):
        classifier.predict("win 3")


def test_evaluation_reports_and_plots(place, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    results = gw.evaluate([place / "run"], tasks=[f"perplexity:{tmp_path / 'text.txt'}"])
    assert {result.metric for result in results} >= {"perplexity", "bits_per_byte"}
    assert all(isinstance(result, gw.Result) for result in results)
    assert {result.value for result in gw.Run(place / "run").results()} >= {
        result.value for result in results
    }
    page = gw.report(place / "run", out=tmp_path / "page.html")
    assert page.read_text().startswith("<!")
    assert gw.plot(place / "run").get_axes()
    assert gw.export(place / "run", "safetensors", out=tmp_path / "hf").is_dir()


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda place: gw.pretrain(out="x"), "--data"),
        (lambda place: gw.pretrain(data=place / "data", out="x", optim={"lr": -1}), "lr"),
        (lambda place: gw.pretrain(data=place / "data", out="x", optim={"clip": 1.0}), "grad_clip"),
        (lambda place: gw.pretrain(data=place / "data", out="x", model={"n_layer": 2.5}), "n_layer"),
        (lambda place: gw.pretrain(data=place / "data", out="x", modle={"n_layer": 2}), "modle"),
        (lambda place: gw.pretrain("no-such-recipe", out="x"), "no-such-recipe"),
        (lambda place: gw.load(place / "nowhere"), "nowhere"),
        (lambda place: gw.load(place / "run", dtype="fp13"), "fp13"),
        (lambda place: gw.load(place / "run").generate("x", temprature=1), "--temperature"),
        (lambda place: gw.load(place / "run").generate("x", top_p=3), "top_p"),
        (lambda place: gw.evaluate([place / "run"]), "--tasks"),
        (lambda place: gw.prepare(sources=[place / "nowhere"], tokenizer=place / "bpe", out=place / "y"), "nowhere"),
        (lambda place: gw.plot(place / "texts"), "texts"),
    ],
)  # fmt: skip
def test_mistakes_raise_user_errors(place, tmp_path, monkeypatch, call, named):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        call(place)
    assert named.replace("_", "-") in str(error.value).replace("_", "-")
    assert not list(tmp_path.rglob("*"))


def test_nothing_is_printed_and_the_process_stays_as_it_was(place, tmp_path, capfd, caplog):
    before, handlers = dict(os.environ), [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with caplog.at_level(logging.INFO, "gptworks"):
        gw.pretrain(data=place / "data", out=tmp_path / "run", model=SHAPE, train=SHORT)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""
    assert "parameters" in caplog.text
    assert dict(os.environ) == before
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_it_works_outside_of_the_main_thread(place, tmp_path):
    runs = []
    thread = threading.Thread(
        target=lambda: runs.append(
            gw.pretrain(data=place / "data", out=tmp_path / "run", model=SHAPE, train=SHORT)
        )
    )
    thread.start()
    thread.join()
    assert runs[0].finished
