"""Every option of gptworks, on one page.

A recipe is a TOML file with these tables. A flag of the same dotted name (`--optim.lr`) overrides the file. A field's
docstring is its `--help`. This module does not import torch, so help and validation are instant; whatever depends on
a model, a Dataset or the hardware is checked by the code that has it at hand.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter
from cyclopts.types import NonNegativeFloat, NonNegativeInt, PositiveInt
from cyclopts.validators import Number

from gptworks.runs import Run

Positive = Annotated[float, Parameter(validator=Number(gt=0, lt=float("inf")))]
"""A finite number above 0."""

Fraction = Annotated[float, Parameter(validator=Number(gte=0, lt=1))]
"""A number in [0, 1)."""

Share = Annotated[float, Parameter(validator=Number(gte=0, lte=1))]
"""A number in [0, 1]."""

DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    Parameter(name="--device", help="Where to compute. auto: a GPU if there is one, else the CPU."),
]
"""Option of every command that computes. CUDA_VISIBLE_DEVICES chooses among several GPUs."""

PerVerb = Parameter(show_default=False)
"""For options whose default depends on the command; the docstring states it."""

GROUPS = {
    name: Group(name, sort_key=place)
    for place, name in enumerate(
        ("prepare", "bpe", "classify", "instruct", "evaluate", "perplexity", "glue", "model", "train", "optim", "lora",
         "eval", "save", "sample", "log")
    )
}  # fmt: skip
"""Help shows the tables in this order: what people set first comes first."""


@Parameter(group=GROUPS["model"])
@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The network. Unset fields come from the preset; without a preset, from GPT-2's shape."""

    preset: str | None = None
    """A named shape: gpt2, gpt2-medium, gpt2-large, gpt2-xl, modern-124m, ... `gptworks inspect presets` lists them."""
    family: Literal["gpt2", "modern"] | None = None
    """gpt2: exact GPT-2. modern: RMSNorm, RoPE, QK-norm, SwiGLU; its checkpoint is a Qwen3 model."""
    n_layer: PositiveInt | None = None
    """Number of transformer blocks."""
    n_head: PositiveInt | None = None
    """Attention heads; must divide n_embd."""
    n_kv_head: PositiveInt | None = None
    """Key/value heads (modern only); must divide n_head. Fewer heads make the KV cache smaller."""
    n_embd: PositiveInt | None = None
    """Width of the residual stream."""
    n_inner: PositiveInt | None = None
    """Width inside the MLP. Default: 4 n_embd for gpt2; 8/3 n_embd rounded up to a multiple of 64 for modern."""
    context: PositiveInt | None = None
    """Longest input, in tokens."""
    dropout: Fraction | None = None
    """Dropout probability. Use 0 for pretraining and about 0.1 for small datasets."""
    dropout_at: tuple[Literal["embedding", "attention", "attention_out", "mlp_out"], ...] | None = None
    """Where dropout is applied: the embedding sum, attention weights, or the output of either branch."""
    bias: tuple[Literal["all", "none", "qkv", "proj", "mlp", "norm"], ...] | None = None
    """Which layers have biases (gpt2 only): all, none, or any of qkv, proj (attention output), mlp, norm."""
    norm_eps: Positive | None = None
    """Epsilon of the norms."""
    activation: Literal["gelu_tanh", "gelu"] | None = None
    """gpt2 only. gelu_tanh is GPT-2's approximation; gelu is the exact (erf) one."""
    positions: Literal["learned", "sinusoidal"] | None = None
    """gpt2 only. sinusoidal: the fixed table of Vaswani et al. 2017, interleaved."""
    tied: bool | None = None
    """Share the token embedding with the output head."""
    rope_theta: Positive | None = None
    """modern only. Base of the rotary frequencies."""
    init_std: Positive | None = None
    """Standard deviation of the initial weights."""
    zero_init: bool | None = None
    """Initialize the projections into the residual stream to zero instead of N(0, init_std / sqrt(2 n_layer))."""
    frozen_embedding: str | None = None
    """Copy the token embedding of this MODEL and freeze it; sizes must match. '' turns off a recipe's setting."""


