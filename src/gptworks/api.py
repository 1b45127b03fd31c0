"""The Python API. Each function builds a validated Recipe and calls the function that the command line calls.

Options are tables as in TOML (`train={"max_steps": 200}`), laid over a recipe and the defaults. Mistakes raise
`UserError` with the command line's message. Nothing here exits the process or prints, apart from a progress bar:
remarks and results go to the `gptworks` logger. Environment variables and signal handlers are restored on return.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gptworks.errors import ConfigError, DataError, UserError
from gptworks.recipe import Recipe
from gptworks.results import Result
from gptworks.runs import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gptworks.data.dataset import Dataset
    from gptworks.evaluation.prediction import Predictor
    from gptworks.generation.engine import Sample
    from gptworks.generation.requests import GenerateSettings
    from gptworks.model.build import Model
    from gptworks.text.tokenizer import Tokenizer

PathLike = str | os.PathLike[str]
Table = Mapping[str, Any]
"""Options of one of the recipe's tables, as in TOML."""
Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True)
class Loss:
    """How well a model predicts a text."""

    nats_per_token: float
    bits_per_byte: float
    tokens: int


@dataclass(frozen=True)
class Prediction:
    """What a classifier predicts for a text: a label and the probability of every class, or a value (regression)."""

    label: str | None = None
    probabilities: dict[str, float] = field(default_factory=dict)
    value: float | None = None


