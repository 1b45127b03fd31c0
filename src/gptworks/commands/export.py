"""`gptworks export`: write a MODEL in the format of another program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from gptworks.errors import CheckpointError, ConfigError
from gptworks.reports import terminal

if TYPE_CHECKING:
    from gptworks.model.build import Model
    from gptworks.text.tokenizer import Tokenizer

Format = Literal["gguf", "onnx", "safetensors"]
Precision = Literal["fp32", "bf16", "fp16", "q8_0"]

PRECISIONS: dict[Format, tuple[Precision, ...]] = {
    "gguf": ("fp16", "q8_0", "bf16", "fp32"),
    "onnx": ("fp32",),
    "safetensors": ("fp32", "bf16", "fp16"),
}
"""The precisions of each format, the default first."""

BYTES_PER_WEIGHT = {"fp32": 4, "bf16": 2, "fp16": 2, "q8_0": 34 / 32}


def export(
    spec: Annotated[str, Parameter(name="MODEL", help="A run, RUN@best, a model folder or a Hub id.")],
    /,
    *,
    to: Annotated[
        Format,
        Parameter(
            help="gguf: llama.cpp, Ollama, LM Studio. onnx: ONNX Runtime. safetensors: transformers and vLLM."
        ),
    ],
    out: Annotated[
        Path,
        Parameter(help="Folder to create. A path that ends in .gguf or .onnx is the file to write instead."),
    ],
    precision: Annotated[
        Precision | None,
        Parameter(
            help="Precision of the weights. gguf: fp16 (default), q8_0, bf16, fp32. safetensors: unchanged (default), "
            "fp32, bf16, fp16. onnx: fp32."
        ),
    ] = None,
    approximate_gelu: Annotated[
        bool,
        Parameter(
            negative=(),
            help="gguf: export a model with the exact GELU, although llama.cpp only has the tanh approximation.",
        ),
    ] = False,
) -> None:
    """Write a model for llama.cpp and Ollama, ONNX Runtime, or transformers and vLLM. An adapter is merged."""
    if precision is not None and precision not in PRECISIONS[to]:
        raise ConfigError(
            f"--precision {precision} is not available with --to {to}; use {', '.join(PRECISIONS[to])}"
        )
    if approximate_gelu and to != "gguf":
        raise ConfigError(f"--approximate-gelu requires --to gguf, not {to}")
    single = to != "safetensors" and out.suffix == f".{to}"
    companion = {"gguf": out.with_suffix(".Modelfile"), "onnx": out.with_name(f"{out.name}.data")}
    for path in [out, companion[to]] if single else [out]:
        if path.exists():
            raise ConfigError(f"{path} already exists; choose another --out")
    stem = out.stem if single else "model"
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".export-", dir=out.parent) as temporary:
        folder = Path(temporary, "model")
        folder.mkdir()  # with the usual permissions, unlike a temporary directory
        if to == "gguf":
            remarks = _gguf(spec, folder, stem, precision or "fp16", approximate_gelu=approximate_gelu)
        elif to == "onnx":
            remarks = _onnx(spec, folder, stem, with_configs=not single)
        else:
            remarks = _safetensors(spec, folder, precision)
        written = _publish(folder, out, single=single)
    for file in written:
        terminal.show(f"{file}: {file.stat().st_size:,} bytes")
    for remark in remarks:
        terminal.show(f"note: {remark}")


def _publish(folder: Path, out: Path, *, single: bool) -> list[Path]:
    """Move a folder, or the files in it, to where the user wants them; returns the files, largest first."""
    from gptworks import files

    names = [file.name for file in sorted(folder.iterdir(), key=lambda file: -file.stat().st_size)]
    if single:
        targets = {
            name: out.with_suffix(f".{name}") if name == "Modelfile" else out.with_name(name)
            for name in names
        }
        moves = [(folder / name, target) for name, target in targets.items()]
    else:
        targets, moves = {name: out / name for name in names}, [(folder, out)]
    for source, target in moves:
        with files.atomically(target) as draft:
            source.rename(draft)
    return list(targets.values())


def _check_space(source: Path, target: Path, precision: str | None) -> None:
    """Refuse an export that does not fit on the disk."""
    from gptworks import files
    from gptworks.model import checkpoint, sizing

    size = sizing.parameters(checkpoint.read_config(source)) * BYTES_PER_WEIGHT[precision or "fp32"]
    files.need_space(target, int(1.05 * size) + 1_000_000, "the export")


def _load(source: Path, format: Format) -> tuple[Model, Tokenizer]:
    """A folder's language model in float32 on the CPU, and its tokenizer.

    Raises:
        CheckpointError: the model is a classifier, or the tokenizer is missing or belongs to another model.
    """
    from gptworks.generation.loading import matching_tokenizer
    from gptworks.model import checkpoint, classifier

    if classifier.is_classifier(source):
        raise CheckpointError(
            f"{source} is a classifier; --to {format} supports only language models, so use --to safetensors"
        )
    tokenizer = matching_tokenizer(source, str(source))
    return checkpoint.load(source), tokenizer


def _gguf(spec: str, folder: Path, stem: str, precision: Precision, *, approximate_gelu: bool) -> list[str]:
    with _extra("gguf"):
        from gptworks.exports import gguf
    from gptworks.exports import modelfile
    from gptworks.model import checkpoint

    source = checkpoint.find_checkpoint(spec)
    _check_space(source, folder, precision)
    gguf.check(checkpoint.read_config(source), approximate_gelu=approximate_gelu)
    model, tokenizer = _load(source, "gguf")
    file = folder / f"{stem}.gguf"
    name = Path(spec).name
    remarks = gguf.write(model, tokenizer, file, precision, name=name, approximate_gelu=approximate_gelu)
    text, more = modelfile.write(tokenizer, file.name, model.config.context)
    (folder / "Modelfile").write_text(text, encoding="utf-8")
    return remarks + more


def _onnx(spec: str, folder: Path, stem: str, *, with_configs: bool) -> list[str]:
    with _extra("onnx"):
        from gptworks.exports import onnx
    from gptworks.model import checkpoint

    source = checkpoint.find_checkpoint(spec)
    _check_space(source, folder, "fp32")
    model, tokenizer = _load(source, "onnx")
    onnx.write(model, folder / f"{stem}.onnx")
    if with_configs:
        onnx.write_configs(model, tokenizer, folder)
    return []


def _safetensors(spec: str, folder: Path, precision: Precision | None) -> list[str]:
    from gptworks.exports import portable
    from gptworks.model import checkpoint

    source = checkpoint.find_checkpoint(spec)
    _check_space(source, folder, precision)
    portable.write(source, folder, precision)
    return []


@contextmanager
def _extra(format: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"--to {format} needs {error.name}, which is not installed: pip install 'gptworks[export]'"
        ) from None