@Parameter(group=GROUPS["train"])
@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The training loop: how long to train and how much to process at a time."""

    max_steps: NonNegativeInt | None = None
    """Optimizer steps in the whole run. Default: as many as train.epochs takes."""
    epochs: Positive | None = None
    """Passes over the data; may be fractional. Default: 1 for pretraining, 3 for fine-tuning."""
    max_hours: Positive | None = None
    """Stop with a checkpoint after this much wall time, summed over all resumes. The schedule is not affected."""
    batch_tokens: PositiveInt | None = None
    """Tokens per optimizer step, over all devices. Must be a multiple of model.context, except with windows=documents.
    Default: 524,288, or less if an epoch would then have fewer than 200 steps."""
    micro_batch: Annotated[int | Literal["auto"], Parameter(accepts_keys=False)] = "auto"
    """Rows per forward and backward pass on one device. auto: the largest that fits or, in long runs, the fastest one
    measured. If memory runs out it is halved. Without dropout, results do not depend on it."""
    windows: Literal["shuffled", "strided", "random", "documents"] = "shuffled"
    """How training rows are cut from the text. shuffled: documents in random order, packed. strided: consecutive
    windows, train.stride apart. random: windows anywhere, with replacement. documents: whole documents, batched by
    length, without padding."""
    stride: PositiveInt | None = None
    """With windows=strided: tokens from one window to the next. Default: model.context (no overlap)."""
    ignore_first: NonNegativeInt = 0
    """Exclude the first k targets of each row from the loss."""
    dropout: Fraction | None = None
    """Dropout probability while fine-tuning. Default: the base model's. (For new models, set model.dropout.)"""
    seed: NonNegativeInt = 0
    """Seed of initial weights, data order and dropout."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Compute dtype. auto: bf16 where the hardware supports it, else fp16 on a GPU, else fp32. Weights stay in fp32."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Use torch.compile. auto: on GPUs. If it does not work here, training continues without it and says so."""
    checkpoint_activations: bool = False
    """Keep only each block's input and recompute the rest in the backward pass: a third slower, far less memory."""
    parallel: Literal["auto", "none", "ddp", "zero1", "fsdp"] = "auto"
    """How processes share the work. auto: ddp under torchrun. ddp: everything replicated. zero1: optimizer state
    sharded. fsdp: weights, gradients and optimizer state sharded (FSDP2)."""
    reshard_after_forward: bool = True
    """With parallel=fsdp: free a block's gathered weights after its forward pass and gather them again for the backward
    pass. --train.no-reshard-after-forward keeps them: more memory, less communication."""
    comm_dtype: Literal["fp32", "precision"] = "fp32"
    """With parallel=fsdp: dtype in which weights are gathered. fp32 gives the same results as ddp. precision
    (train.precision) halves the traffic and also rounds the norms' weights. Gradients are always reduced in fp32."""
    comm_timeout_minutes: Positive = 10.0
    """With several processes: how long to wait for another process before the run fails."""
    max_bad_steps: PositiveInt = 5
    """A step with a non-finite loss or gradient is skipped. After this many in a row, the run returns to the last
    checkpoint before them and skips the data in between."""
    max_rollbacks: NonNegativeInt = 3
    """How often a run returns to the same checkpoint before it gives up; 0: give up at once."""
    spike_sigma: Positive | None = None
    """Also skip steps whose loss or gradient norm is this many standard deviations above the mean of the last
    train.spike_window steps; 6 is typical. Default: never."""
    spike_window: Annotated[int, Parameter(validator=Number(gte=2))] = 100
    """Number of steps that train.spike_sigma compares with."""