class LanguageModel:
    """A loaded language model. `model` is the torch module, `tokenizer` our tokenizer."""

    def __init__(self, model: Model, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer

    def generate(self, prompt: str | list[int], **settings: Any) -> list[Sample]:
        """Continue a prompt, `samples` times. Settings are the flags of `gptworks generate`: `max_tokens=64`, ...

        Raises:
            UserError: a setting is invalid, or the prompt does not fit the context.
        """
        from gptworks.generation import engine

        return engine.generate(self.model, self.tokenizer, prompt, _settings(settings))

    def stream(self, prompt: str | list[int], **settings: Any) -> Iterator[str]:
        """Continue a prompt; yields pieces of text as they are generated."""
        from gptworks.generation import engine

        for delta in engine.stream(self.model, self.tokenizer, prompt, _settings({"samples": 1} | settings)):
            if delta.text:
                yield delta.text

    def chat(self, messages: Sequence[Mapping[str, str]], **settings: Any) -> Sample:
        """The assistant's answer to messages with a `role` and a `content`, by the model's chat template.

        Raises:
            UserError: the model has no chat template, or the conversation does not fit the context.
        """
        from gptworks.text.templates import Chat, Message

        if self.tokenizer.chat_template is None:
            raise ConfigError(
                "this model has no chat template: fine-tune it with finetune.instruct, or use generate"
            )
        try:
            turns = [Message(message["role"], message["content"]) for message in messages]
        except (KeyError, TypeError):
            raise ConfigError(
                "messages need a role and a content: {'role': 'user', 'content': 'Hi'}"
            ) from None
        ids = Chat(self.tokenizer).prompt(turns)
        room = self.model.config.context - len(ids)
        return self.generate(ids, **({"max_tokens": max(1, room)} | settings))[0]

    def loss(self, text: str) -> Loss:
        """How well the model predicts a text: each token once, given at most a context of tokens before it.

        Raises:
            UserError: the text is empty.
        """
        from gptworks.evaluation import perplexity
        from gptworks.evaluation.texts import Text
        from gptworks.recipe import PerplexityOptions

        (ids,) = self.tokenizer.encode_batch([text])
        if not len(ids):
            raise DataError("the text is empty, so it has no loss")
        document = Text(ids, len(text.encode()), len(text.split()))
        scores = {
            score.metric: score
            for score in perplexity.measure(self.model, self.tokenizer, [document], PerplexityOptions())
        }
        nats = math.log(scores["perplexity"].value)
        return Loss(nats, scores["bits_per_byte"].value, len(ids))


class Classifier:
    """A loaded classifier or regression model. `model` is the torch module, `tokenizer` our tokenizer."""

    def __init__(self, reader: Predictor) -> None:
        self._reader = reader
        self.model, self.tokenizer = reader.model, reader.tokenizer

    def predict(self, texts: Sequence[str], text_pairs: Sequence[str] | None = None) -> list[Prediction]:
        """A prediction for each text, or for each pair of texts if the model was trained on pairs."""
        if isinstance(texts, str):
            raise ConfigError("predict takes a list of texts: predict([text])")
        pairs = [None] * len(texts) if text_pairs is None else list(text_pairs)
        if len(pairs) != len(texts):
            raise ConfigError(f"predict got {len(texts)} texts and {len(pairs)} text_pairs")
        read = self._reader.predict(list(zip(texts, pairs, strict=True)))[0]
        return [Prediction(**row) for row in read]


def load(model: PathLike, *, device: Device = "auto", dtype: str = "auto") -> LanguageModel | Classifier:
    """Load anything that MODEL means: a run, RUN@best, a checkpoint or model folder, or a Hub id.

    `dtype` is what the weights are stored in: auto, fp32, bf16, fp16 or int8. A classifier's folder gives a
    `Classifier`, in fp32.

    Raises:
        UserError: there is no such model, or the device is not available.
    """
    with _as_library():
        from gptworks.devices import choose_device
        from gptworks.evaluation.prediction import Predictor
        from gptworks.generation import loading
        from gptworks.model import checkpoint, classifier

        spec, place = os.fspath(model), choose_device(device)
        folder = checkpoint.find_checkpoint(spec)
        if classifier.is_classifier(folder):
            reader = Predictor.load(folder)
            reader.model.to(place)
            return Classifier(reader)
        kinds = ("auto", "fp32", "bf16", "fp16", "int8")
        if dtype not in kinds:
            raise ConfigError(f"dtype={dtype!r} is not one of {', '.join(kinds)}")
        tokenizer = loading.matching_tokenizer(folder, spec)
        return LanguageModel(loading.open_model(folder, dtype, place), tokenizer)  # type: ignore[arg-type]


def train_tokenizer(
    sources: Sequence[PathLike] | PathLike,
    *,
    out: PathLike,
    vocab_size: int | None = None,
    recipe: PathLike | None = None,
    bpe: Table | None = None,
    prepare: Table | None = None,
) -> Path:
    """Train a byte-level BPE tokenizer on files or folders; returns its folder. As `gptworks tokenizer train`."""
    sizes = {} if vocab_size is None else {"vocab_size": vocab_size}
    given = _given(bpe=dict(bpe or {}) | sizes, prepare=dict(prepare or {}) | {"sources": _list(sources)})
    with _as_library():
        from gptworks.commands import tokenizer

        options = _recipe("tokenizer train", recipe, given)
        tokenizer.train_tokenizer(options.prepare, options.bpe, Path(out))
    return Path(out)


def prepare(
    sources: Sequence[PathLike] | PathLike | None = None,
    *,
    tokenizer: PathLike | None = None,
    out: PathLike | None = None,
    recipe: PathLike | None = None,
    prepare: Table | None = None,
) -> Dataset:
    """Turn text into a Dataset. As `gptworks prepare`; interrupted, the same call continues where it stopped."""
    own = dict(prepare or {}) | ({} if sources is None else {"sources": _list(sources)})
    given = _given(data=out, tokenizer=tokenizer, prepare=own)
    with _as_library():
        from gptworks.commands import prepare as command

        return command.make_dataset(_recipe("prepare", recipe, given))


def pretrain(
    recipe: PathLike | None = None,
    *,
    data: PathLike | Dataset | None = None,
    out: PathLike | None = None,
    base: PathLike | None = None,
    resume: bool = False,
    accept_changes: bool = False,
    device: Device = "auto",
    **tables: Table,
) -> Run:
    """Train a GPT on a Dataset, or resume a run. As `gptworks pretrain`.

    `tables` are those of a recipe: model, train, optim, eval, save, sample, log. Ctrl-C stops the run with a
    checkpoint, and the returned run's `stopped` says so.

    Raises:
        UserError: an option is unknown or impossible, or the parts do not fit together.
    """
    data = getattr(data, "path", data)
    given = _given(data=data, out=out, base=base, **tables)
    with _as_library():
        from gptworks.commands import pretrain as command

        whole = _recipe("pretrain", recipe, given, resume=resume)
        stopped = command.train_run(whole, resume=resume, accept_changes=accept_changes, device=device)
        return Run(whole.run, stopped=stopped)


class finetune:  # noqa: N801 - a namespace: gw.finetune.classify, gw.finetune.instruct
    """Fine-tuning, as `gptworks finetune`."""

    @staticmethod
    def classify(
        recipe: PathLike | None = None,
        *,
        model: PathLike | None = None,
        data: PathLike | None = None,
        out: PathLike | None = None,
        resume: bool = False,
        accept_changes: bool = False,
        device: Device = "auto",
        **tables: Table,
    ) -> Run:
        """Fine-tune a model to classify text or to predict a number. Tables: classify, lora, train, optim, eval, ..."""
        given = _given(base=model, data=data, out=out, **tables)
        with _as_library():
            from gptworks.commands import finetune as command

            whole = _recipe("finetune classify", recipe, given, resume=resume)
            stopped = command.train_classifier(
                whole, resume=resume, accept_changes=accept_changes, device=device
            )
            return Run(whole.run, stopped=stopped)

    @staticmethod
    def instruct(
        recipe: PathLike | None = None,
        *,
        model: PathLike | None = None,
        data: PathLike | None = None,
        out: PathLike | None = None,
        resume: bool = False,
        accept_changes: bool = False,
        device: Device = "auto",
        **tables: Table,
    ) -> Run:
        """Fine-tune a model to follow instructions. Tables: instruct, lora, train, optim, eval, save, log."""
        given = _given(base=model, data=data, out=out, **tables)
        with _as_library():
            from gptworks.commands import instruct as command

            whole = _recipe("finetune instruct", recipe, given, resume=resume)
            stopped = command.train_instruct(
                whole, resume=resume, accept_changes=accept_changes, device=device
            )
            return Run(whole.run, stopped=stopped)


def evaluate(
    models: Sequence[PathLike] | PathLike,
    tasks: Sequence[str] | None = None,
    *,
    recipe: PathLike | None = None,
    out: PathLike | None = None,
    device: Device = "auto",
    evaluate: Table | None = None,
    perplexity: Table | None = None,
) -> list[Result]:
    """Evaluate models on tasks spelled as in `gptworks evaluate --tasks`; a run also keeps its results."""
    own = dict(evaluate or {}) | ({} if tasks is None else {"tasks": _list(tasks)})
    given = _given(evaluate=own, perplexity=dict(perplexity or {}))
    with _as_library():
        from gptworks.commands import evaluate as command

        options = _recipe("evaluate", recipe, given)
        specs = tuple(_list(models))
        target = None if out is None else Path(out)
        return command.evaluate_models(specs, options.evaluate, options.perplexity, out=target, device=device)


def merge(model: PathLike, *, out: PathLike) -> Path:
    """Merge a LoRA adapter into its base model, as `gptworks merge`; returns the new model folder."""
    with _as_library():
        from gptworks.commands import merge as command

        command.merge(os.fspath(model), out=Path(out))
    return Path(out)


def export(
    model: PathLike, to: Literal["gguf", "onnx", "safetensors"], *, out: PathLike, **options: Any
) -> Path:
    """Convert a model, as `gptworks export`; returns `out`. Options: precision, approximate_gelu."""
    with _as_library():
        from gptworks.commands import export as command

        command.export(os.fspath(model), to=to, out=Path(out), **options)
    return Path(out)


def report(runs: Sequence[PathLike] | PathLike, *, out: PathLike | None = None) -> Path:
    """Write one page about runs, as `gptworks report`; returns the HTML file."""
    with _as_library():
        from gptworks.commands import report as command

        folders = tuple(Path(run) for run in _list(runs))
        return command.write_report(folders, None if out is None else Path(out))


def plot(run: PathLike) -> Figure:
    """A run's training and validation loss as a matplotlib Figure.

    Raises:
        UserError: it is not a run, or has measured nothing yet.
    """
    from gptworks.reports import plots, terminal

    if terminal.err.is_jupyter:
        from matplotlib import pyplot

        pyplot.switch_backend(pyplot.get_backend())  # registers how the notebook shows a Figure

    return plots.draw_loss(Run(run)).figure


def _settings(settings: Mapping[str, Any]) -> GenerateSettings:
    from gptworks.generation.requests import GenerateSettings
    from gptworks.recipefile import construct

    return construct(GenerateSettings, _given(**settings), "generate")


def _recipe(verb: str, recipe: PathLike | None, given: dict[str, Any], *, resume: bool = False) -> Recipe:
    """The recipe that a command would see, with what is `given` in place of flags."""
    from gptworks import packaged, recipefile

    file = None if recipe is None else packaged.find(os.fspath(recipe))
    if file is None and resume and "out" in given and (saved := Path(given["out"]) / "recipe.toml").is_file():
        file = saved
    below = {} if file is None else recipefile.tables(file)
    return recipefile.build(recipefile.merged(verb, below, given), str(file or f"gptworks.{verb}"))


def _given(**options: Any) -> dict[str, Any]:
    """Options as TOML has them, without those that are None or empty tables."""
    plain = {name: _plain(value) for name, value in options.items() if value is not None}
    return {name: value for name, value in plain.items() if value != {}}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _list(value: Any) -> list[str]:
    """One path, or several, as a list of strings."""
    one = isinstance(value, str | os.PathLike)
    return [os.fspath(item) for item in ([value] if one else value)]


@contextmanager
def _as_library() -> Iterator[None]:
    """Run a command without output or exit, and leave the process as it was."""
    from gptworks.reports import terminal
    from gptworks.threads import share_cores

    before = dict(os.environ)
    token = terminal.quiet.set(True)
    try:
        if "torch" not in sys.modules:  # its threads read these settings once, when they start
            share_cores()
            import torch  # noqa: F401
        yield
    except SystemExit:  # a signal ended a command before it had anything to save
        raise KeyboardInterrupt from None
    finally:
        terminal.quiet.reset(token)
        os.environ.clear()
        os.environ.update(before)


def __getattr__(name: str) -> Any:
    """The classes whose modules import torch or numpy, when they are asked for."""
    if name == "Dataset":
        from gptworks.data.dataset import Dataset

        return Dataset
    if name == "Sample":
        from gptworks.generation.engine import Sample

        return Sample
    raise AttributeError(f"module 'gptworks.api' has no attribute {name!r}")


__all__ = [
    "Classifier", "ConfigError", "DataError", "LanguageModel", "Loss", "Prediction", "Result", "Run",
    "UserError", "evaluate", "export", "finetune", "load", "merge", "plot", "prepare", "pretrain", "report",
    "train_tokenizer",
]  # fmt: skip
