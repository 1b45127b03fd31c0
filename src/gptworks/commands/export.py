"""`gptworks export`: a MODEL in the format of another program."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from gptworks.errors import ConfigError

Format = Literal["gguf", "onnx", "safetensors"]
Precision = Literal["fp32", "bf16", "fp16", "q8_0"]

PRECISIONS: dict[Format, tuple[Precision, ...]] = {
    "gguf": ("fp16", "q8_0", "bf16", "fp32"),
    "onnx": ("fp32",),
    "safetensors": ("fp32", "bf16", "fp16"),
}
"""What each format can be written in, the default first."""

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "q8_0": 34 / 32}


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
        Path, Parameter(help="Folder to make; for gguf and onnx, a path that ends so is the file.")
    ],
    precision: Annotated[
        Precision | None,
        Parameter(
            help="Of the weights. gguf: fp16 (default), q8_0, bf16, fp32. safetensors: as they are, or fp32, bf16, "
            "fp16. onnx: fp32."
        ),
    ] = None,
    approximate_gelu: Annotated[
        bool,
        Parameter(
            negative=(),
            help="gguf: write a model with the exact GELU, though llama.cpp has only the tanh one.",
        ),
    ] = False,
) -> None:
    """Write a model for llama.cpp and Ollama, ONNX Runtime, or transformers and vLLM. An adapter is merged."""
    if precision is not None and precision not in PRECISIONS[to]:
        raise ConfigError(
            f"--precision {precision} is not one of {to}'s, which are {', '.join(PRECISIONS[to])}"
        )
    if approximate_gelu and to != "gguf":
        raise ConfigError(f"--approximate-gelu goes with --to gguf, not {to}")
    alone = to != "safetensors" and out.suffix == f".{to}"
    beside = {"gguf": out.with_suffix(".Modelfile"), "onnx": out.with_name(f"{out.name}.data")}
    files = [out, beside[to]] if alone else [out]
    if taken := [file for file in files if file.exists()]:
        raise ConfigError(f"{taken[0]} exists already; give another --out")
    stem = out.stem if alone else "model"
    with _draft(out) as draft:
        if to == "gguf":
            remarks = _gguf(spec, draft, stem, precision or "fp16", approximate_gelu=approximate_gelu)
        elif to == "onnx":
            remarks = _onnx(spec, draft, stem, alone=alone)
        else:
            remarks = _safetensors(spec, draft, precision)
        made = _place(draft, out, alone=alone, modelfile=out.with_suffix(".Modelfile"))
    for file in made:
        print(f"{file}: {file.stat().st_size:,} bytes")
    for remark in remarks:
        print(f"note: {remark}")


@contextmanager
def _draft(out: Path) -> Iterator[Path]:
    """A folder beside `out`, to be gone when all is done or nothing came of it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".draft-{out.name}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _place(draft: Path, out: Path, *, alone: bool, modelfile: Path) -> list[Path]:
    """Move what was drafted to where it belongs; the files, largest first."""
    from gptworks import runs

    names = [file.name for file in sorted(draft.iterdir(), key=lambda file: -file.stat().st_size)]
    for name in names:
        runs.sync(draft / name)
    if not alone:
        draft.rename(out)
        return [out / name for name in names]
    final = [modelfile if name == "Modelfile" else out.with_name(name) for name in names]
    for name, file in zip(names, final, strict=True):
        (draft / name).rename(file)
    return final


def _folder(spec: str, draft: Path, precision: str | None) -> Path:
    """The folder of a MODEL, once it is known that the disk has room for what will be made of it."""
    from gptworks import runs
    from gptworks.model import checkpoint, sizing

    folder = checkpoint.resolve(spec)
    size = sizing.parameters(checkpoint.read_config(folder)) * BYTES[precision or "fp32"]
    runs.need_space(draft, int(1.05 * size) + 1_000_000, "the export")
    return folder


def _gguf(spec: str, draft: Path, stem: str, precision: Precision, *, approximate_gelu: bool) -> list[str]:
    with _extra("gguf"):
        from gptworks.export import gguf
    from gptworks.export import modelfile, source
    from gptworks.model import checkpoint

    folder = _folder(spec, draft, precision)
    gguf.check(checkpoint.read_config(folder), approximate_gelu=approximate_gelu)
    model, tokenizer = source.language_model(folder, "gguf")
    file = draft / f"{stem}.gguf"
    name = Path(spec).name
    remarks = gguf.write(model, tokenizer, file, precision, name=name, approximate_gelu=approximate_gelu)
    text, more = modelfile.write(tokenizer, file.name, model.config.context)
    (draft / "Modelfile").write_text(text, encoding="utf-8")
    return remarks + more


def _onnx(spec: str, draft: Path, stem: str, *, alone: bool) -> list[str]:
    with _extra("onnx"):
        from gptworks.export import onnx
    from gptworks.export import source

    model, tokenizer = source.language_model(_folder(spec, draft, "fp32"), "onnx")
    onnx.write(model, draft / f"{stem}.onnx")
    if not alone:
        onnx.write_beside(model, tokenizer, draft)
    return []


def _safetensors(spec: str, draft: Path, precision: Precision | None) -> list[str]:
    from gptworks.export import portable

    portable.write(_folder(spec, draft, precision), draft, precision)
    return []


@contextmanager
def _extra(format: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"--to {format} needs {error.name}, which is not installed: pip install 'gptworks[export]'"
        ) from None