@Parameter(group=GROUPS["optim"])
@dataclass(frozen=True, kw_only=True)
class OptimOptions:
    """The optimizer and its learning-rate schedule."""

    name: Literal["adamw", "muon"] = "adamw"
    """muon: Muon for the weight matrices of the blocks, AdamW for embeddings, head, norms and biases."""
    lr: Annotated[Positive, PerVerb] = 6e-4
    """Peak learning rate of AdamW. Default: 6e-4; for fine-tuning 5e-5, with LoRA 5e-4."""
    muon_lr: Positive = 0.02
    """Peak learning rate of Muon."""
    muon_momentum: Fraction = 0.95
    """Momentum of Muon."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    """AdamW's betas."""
    eps: Positive = 1e-8
    """AdamW's epsilon."""
    weight_decay: Annotated[NonNegativeFloat, PerVerb] = 0.1
    """Decoupled weight decay. Default: 0.1; for GLUE 0.01."""
    weight_decay_on: Literal["matrices", "all"] = "matrices"
    """Which parameters decay: tensors with two or more dimensions, or all."""
    grad_clip: NonNegativeFloat = 1.0
    """Clip the gradient norm to this value; 0: no clipping."""
    schedule: Annotated[Literal["cosine", "linear", "constant", "wsd", "quarter-cosine"], PerVerb] = "cosine"
    """Shape of the learning rate after warm-up. wsd: constant, then linear over the last optim.cooldown of the run.
    quarter-cosine: cos(pi/2 * progress), which reaches zero at decay_steps. Default: cosine; for fine-tuning linear."""
    warmup_steps: NonNegativeInt = 0
    """Steps of linear warm-up; step i uses lr * (i + 1) / warmup_steps."""
    warmup_fraction: Fraction | None = None
    """Warm-up as a fraction of the run's steps; overrides warmup_steps. Default: none; for GLUE 0.002."""
    decay_steps: PositiveInt | None = None
    """Step at which the decay ends. Default: the last step of the run."""
    final_lr: Annotated[Share, PerVerb] = 0.1
    """Learning rate at the end of the decay, as a fraction of the peak. Default: 0.1; for fine-tuning 0."""
    cooldown: Annotated[float, Parameter(validator=Number(gt=0, lte=1))] = 0.2
    """With schedule=wsd: fraction of the run spent cooling down."""


@Parameter(group=GROUPS["lora"])
@dataclass(frozen=True, kw_only=True)
class LoraOptions:
    """Low-rank adapters: freeze the base model and train small matrices beside its layers."""

    rank: NonNegativeInt = 0
    """Rank of the adapters; 0: train the weights themselves."""
    alpha: Positive | None = None
    """Scale of the adapters; see scaling. Default: twice the rank."""
    dropout: Fraction = 0.0
    """Dropout on the adapters' inputs during training."""
    targets: tuple[str, ...] = ()
    """Linear layers to adapt, by the end of their name; * and ? are allowed: c_attn, mlp.*, h.1?.attn.c_proj.
    Default: attention and MLP of every block."""
    scaling: Literal["standard", "unscaled", "rslora"] = "standard"
    """The adapter's output is multiplied by alpha / rank; unscaled: by alpha; rslora: by alpha / sqrt(rank)."""
    base_dtype: Literal["fp32", "bf16", "int8", "nf4"] = "fp32"
    """Storage dtype of the frozen base weights during training. bf16 gives the same products if train.precision is
    bf16. int8 and nf4 (QLoRA) need bitsandbytes: pip install 'gptworks[qlora]'."""


@Parameter(group=GROUPS["eval"])
@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """Validation during training, on a fixed held-out set: at the start, periodically, and at the end."""

    every: Annotated[NonNegativeInt, PerVerb] = 250
    """Steps between evaluations; 0: only at the start and the end. Default: 250; for fine-tuning 50."""
    tokens: PositiveInt = 1_048_576
    """How much of the validation split to use; always the same part."""
    tasks: tuple[str, ...] = ()
    """Also score these tasks, spelled as in `evaluate --tasks`: lambada:FILE, hellaswag_completion, ..."""
    task_every: NonNegativeInt = 0
    """Steps between scores of eval.tasks; 0: only at the end."""
    task_limit: PositiveInt | None = None
    """Use only the first N examples of each of eval.tasks. Default: all."""


@Parameter(group=GROUPS["evaluate"])
@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Evaluation of finished models."""

    tasks: tuple[str, ...] = ()
    """NAME (from the Hub), NAME:FILE, perplexity:FILE, bits_per_byte:FILE or DATASET, harness:NAME,NAME@SHOTS,..."""
    limit: PositiveInt | None = None
    """Use only the first N examples of each task. Default: all."""
    num_fewshot: NonNegativeInt | None = None
    """Solved examples before each question (harness: tasks only). Default: the task's own."""
    batch_tokens: PositiveInt | None = None
    """Tokens per forward pass. Scores do not depend on it. Default: 2,048 on a CPU, 65,536 on a GPU."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Compute dtype. Lower precision is faster and changes a few answers."""
    split: Literal["dev", "test", "train"] | None = None
    """Split to report for local files. Default: what their rows or their name say."""
    include: tuple[Path, ...] = ()
    """Folders with additional YAML tasks for harness:."""
    without: tuple[Path, ...] = ()
    """Reports of `inspect DATASET --against`: also give the scores without the contaminated items listed there."""
    table: Literal["plain", "gpt-alpha"] = "plain"
    """How to print results: one row per score, or GPT-alpha's ten-task table with its average."""


