"""`gptworks import-config`: the config.txt of algrshn/gpt-pytorch as a recipe.

Every key becomes an option, is reported as not needed, or is refused; none is ignored silently.
"""

from __future__ import annotations

import configparser
import difflib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from gptworks.errors import ConfigError
from gptworks.recipe import (
    EvalOptions,
    ModelOptions,
    OptimOptions,
    PerplexityOptions,
    PrepareOptions,
    Recipe,
    SaveOptions,
    TrainOptions,
)

KNOWN = {
    "preprocessing": "path_to_original_data path_to_store_preprocessed_data pile_sets_to_use max_len_words "
    "min_len_words max_len_tokens max_num_of_tokens_in_batch",
    "train": "device epochs num_of_chunks_to_use num_workers prefetch_factor max_lr start_predicting_from_what_token "
    "P_drop init_std masking_minus_inf disable_pin_memory folder_to_save_state_dicts warmup_steps "
    "steps_to_attenuate_lr_to_zero weight_decay",
    "inference": "device chunk_num how_many_tokens_to_generate inference_method beam_size",
    "val": "data_from_what_chunk_to_use chunk_num_val num_of_docs",
    "architecture": "N d_model d_ff h d_k d_v positional_encoding_max_pos",
}
"""Sections of the file and their keys."""

NOT_NEEDED = {
    "train.device": "the device is detected",
    "train.num_workers": "the loop reads batches ahead",
    "train.prefetch_factor": "the loop reads batches ahead",
    "train.disable_pin_memory": "memory is pinned if there is a GPU",
    "train.masking_minus_inf": "attention is masked exactly",
    "inference.device": "the device is detected",
    "inference.chunk_num": "generate takes any checkpoint: RUN@best, RUN@epoch-0.5",
    "val.chunk_num_val": "there is one validation split",
}
"""Keys that are not needed here, and why."""


def import_config(
    config: Annotated[Path, Parameter(name="CONFIG", help="config.txt of algrshn/gpt-pytorch.")],
    /,
    *,
    out: Annotated[Path | None, Parameter(help="Recipe to write. Default: to standard output.")] = None,
) -> None:
    """Convert the config.txt of algrshn/gpt-pytorch to a recipe, and list the commands that replace its scripts.

    Chunks are expected as N.jsonl or, as the Pile names them, NN.jsonl.zst.
    """
    if out is not None and out.exists():
        raise ConfigError(f"{out} already exists; choose another --out")
    from gptworks import recipefile

    source = _ConfigFile(config)
    recipe = convert(source)
    text = "\n".join([*_comments(source, config, out), "", _short(recipefile.as_tables(recipe))])
    with tempfile.TemporaryDirectory() as folder:  # values are checked like those of any recipe
        made = Path(folder) / "recipe.toml"
        made.write_text(text, encoding="utf-8")
        try:
            recipefile.load(made)
        except ConfigError as error:
            raise ConfigError(str(error).replace(str(made), f"the recipe from {config}")) from None
    if out is None:
        print(text, end="")
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    print(f"{out}: {config} as a recipe; the commands to run are at its top")


class _ConfigFile:
    """The values of the file, each validated."""

    def __init__(self, file: Path) -> None:
        self.file, parser = file, configparser.ConfigParser(interpolation=None)
        parser.optionxform = str  # type: ignore[assignment,method-assign] # P_drop and N are not p_drop and n
        try:
            parser.read_string(file.read_text(encoding="utf-8"), str(file))
        except FileNotFoundError:
            raise ConfigError(f"{file} does not exist") from None
        except (OSError, UnicodeDecodeError, configparser.Error) as error:
            raise ConfigError(f"{file} is not a config.txt: {' '.join(str(error).split())}") from None
        self.values = {
            f"{name}.{key}": value for name in parser.sections() for key, value in parser[name].items()
        }
        known = [f"{section}.{key}" for section, keys in KNOWN.items() for key in keys.split()]
        for name in self.values:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                raise ConfigError(
                    f"{file}: [{name.replace('.', '] ', 1)} is not a key of algrshn/gpt-pytorch"
                    + (f"; near: [{near[0].replace('.', '] ', 1)}" if near else "")
                )

    def text(self, name: str, default: str) -> str:
        """The value of a key, or the original's default."""
        return self.values.get(name, default).strip()

    def number(self, name: str, default: int, least: int = 0) -> int:
        value = int(self._as(int, name, default))
        if value < least:
            raise ConfigError(
                f"{self.file}: [{name.replace('.', '] ', 1)} = {value} must be at least {least}"
            )
        return value

    def real(self, name: str, default: float) -> float:
        return float(self._as(float, name, default))

    def _as(self, kind: Callable[[str], float], name: str, default: float) -> float:
        try:
            return kind(self.values[name]) if name in self.values else default
        except ValueError:
            said = f"[{name.replace('.', '] ', 1)} = {self.values[name]}"
            raise ConfigError(
                f"{self.file}: {said} is not a {'whole ' if kind is int else ''}number"
            ) from None