@Parameter(group=GROUPS["perplexity"])
@dataclass(frozen=True, kw_only=True)
class PerplexityOptions:
    """How perplexity is measured. Every result states its definition in words."""

    stride: PositiveInt | None = None
    """Tokens from one window to the next; each token is predicted once. GPT-2's paper uses 32. Default: the model's
    context (no overlap)."""
    average: Literal["tokens", "documents"] = "tokens"
    """tokens: every token counts the same. documents: 2 to the mean over documents of their mean bits per token."""
    ignore_first: NonNegativeInt = 0
    """Exclude the first k tokens of each document."""
    joined: bool = False
    """Join documents with the end-of-text token, as in pretraining, instead of scoring each by itself."""
    detokenizer: Literal["none", "wikitext"] = "none"
    """Undo the corpus's own tokenization first. Words and bytes are counted before that."""
    text_key: str = "text"
    """Key or column that holds the text."""


@Parameter(group=GROUPS["save"])
@dataclass(frozen=True, kw_only=True)
class SaveOptions:
    """Checkpoints. One is always written at the end, at a time limit, and on SIGTERM or SIGINT."""

    every: NonNegativeInt = 1000
    """Steps between checkpoints; 0: only those above."""
    every_epochs: NonNegativeFloat = 0.0
    """Also save at multiples of this many epochs (0.1 works) and keep these checkpoints: RUN@epoch-0.1."""
    until_epoch: Positive | None = None
    """After this epoch, save only at whole epochs instead of fractions."""
    at_start: bool = False
    """Also save the untrained model: RUN@step-0."""
    best: bool = True
    """Also save at each new best validation loss, and keep the best: RUN@best."""
    keep: PositiveInt = 2
    """How many of the newest regular checkpoints to keep."""
    keep_every: NonNegativeInt = 0
    """Also keep checkpoints at multiples of this step; 0: none."""


@Parameter(group=GROUPS["sample"])
@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """Text generated during training, saved in samples.jsonl."""

    every: NonNegativeInt = 0
    """Steps between samples; 0: none."""
    prompts: tuple[str, ...] = ("",)
    """Prompts to continue. An empty prompt starts a new document or, if the Dataset has fewer than 10 documents,
    continues held-out text."""
    max_tokens: PositiveInt = 64
    """Tokens per sample."""
    temperature: NonNegativeFloat = 0.8
    """Sampling temperature; 0: greedy."""
    top_k: NonNegativeInt = 50
    """Sample from the k most likely tokens; 0: from all."""


@Parameter(group=GROUPS["log"])
@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """Logging, in addition to metrics.jsonl, which is always written."""

    every: PositiveInt = 10
    """Steps between reads of the losses (every step is logged either way). Reading less often lets a GPU run ahead."""
    tensorboard: bool = False
    """Also write TensorBoard events to RUN/tensorboard (pip install 'gptworks[track]')."""
    wandb: str | None = None
    """Also log to this Weights & Biases project (pip install 'gptworks[track]')."""


@Parameter(group=GROUPS["prepare"])
@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """From text to a Dataset."""

    sources: tuple[str, ...] = ()
    """Files, folders, `python` (the installed Python's source) or hf:OWNER/NAME[:CONFIG][@REVISION]. Formats are
    detected by name or content: .txt .md source code, .jsonl[.gz|.zst], .parquet, .csv, token shards (.bin)."""
    weights: tuple[Positive, ...] = ()
    """One per source: 0.5 takes half of its documents (chosen by hash), 2 takes each twice. Default: 1 each."""
    text_key: str = "text"
    """Key or column that holds the text."""
    split: str = "train"
    """Split of a Hub dataset."""
    subsets: tuple[str, ...] = ()
    """Keep only documents whose subset_key has one of these values."""
    subset_key: str = "meta.pile_set_name"
    """Key that names a document's subset; dots go into nested objects."""
    min_words: NonNegativeInt = 0
    """Drop documents with fewer whitespace-separated words."""
    max_words: PositiveInt | None = None
    """Truncate documents to this many words (or drop them: drop_long)."""
    drop_long: bool = False
    """Drop documents with more than max_words words instead of truncating them."""
    max_tokens: PositiveInt | None = None
    """Truncate documents to this many tokens, not counting the separator."""
    limit: PositiveInt | None = None
    """Read only the first N documents of each source (counted before filters)."""
    dedup: bool = False
    """Drop exact duplicates of a document (by content hash)."""
    on_error: Literal["stop", "skip"] = "stop"
    """For invalid UTF-8 or JSON: stop and say where, or skip the document and count it."""
    separator: Literal["eos-after", "eos-before", "bos-eos", "none"] = "eos-after"
    """What separates documents: end-of-text after each, before each, bos and eos around each, or nothing."""
    add_tokens: tuple[str, ...] = ()
    """Special tokens to add to the tokenizer, such as <|bos|>; gpt2 plus one has 50,258 ids."""
    parse_special: bool = False
    """Parse special tokens that appear in the text (such as <|endoftext|>) instead of treating them as plain text."""
    val_fraction: Fraction = 0.01
    """Fraction held out for validation; 0: no validation split."""
    val_split_by: Literal["hash", "tail", "source"] = "hash"
    """hash: by each document's content, stable when data is added. tail: the end of each source (the last documents,
    or the last tokens if the source is a single document). source: the sources or files named by val_source."""
    val_source: tuple[str, ...] = ()
    """With val_split_by=source: which sources (as spelled in sources), or files in their folders (val-*.parquet), are
    validation data."""
    shard_tokens: PositiveInt = 100_000_000
    """Maximum tokens per shard file."""
    workers: NonNegativeInt = 0
    """Worker processes; 0: one per core. The result does not depend on it."""
    engine: Literal["local", "datatrove", "ray", "slurm"] = "local"
    """What distributes the work; the result does not depend on it. local: our own processes. The others are
    datatrove's executors (pip install 'gptworks[cluster]'): local processes, Ray (RAY_ADDRESS), Slurm jobs."""
    engine_tasks: PositiveInt | None = None
    """With another engine: how many tasks to split the work into. Default: four per worker."""
    partition: str | None = None
    """With engine=slurm: the partition to submit to."""
    task_hours: Positive = 24.0
    """With engine=slurm: time limit of a task."""


@Parameter(group=GROUPS["bpe"])
@dataclass(frozen=True, kw_only=True)
class BpeOptions:
    """Training a byte-level BPE tokenizer."""

    vocab_size: Annotated[int, Parameter(validator=Number(gte=257))] = 50257
    """Number of ids, including special tokens."""
    pattern: Literal["gpt2", "gpt4"] = "gpt2"
    """Regular expression that splits text before merging: GPT-2's or GPT-4's."""
    special_tokens: tuple[str, ...] = ("<|endoftext|>",)
    """Special tokens, added after the merges; the first is the end of text."""
    max_bytes: PositiveInt = 2_000_000_000
    """Stop reading text after this many bytes."""