def convert(source: _ConfigFile) -> Recipe:
    """The recipe of a config file; missing keys have the original's defaults.

    Raises:
        ConfigError: heads whose width is not d_model / h, which GPT-2 does not have.
    """
    number, real, text = source.number, source.real, source.text
    width, heads = number("architecture.d_model", 768, 1), number("architecture.h", 12, 1)
    for key in ("d_k", "d_v"):
        if number(f"architecture.{key}", width // heads) * heads != width:
            raise ConfigError(
                f"{source.file}: [architecture] {key} must be d_model / h = {width // heads}, as in GPT-2"
            )
    folder = Path(text("preprocessing.path_to_original_data", "data/pile-original"))
    chunks = [_chunk(folder, n) for n in range(number("train.num_of_chunks_to_use", 17, 1))]
    held = _chunk(folder, number("val.data_from_what_chunk_to_use", 29))
    data = Path(text("preprocessing.path_to_store_preprocessed_data", "data/pile"))
    sets = text("preprocessing.pile_sets_to_use", "")
    warmup, skip = number("train.warmup_steps", 40_000), number("train.start_predicting_from_what_token", 8)
    return Recipe(
        data=data,
        out=Path(text("train.folder_to_save_state_dicts", "saved_models/run")),
        tokenizer="gpt2",
        prepare=PrepareOptions(
            sources=(*chunks, *(() if held in chunks else (held,))),
            subsets=tuple(name.strip() for name in sets.split("|") if name.strip()),
            min_words=number("preprocessing.min_len_words", 16),
            max_words=number("preprocessing.max_len_words", 256),
            max_tokens=number("preprocessing.max_len_tokens", 512),
            separator="bos-eos",
            add_tokens=("<|bos|>",),
            val_split_by="source",
            val_source=(held,),
        ),
        model=ModelOptions(
            n_layer=number("architecture.N", 12),
            n_head=heads,
            n_embd=width,
            n_inner=number("architecture.d_ff", 3072),
            context=number("architecture.positional_encoding_max_pos", 513),
            dropout=real("train.P_drop", 0.1),
            dropout_at=("embedding", "attention_out", "mlp_out"),
            bias=("mlp", "norm"),
            activation="gelu",
            init_std=real("train.init_std", 0.02),
        ),
        train=TrainOptions(
            epochs=real("train.epochs", 1),
            batch_tokens=number("preprocessing.max_num_of_tokens_in_batch", 2100),
            windows="documents",
            ignore_first=skip,
        ),
        optim=OptimOptions(
            lr=real("train.max_lr", 2.5e-4),
            betas=(0.9, 0.999),
            weight_decay=real("train.weight_decay", 0.01),
            weight_decay_on="all",
            grad_clip=0.0,
            schedule="quarter-cosine",
            warmup_steps=warmup,
            decay_steps=warmup + number("train.steps_to_attenuate_lr_to_zero", 11_500_000),
            final_lr=0.0,
        ),
        eval=EvalOptions(every=20_000),
        perplexity=PerplexityOptions(average="documents", ignore_first=skip),
        # A checkpoint per chunk, as in the original
        save=SaveOptions(every=20_000, every_epochs=round(1 / max(1, len(chunks)), 6)),
    )


def _chunk(folder: Path, number: int) -> str:
    """A chunk's file: its existing name, else the name that the original reads."""
    names = [f"{number}.jsonl", f"{number:02}.jsonl.zst", f"{number}.jsonl.zst", f"{number:02}.jsonl"]
    return str(folder / next((name for name in names if (folder / name).exists()), names[0]))


def _comments(source: _ConfigFile, config: Path, out: Path | None) -> list[str]:
    recipe = out or Path("RECIPE.toml")
    run = source.text("train.folder_to_save_state_dicts", "saved_models/run")
    search = source.text("inference.inference_method", "greedy_search")
    tokens = source.number("inference.how_many_tokens_to_generate", 20)
    beams = source.number("inference.beam_size", 6)
    how = f"--beams {beams}" if search == "beam_search" else "--temperature 0"
    docs = source.number("val.num_of_docs", 10_000)
    data = source.text("preprocessing.path_to_store_preprocessed_data", "data/pile")
    lines = [
        f"From {config.name} of algrshn/gpt-pytorch. These commands replace its scripts:",
        "",
        f"  gptworks prepare  {recipe}   # 0_filter, 1_save_tokenizer, 2_tokenize, 3_form_batches, 4_create_val_chunk",
        f"  gptworks pretrain {recipe}   # train.py; --resume continues after a stop",
        f"  gptworks generate {run} --prompt '...' --max-tokens {tokens} {how}",
        f"  gptworks evaluate {run} --tasks perplexity:{data} --perplexity.average documents "
        f"--perplexity.ignore-first {source.number('train.start_predicting_from_what_token', 8)} --limit {docs}",
        "",
        "Batches are formed again for every epoch, and computed in bfloat16 if the hardware supports it.",
        "Projections into the residual stream start smaller, as in GPT-2; the original's do not.",
    ]
    unused = [f"{name} ({why})" for name, why in NOT_NEEDED.items() if name in source.values]
    lines += ["", "Not needed:", *(f"  {line}" for line in unused)] if unused else []
    return [f"# {line}".rstrip() for line in lines]


def _short(tables: dict[str, Any]) -> str:
    """The recipe without options at their default."""
    import tomli_w

    from gptworks import recipefile

    plain = recipefile.as_tables(Recipe())
    kept: dict[str, Any] = {}
    for name, value in tables.items():
        if isinstance(value, dict):
            changed = {key: item for key, item in value.items() if plain[name].get(key) != item}
            if changed:
                kept[name] = changed
        elif plain.get(name) != value:
            kept[name] = value
    return tomli_w.dumps(kept)