@Parameter(group=GROUPS["classify"])
@dataclass(frozen=True, kw_only=True)
class ClassifyOptions:
    """Fine-tuning to classify text or to predict a number."""

    text: str | None = None
    """Column with the text. Default: guessed by name (text, sentence, message, ...)."""
    text_pair: str | None = None
    """Column with a second text that belongs to the first. Default: guessed (sentence1 and sentence2, ...)."""
    label: str | None = None
    """Column with the label. Default: guessed by name (label, class, category, ...)."""
    problem_type: Literal["auto", "classification", "regression"] = "auto"
    """auto: classification, unless the labels are numbers and some of them are not integers."""
    val_fraction: Fraction = 0.1
    """Fraction held out for validation if the data has no validation split."""
    test_fraction: Fraction = 0.2
    """Fraction held out for the final scores if the data has no test split."""
    split_seed: NonNegativeInt = 123
    """Seed of splitting and balancing, independent of train.seed: all seeds of n_seeds share one test set."""
    balance: Literal["none", "sample", "weights"] = "none"
    """For classes of unequal size. sample: undersample every class to the size of the rarest, also in validation and
    test sets that we split off. weights: weight rare classes more in the loss."""
    duplicates: Literal["report", "drop"] = "report"
    """Texts that occur more than once. report: count those shared by training and held-out data. drop: remove them."""
    limit: PositiveInt | None = None
    """Use only the first N examples of each file."""
    head: Literal["last-token"] = "last-token"
    """What the classifier reads: the hidden state of the last real token."""
    train_layers: Literal["all", "last-block", "head"] = "all"
    """What to train: everything; the last block, the final norm and the head; or the head. Not with lora.rank."""
    batch_examples: Annotated[PositiveInt, PerVerb] = 16
    """Examples per optimizer step, over all devices. Default: 16; for GLUE 32."""
    max_tokens: PositiveInt | None = None
    """Truncate longer texts (and count them). Default: the model's context."""
    text_pair_separator: str = "\n"
    """Text between the two texts of a pair; may be empty."""
    both_orders: bool = False
    """Read every pair in both orders and average the outputs, for tasks that do not depend on the order."""
    n_seeds: PositiveInt = 1
    """Train this many times, with train.seed, the next seed, ...; keeps the best and prints the mean and standard
    deviation."""
    best_metric: Literal[
        "loss", "accuracy", "balanced_accuracy", "macro_f1", "matthews", "pearson", "spearman"
    ] = "loss"
    """Validation metric that selects the best of n_seeds."""


@Parameter(group=GROUPS["instruct"])
@dataclass(frozen=True, kw_only=True)
class InstructOptions:
    """Fine-tuning to follow instructions, from instruction data or conversations."""

    template: str | None = None
    """Chat template: alpaca, chatml, dalpino, raschka, susac, a Jinja file, or the template's text. It is saved with
    every checkpoint. Default: the MODEL's own, or alpaca if it has none."""
    add_tokens: tuple[str, ...] = ()
    """Strings of your own template to add as special tokens, one id each."""
    mask_prompt: bool = True
    """Train on the assistant's answers only; --no-mask-prompt: on the prompts as well."""
    val_fraction: Fraction = 0.05
    """Fraction held out for validation, chosen by hash of the prompt, if the data has no validation split."""
    test_fraction: Fraction = 0.05
    """Fraction held out for the final loss and answers if the data has no test split."""
    split_seed: NonNegativeInt = 123
    """Seed of the splits, independent of train.seed."""
    limit: PositiveInt | None = None
    """Use only the first N examples of each file."""
    batch_examples: PositiveInt = 32
    """Examples per optimizer step, over all devices."""
    max_tokens: PositiveInt | None = None
    """Longest example; see too_long. Default: the model's context."""
    too_long: Literal["truncate", "drop"] = "truncate"
    """Longer examples. truncate: remove later turns first, then the end of the prompt; answers stay complete, and an
    example whose answer alone is too long is dropped. drop: drop all of them."""
    packing: Literal["auto", "on", "off"] = "auto"
    """Pack several examples into one row, without attention between them, instead of padding. auto: on GPUs."""
    n_responses: NonNegativeInt = 20
    """Answer this many test examples after training; saved in results/responses.json with scores. 0: none."""
    max_response_tokens: PositiveInt = 256
    """Maximum tokens per answer."""


@Parameter(group="glue, per task", show=False)
@dataclass(frozen=True, kw_only=True)
class GlueTaskOptions:
    """Settings of one GLUE task; they override those for all tasks.

    Default: table 4.6 of the thesis behind GluePT, in `src/gptworks/glue/tasks.py`.
    """

    epochs: Positive | None = None
    """Passes over the training rows; may be fractional."""
    n_seeds: PositiveInt | None = None
    """Number of fine-tunings, each with another seed."""
    eval_every: NonNegativeInt | None = None
    """Steps between evaluations."""
    dropout: Fraction | None = None
    """Dropout probability during training."""
    lr: Positive | None = None
    """Peak learning rate."""
    limit: PositiveInt | None = None
    """Train on the first N rows only. Validation and test are always complete."""


@Parameter(group=GROUPS["glue"])
@dataclass(frozen=True, kw_only=True)
class GlueOptions:
    """Fine-tuning models on GLUE's nine tasks: checkpoints of a run, finished models, or both.

    Precedence: the task's built-in settings < [glue.train], [glue.optim], ... < [glue.TASK] < flags. [glue.train],
    [glue.optim], [glue.classify] and [glue.eval] have the options of the top-level tables, which `glue` does not read.
    """

    run: Path | None = None
    """Pretraining run whose checkpoints to evaluate. Default, unless a flag names a model: the recipe's `out`."""
    checkpoints: str = "last"
    """Which of the run's checkpoints: last; all (those of save.at_start and save.every_epochs, and the last one; if
    there are none, every checkpoint); or epochs, such as 0,1,2.5."""
    model: tuple[str, ...] = ()
    """MODELs to evaluate in the same way: gpt2, gpt2-medium, RUN@step-400, a folder."""
    tasks: tuple[str, ...] = ("all",)
    """cola sst2 mrpc stsb qqp mnli qnli rte wnli; or all. AX, the diagnostic set, comes with mnli."""
    data: str = "hf"
    """hf: nyu-mll/glue on the Hugging Face Hub; hf:OWNER/NAME with the same layout; or a folder of official TSVs."""
    out: Path | None = None
    """Campaign folder to create."""
    n_seeds: PositiveInt | None = None
    """Fine-tunings per task, with consecutive seeds; keeps the best on validation and prints the mean and standard
    deviation. Default: the task's own."""
    keep_models: bool = False
    """Keep the best checkpoint of every (model, task). Otherwise only scores and predictions are kept."""
    official_rows: bool = True
    """Refuse data whose row counts differ from GLUE's."""
    train: Annotated[TrainOptions, PerVerb] = TrainOptions()
    optim: Annotated[OptimOptions, PerVerb] = OptimOptions()
    classify: Annotated[ClassifyOptions, PerVerb] = ClassifyOptions()
    eval: Annotated[EvalOptions, PerVerb] = EvalOptions()
    cola: GlueTaskOptions = GlueTaskOptions()
    sst2: GlueTaskOptions = GlueTaskOptions()
    mrpc: GlueTaskOptions = GlueTaskOptions()
    stsb: GlueTaskOptions = GlueTaskOptions()
    qqp: GlueTaskOptions = GlueTaskOptions()
    mnli: GlueTaskOptions = GlueTaskOptions()
    qnli: GlueTaskOptions = GlueTaskOptions()
    rte: GlueTaskOptions = GlueTaskOptions()
    wnli: GlueTaskOptions = GlueTaskOptions()


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A complete piece of work, from text to a trained model. A command uses its own tables and ignores the others."""

    data: Path | None = None
    """Dataset folder: `prepare` writes it and `pretrain` reads it. For `finetune`: the examples."""
    out: Path | None = None
    """Run folder."""
    tokenizer: str | None = None
    """gpt2, r50k_base, a folder or tokenizer.json, or a Hub id."""
    base: str | None = None
    """MODEL to start from instead of random weights; `finetune` spells it --model."""
    model: ModelOptions = field(default_factory=ModelOptions)
    train: TrainOptions = field(default_factory=TrainOptions)
    optim: OptimOptions = field(default_factory=OptimOptions)
    lora: LoraOptions = field(default_factory=LoraOptions)
    classify: ClassifyOptions = field(default_factory=ClassifyOptions)
    instruct: InstructOptions = field(default_factory=InstructOptions)
    eval: EvalOptions = field(default_factory=EvalOptions)
    evaluate: EvaluateOptions = field(default_factory=EvaluateOptions)
    glue: GlueOptions = field(default_factory=GlueOptions)
    perplexity: PerplexityOptions = field(default_factory=PerplexityOptions)
    save: SaveOptions = field(default_factory=SaveOptions)
    sample: SampleOptions = field(default_factory=SampleOptions)
    log: LogOptions = field(default_factory=LogOptions)
    prepare: PrepareOptions = field(default_factory=PrepareOptions)
    bpe: BpeOptions = field(default_factory=BpeOptions)

    @property
    def run(self) -> Run:
        """The run that `out` names. Commands check first that it is set."""
        assert self.out is not None
        return Run(self.out)
