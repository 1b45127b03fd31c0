"""Every option of the tool, on one page.

A recipe is a TOML file with these tables; a flag of the same dotted name (`--optim.lr`) beats the file.
A field's docstring is its `--help`. There is no torch here, so that help and validation are instant;
what depends on a model, a Dataset or the hardware is checked by the code that has it at hand.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.types import NonNegativeFloat, NonNegativeInt, PositiveInt
from cyclopts.validators import Number

Positive = Annotated[float, Parameter(validator=Number(gt=0, lt=float("inf")))]
"""A finite number above 0."""

Fraction = Annotated[float, Parameter(validator=Number(gte=0, lt=1))]
"""A number in [0, 1)."""


@Parameter(group="model")
@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The network. What is not given comes from the preset; without a preset, from `gpt2`'s shape."""

    preset: str | None = None
    """A named shape: gpt2, gpt2-medium, gpt2-large, gpt2-xl, modern-124m, ... `gptworks inspect presets` lists them."""
    family: Literal["gpt2", "modern"] | None = None
    """gpt2: exact GPT-2. modern: RMSNorm, RoPE, QK-norm, SwiGLU; its checkpoint is a Qwen3 model."""
    n_layer: PositiveInt | None = None
    """Transformer blocks."""
    n_head: PositiveInt | None = None
    """Attention heads; must divide n_embd."""
    n_kv_head: PositiveInt | None = None
    """Key and value heads (modern only); must divide n_head. Fewer make a smaller cache."""
    n_embd: PositiveInt | None = None
    """Width of the residual stream."""
    n_inner: PositiveInt | None = None
    """Width inside the MLP. Default: 4 n_embd for gpt2; 8/3 n_embd rounded up to 64 for modern."""
    context: PositiveInt | None = None
    """Longest input, in tokens."""
    dropout: Fraction | None = None
    """Drop probability while training. 0 for pretraining, 0.1 for little data."""
    dropout_at: tuple[Literal["embedding", "attention", "attention_out", "mlp_out"], ...] | None = None
    """Where dropout acts: embedding sum, attention weights, either branch before it joins the residual stream."""
    bias: tuple[Literal["all", "none", "qkv", "proj", "mlp", "norm"], ...] | None = None
    """Which parts have biases (gpt2 only): all, none, or some of qkv, proj (attention output), mlp, norm."""
    norm_eps: Positive | None = None
    """Added to the variance inside the norms."""
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
    """Start the projections into the residual stream at zero instead of N(0, init_std / sqrt(2 n_layer))."""
    frozen_embedding: str | None = None
    """A MODEL whose token embedding is taken over and kept as it is; sizes must agree. '' beats a recipe's by none."""


@Parameter(group="train")
@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The loop: how long, and how much at a time."""

    max_steps: NonNegativeInt | None = None
    """Optimizer steps in the whole run. Default: what train.epochs comes to."""
    epochs: Positive | None = None
    """Passes over the data, fractions allowed; the schedule then ends with the last one. Default: 1; 3 to fine-tune."""
    max_hours: Positive | None = None
    """Stop after this much wall time, over all resumes, with a checkpoint. The schedule does not change."""
    batch_tokens: PositiveInt | None = None
    """Tokens per optimizer step, over all devices. A multiple of model.context, except with windows=documents.
    Default: 524,288, less where an epoch would have fewer than 200 steps."""
    micro_batch: Annotated[int | Literal["auto"], Parameter(accepts_keys=False)] = "auto"
    """Rows of one forward and backward on one device. auto: what fits, in long runs the fastest of it, measured. Where
    memory runs out it is halved. Without dropout results do not depend on it."""
    windows: Literal["shuffled", "strided", "random", "documents"] = "shuffled"
    """How rows are cut. shuffled: documents in random order, packed. strided: windows of the text as it is,
    train.stride apart. random: windows anywhere, with replacement. documents: whole documents, batches of one length,
    no padding."""
    stride: PositiveInt | None = None
    """With windows=strided: tokens from one window to the next. Default: model.context, no overlap."""
    skip_first: NonNegativeInt = 0
    """Do not learn the first k targets of every row."""
    dropout: Fraction | None = None
    """Drop probability while fine-tuning. Default: the base's. (A model made from nothing has model.dropout.)"""
    seed: NonNegativeInt = 0
    """Fixes initial weights, order of data and dropout."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """auto: bf16 where the hardware multiplies in it, else fp16 on a GPU, else fp32. Weights are kept in fp32."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile. auto: on a GPU. Falls back, and says so, where it does not work."""
    checkpoint_activations: bool = False
    """Keep only what enters a block, and compute the rest again on the way back: a third slower, in far less memory."""
    parallel: Literal["auto", "none", "ddp", "zero1", "fsdp"] = "auto"
    """How several processes share the work. auto: ddp under torchrun. ddp: each has everything. zero1: each keeps and
    updates its share of the optimizer's state. fsdp: each keeps its share of weights, gradients and state (FSDP2)."""
    reshard: bool = True
    """With parallel=fsdp: let go of a block's gathered weights after its forward, and gather them again for backward.
    --train.no-reshard keeps them: more memory, less traffic."""
    gather_in: Literal["fp32", "precision"] = "fp32"
    """With parallel=fsdp: what blocks' weights travel in. fp32: the numbers of ddp. precision: train.precision, half
    the traffic; the weights of norms are then rounded, too. Gradients are added up in fp32 either way."""
    wait_minutes: Positive = 10.0
    """With several processes: how long one waits for another before it gives up, and with it the run."""
    patience: PositiveInt = 5
    """A step whose loss or gradient is not finite changes nothing. After so many in a row, the run goes back to the
    last checkpoint before them and leaves out the data from there to here."""
    rollbacks: NonNegativeInt = 3
    """How often a run goes back to the same checkpoint before it gives up; 0: it gives up at once."""
    spike: Positive | None = None
    """Also do without steps whose loss or gradient norm is so many standard deviations above the mean of the last
    train.spike_window steps; 6 is usual. Default: take them."""
    spike_window: Annotated[int, Parameter(validator=Number(gte=2))] = 100
    """Steps that train.spike compares with."""


@Parameter(group="optim")
@dataclass(frozen=True, kw_only=True)
class OptimOptions:
    """The optimizer and its learning-rate schedule."""

    kind: Literal["adamw", "muon"] = "adamw"
    """muon: Muon for the blocks' matrices, AdamW for embeddings, head, norms and biases."""
    lr: Positive = 6e-4
    """Peak learning rate of AdamW. Default of `finetune`: 5e-5, and 5e-4 with lora.rank."""
    matrix_lr: Positive = 0.02
    """Peak learning rate of Muon's matrices (kind=muon)."""
    momentum: Fraction = 0.95
    """Muon's momentum."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    """AdamW's decay rates of the moments."""
    eps: Positive = 1e-8
    """AdamW's epsilon."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled weight decay."""
    decay: Literal["matrices", "all"] = "matrices"
    """What decays: tensors of two dimensions and more, or every parameter."""
    clip: NonNegativeFloat = 1.0
    """The gradient's norm is clipped to this; 0 does not clip."""
    schedule: Literal["cosine", "linear", "constant", "wsd", "quarter-cosine"] = "cosine"
    """Shape after warm-up. wsd: constant, then linear over the last optim.cooldown of the run.
    quarter-cosine: cos(pi/2 * progress), which is zero at decay_steps. Default of `finetune`: linear."""
    warmup_steps: NonNegativeInt = 0
    """Steps of linear warm-up; step i has lr * (i + 1) / warmup_steps."""
    decay_steps: PositiveInt | None = None
    """Step at which the decay ends. Default: the last step of the run."""
    final_lr: Annotated[float, Parameter(validator=Number(gte=0, lte=1))] = 0.1
    """Learning rate at the end of the decay, as a fraction of the peak. Default of `finetune`: 0."""
    cooldown: Annotated[float, Parameter(validator=Number(gt=0, lte=1))] = 0.2
    """With schedule=wsd: share of the run that cools down."""


@Parameter(group="optim")
@dataclass(frozen=True, kw_only=True)
class FinetuneOptim(OptimOptions):
    """The optimizer and its learning-rate schedule, with the defaults of fine-tuning."""

    lr: Positive = 5e-5
    """Peak learning rate of AdamW. With lora.rank, unless given: 5e-4."""
    schedule: Literal["cosine", "linear", "constant", "wsd", "quarter-cosine"] = "linear"
    """Shape after warm-up. wsd: constant, then linear over the last optim.cooldown of the run.
    quarter-cosine: cos(pi/2 * progress), which is zero at decay_steps."""
    final_lr: Annotated[float, Parameter(validator=Number(gte=0, lte=1))] = 0.0
    """Learning rate at the end of the decay, as a fraction of the peak."""


@Parameter(group="lora")
@dataclass(frozen=True, kw_only=True)
class LoraOptions:
    """Low-rank adapters: the base is kept as it is, and small matrices beside its layers are trained."""

    rank: NonNegativeInt = 0
    """Rank of the adapters; 0: none, the weights themselves are trained."""
    alpha: Positive | None = None
    """How strongly adapters act; see scaling. Default: twice the rank."""
    dropout: Fraction = 0.0
    """Drop probability of an adapter's input while training."""
    targets: tuple[str, ...] = ()
    """Linear layers by the end of their name, * and ? allowed: c_attn, mlp.*, h.1?.attn.c_proj.
    Default: attention and MLP of every block."""
    scaling: Literal["standard", "unscaled", "rslora"] = "standard"
    """The adapter's product is multiplied by alpha / rank; unscaled: by alpha; rslora: by alpha / sqrt(rank)."""
    base_bits: Literal[32, 16, 8, 4] = 32
    """Bits of an adapted layer's frozen weights while training. 16: bfloat16, the same products where train.precision
    is bf16. 8 and 4 (QLoRA) need bitsandbytes: pip install 'gptworks[qlora]'."""


@Parameter(group="eval")
@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """Validation loss on fixed windows, at start, every so often, and at the end."""

    every: NonNegativeInt = 250
    """Steps between evaluations; 0: only at start and end. Default of `finetune`: 50."""
    tokens: PositiveInt = 1_048_576
    """How much of the validation split is used: always the same windows."""
    tasks: tuple[str, ...] = ()
    """Also score these, as `evaluate --tasks` spells them: hellaswag_completion, lambada:FILE, perplexity:FILE, ..."""
    task_every: NonNegativeInt = 0
    """Steps between scores of eval.tasks; 0: only at the end."""
    task_limit: PositiveInt | None = None
    """Only the first N examples of each of eval.tasks. Default: all."""


@Parameter(group="evaluate")
@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What is measured on finished models."""

    tasks: tuple[str, ...] = ()
    """NAME (from the Hub), NAME:FILE, perplexity:FILE, bits_per_byte:FILE or DATASET, harness:NAME,NAME@SHOTS,..."""
    limit: PositiveInt | None = None
    """Only the first N examples of each task. Default: all."""
    shots: NonNegativeInt | None = None
    """Solved examples before each question (harness: only). Default: what each of its tasks says."""
    batch_tokens: PositiveInt | None = None
    """Tokens of one forward. Default: 2,048 on a CPU, 65,536 on a GPU. Scores do not depend on it."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Numbers to compute in. Narrower ones are faster, and change a few answers."""
    split: Literal["dev", "test", "train"] | None = None
    """What local files are, as every table says. Default: what their rows or their name say."""
    include: tuple[Path, ...] = ()
    """Folders with more YAML tasks for harness:."""
    without: tuple[Path, ...] = ()
    """What `inspect DATASET --against` wrote: scores are also given without the items found there."""
    table: Literal["plain", "gpt-alpha"] = "plain"
    """How results are printed: one below the other, or as GPT-alpha prints its ten tasks, with its average."""


@Parameter(group="perplexity")
@dataclass(frozen=True, kw_only=True)
class PerplexityOptions:
    """How the perplexity of texts is taken. Every result says it in words."""

    stride: PositiveInt | None = None
    """Tokens from one window to the next; each token is predicted once. Default: the model's context, no overlap.
    32 is GPT-2's own protocol."""
    average: Literal["tokens", "documents"] = "tokens"
    """tokens: all weigh the same. documents: 2 to the mean of the documents' mean bits per token."""
    skip_first: NonNegativeInt = 0
    """Do not count the first k tokens of each document."""
    joined: bool = False
    """Join documents with the end-of-text mark, as in pretraining, instead of each by itself."""
    detokenizer: Literal["none", "wikitext"] = "none"
    """Undo a corpus's tokenization before ours. Words and bytes are counted before it."""
    text_key: str = "text"
    """Key or column that holds the text."""


@Parameter(group="eval")
@dataclass(frozen=True, kw_only=True)
class FinetuneEval(EvalOptions):
    """Validation on held-out examples, at start, every so often, and at the end."""

    every: NonNegativeInt = 50
    """Steps between evaluations; 0: only at start and end."""


@Parameter(group="save")
@dataclass(frozen=True, kw_only=True)
class SaveOptions:
    """Checkpoints. One is always written at the end, at a time limit and on SIGTERM or SIGINT."""

    every: NonNegativeInt = 1000
    """Steps between checkpoints; 0: only those above."""
    every_epochs: NonNegativeFloat = 0.0
    """Also save at multiples of this many epochs (0.1 works), found again as RUN@epoch-0.1; these are kept."""
    until_epoch: Positive | None = None
    """After this epoch, fractions of epochs are no longer saved: whole ones are."""
    at_start: bool = False
    """Also save the untrained model: RUN@step-0."""
    best: bool = True
    """Also save at each best validation loss, and keep it: RUN@best."""
    keep: PositiveInt = 2
    """How many of the newest ordinary checkpoints stay."""
    keep_every: NonNegativeInt = 0
    """Also keep checkpoints at multiples of this step; 0: none."""


@Parameter(group="sample")
@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """Text generated during training, kept in samples.jsonl."""

    every: NonNegativeInt = 0
    """Steps between samples; 0: none."""
    prompts: tuple[str, ...] = ("",)
    """What to continue; an empty prompt starts at a document's beginning, or of under 10 documents as held-out text."""
    max_tokens: PositiveInt = 64
    """Tokens per sample."""
    temperature: NonNegativeFloat = 0.8
    """0 takes the likeliest token."""
    top_k: NonNegativeInt = 50
    """Draw from the k likeliest tokens; 0: from all."""


@Parameter(group="log")
@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """Besides metrics.jsonl, which is always written."""

    every: PositiveInt = 10
    """Steps between looks at the losses (every step's row is written all the same). Fewer looks let a GPU run ahead."""
    tensorboard: bool = False
    """Also write TensorBoard events into RUN/tensorboard (pip install 'gptworks[track]')."""
    wandb: str | None = None
    """Also log to this Weights & Biases project (pip install 'gptworks[track]')."""


@Parameter(group="prepare")
@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """From texts to a Dataset."""

    sources: tuple[str, ...] = ()
    """Files, folders, `python` (the installed Python's own text) or hf:OWNER/NAME[:CONFIG][@REVISION]. Formats by
    name or content: .txt .md source code, .jsonl[.gz|.zst], .parquet, .csv, token shards (.bin)."""
    weights: tuple[Positive, ...] = ()
    """One per source: 0.5 takes half of its documents (by hash), 2 takes each twice. Default: 1 each."""
    text_key: str = "text"
    """Key or column that holds the text."""
    split: str = "train"
    """Split of a Hub dataset."""
    keep_sets: tuple[str, ...] = ()
    """Keep only documents whose set_key has one of these values."""
    set_key: str = "meta.pile_set_name"
    """Where a document's set is named; dots go into nested objects."""
    min_words: NonNegativeInt = 0
    """Drop documents with fewer whitespace-separated words."""
    max_words: PositiveInt | None = None
    """Cut documents after this many words (or drop them: drop_long)."""
    drop_long: bool = False
    """Drop documents over max_words instead of cutting them."""
    max_tokens: PositiveInt | None = None
    """Cut documents after this many tokens, before end or beginning marks are added."""
    limit: PositiveInt | None = None
    """Only the first N documents of each source (counted before filters)."""
    dedup: bool = False
    """Drop exact repeats of a document (by content hash)."""
    on_error: Literal["stop", "skip"] = "stop"
    """Invalid UTF-8 or JSON: stop and say where, or skip the document and count it."""
    marks: Literal["eos-after", "eos-before", "bos-eos", "none"] = "eos-after"
    """What separates documents: end-of-text after each, before each, bos and eos around each, or nothing."""
    add_tokens: tuple[str, ...] = ()
    """Special tokens to add to the tokenizer, such as <|bos|>; gpt2 with it has 50,258 ids."""
    special_text: bool = False
    """Read literal special tokens in the text (such as <|endoftext|>) as special tokens instead of plain text."""
    val_fraction: Annotated[float, Parameter(validator=Number(gte=0, lt=1))] = 0.01
    """Share held out for validation; 0: no validation split."""
    val_by: Literal["hash", "tail", "source"] = "hash"
    """hash: by each document's content, stable when data is added. tail: the last share of each source's documents
    (of its tokens, where a source is one document). source: the sources or shards named by val_source."""
    val_source: tuple[str, ...] = ()
    """With val_by=source: which of the sources (as spelled there), or files in their folders (val-*.parquet), are
    validation."""
    shard_tokens: PositiveInt = 100_000_000
    """Tokens per shard file, at most."""
    workers: NonNegativeInt = 0
    """Processes; 0: one per core. The result does not depend on it."""
    engine: Literal["local", "datatrove", "ray", "slurm"] = "local"
    """What shares out the work; the result does not depend on it. local: our own processes. The others are datatrove's
    executors (pip install 'gptworks[cluster]'): processes of this machine, a Ray cluster (RAY_ADDRESS), Slurm jobs."""
    engine_tasks: PositiveInt | None = None
    """With another engine: parts that the work is cut into. Default: four for each worker."""
    partition: str | None = None
    """With engine=slurm: where to submit."""
    task_hours: Positive = 24.0
    """With engine=slurm: time limit of a task."""


@Parameter(group="bpe")
@dataclass(frozen=True, kw_only=True)
class BpeOptions:
    """Training a byte-level BPE tokenizer."""

    vocab_size: Annotated[int, Parameter(validator=Number(gte=257))] = 50257
    """Number of ids, special tokens included."""
    pattern: Literal["gpt2", "gpt4"] = "gpt2"
    """How text is split before merging: GPT-2's or GPT-4's regular expression."""
    special_tokens: tuple[str, ...] = ("<|endoftext|>",)
    """Named tokens added after the merges; the first is the end of text."""
    max_bytes: PositiveInt = 2_000_000_000
    """Stop reading text after this many bytes."""


@Parameter(group="classify")
@dataclass(frozen=True, kw_only=True)
class ClassifyOptions:
    """Fine-tuning to name a text's class, or to predict a number."""

    text: str | None = None
    """Column with the text. Default: guessed by name (text, sentence, message, ...)."""
    pair: str | None = None
    """Column with a second text that goes with the first. Default: guessed (sentence1 and sentence2, ...)."""
    label: str | None = None
    """Column with the label. Default: guessed by name (label, class, category, ...)."""
    kind: Literal["auto", "classes", "number"] = "auto"
    """What labels are. auto: names of classes, unless they are numbers of which some are not whole."""
    val_fraction: Fraction = 0.1
    """Share held out to watch training with, where the data has no validation split."""
    test_fraction: Fraction = 0.2
    """Share held out for the scores, where the data has no test split."""
    split_seed: NonNegativeInt = 123
    """Fixes splits and balancing, apart from train.seed: tries with other seeds share their test."""
    balance: Literal["none", "sample", "weights"] = "none"
    """Classes of unequal size. sample: as many of each as of the rarest, in validation and test as well where these are
    split off. weights: rare ones count more in the loss."""
    duplicates: Literal["report", "drop"] = "report"
    """Texts that are there twice: counted where they are in training and held out as well, or left out."""
    limit: PositiveInt | None = None
    """Only the first N examples of each file."""
    head: Literal["last-token"] = "last-token"
    """What is read of a text: the hidden state of its last real token."""
    train_layers: Literal["all", "last-block", "head"] = "all"
    """What is trained: everything; the last block, the norm after it and the head; the head. Not with lora.rank."""
    batch: PositiveInt = 16
    """Examples per optimizer step, over all devices."""
    max_tokens: PositiveInt | None = None
    """Longer texts are cut (and counted). Default: the model's context."""
    pair_separator: str = "\n"
    """Text between the two of a pair; may be empty."""
    both_orders: bool = False
    """Read every pair both ways round and average the outputs: for what does not depend on the order."""
    tries: PositiveInt = 1
    """Train this many times with train.seed, the next seed, ...; the best is kept, and mean and deviation are said."""
    keep_by: Literal[
        "loss", "accuracy", "balanced_accuracy", "macro_f1", "matthews", "pearson", "spearman"
    ] = "loss"
    """The score on validation that says which of the tries is best."""


@Parameter(group="instruct")
@dataclass(frozen=True, kw_only=True)
class InstructOptions:
    """Fine-tuning to answer, from instructions or conversations."""

    template: str | None = None
    """How a conversation is written: alpaca, chatml, dalpino, raschka, susac, a Jinja file, or its text. It goes with
    every checkpoint. Default: the one the MODEL has; alpaca where it has none."""
    add_tokens: Annotated[tuple[str, ...], Parameter(negative_iterable=())] = ()
    """Strings of your own template that are to be special tokens, of one id each."""
    mask_prompt: bool = True
    """Learn the assistant's answers alone; --no-mask-prompt: what it is asked, too."""
    val_fraction: Fraction = 0.05
    """Share held out to watch training with, by hash of what is asked, where the data has no validation split."""
    test_fraction: Fraction = 0.05
    """Share held out for loss and answers at the end, where the data has no test split."""
    split_seed: NonNegativeInt = 123
    """Fixes the splits, apart from train.seed."""
    limit: PositiveInt | None = None
    """Only the first N examples of each file."""
    batch: PositiveInt = 32
    """Examples per optimizer step, over all devices."""
    max_tokens: PositiveInt | None = None
    """Longest example; see too_long. Default: the model's context."""
    too_long: Literal["shorten", "drop"] = "shorten"
    """Longer examples. shorten: later turns go first, then the end of what is asked; an answer stays whole, and where
    even that is too long the example is left out. drop: all of them are left out."""
    packing: Literal["auto", "on", "off"] = "auto"
    """Put several examples into one row, where they do not see each other, instead of padding. auto: on a GPU."""
    responses: NonNegativeInt = 20
    """Answer so many test examples after training, kept in results/responses.json with scores; 0: none."""
    answer_tokens: PositiveInt = 256
    """Longest of these answers."""


@Parameter(group="glue, task by task", show=False)
@dataclass(frozen=True, kw_only=True)
class GlueTaskOptions:
    """How one of GLUE's tasks is learned; it beats what [glue] says for all of them.

    Default: table 4.6 of the thesis behind GluePT, in `src/gptworks/glue/tasks.py`.
    """

    epochs: Positive | None = None
    """Passes over the training rows, fractions allowed."""
    tries: PositiveInt | None = None
    """Fine-tunings, each with another seed."""
    eval_every: NonNegativeInt | None = None
    """Steps between looks at validation."""
    dropout: Fraction | None = None
    """Drop probability while training."""
    lr: Positive | None = None
    """Peak learning rate."""
    limit: PositiveInt | None = None
    """Train on the first N rows only. Validation and test are always whole."""


@Parameter(group="glue")
@dataclass(frozen=True, kw_only=True)
class GlueOptions:
    """Fine-tuning models on GLUE's nine tasks: checkpoints of a run, finished models, or both."""

    run: Path | None = None
    """Pretraining run whose checkpoints are measured. Default, where no flag names a model: the recipe's `out`."""
    checkpoints: str = "last"
    """Which of the run's: last; all (those of save.at_start and save.every_epochs, and the last; without any, every one
    there is); or epochs, such as 0,1,2.5."""
    model: tuple[str, ...] = ()
    """MODELs to measure, by the same path: gpt2, gpt2-medium, RUN@step-400, a folder."""
    tasks: tuple[str, ...] = ("all",)
    """cola sst2 mrpc stsb qqp mnli qnli rte wnli; or all. AX, the diagnostic, comes with mnli."""
    data: str = "hf"
    """hf: nyu-mll/glue on the Hugging Face Hub; hf:OWNER/NAME laid out alike; or the folder of the official TSVs."""
    out: Path | None = None
    """Campaign folder to make."""
    epochs: Positive | None = None
    """Of every task. Default: the task's own."""
    tries: PositiveInt | None = None
    """Fine-tunings of every task with seeds one apart; the best by validation is kept, mean and deviation are said."""
    eval_every: NonNegativeInt | None = None
    """Steps between looks at validation; 0: only at start and end. Default: the task's own."""
    dropout: Fraction | None = None
    """Drop probability while training. Default: the task's own."""
    lr: Positive | None = None
    """Peak learning rate. Default: the task's own; 5e-4 with lora.rank."""
    limit: PositiveInt | None = None
    """Train on the first N rows of every task only. Validation and test are always whole."""
    batch: PositiveInt = 32
    """Rows per optimizer step."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    """AdamW's."""
    weight_decay: NonNegativeFloat = 0.01
    """Of matrices."""
    clip: NonNegativeFloat = 1.0
    """The gradient's norm is clipped to this; 0 does not clip."""
    warmup: Fraction = 0.002
    """Share of the steps in which the learning rate rises; it then falls to 0 in a straight line."""
    train_layers: Literal["all", "last-block", "head"] = "all"
    """What is trained: everything; the last block, the norm after it and the head; the head. Not with lora.rank."""
    pair_separator: str = "\n"
    """Text between the two of a pair; empty joins them directly, as GluePT does."""
    max_tokens: PositiveInt | None = None
    """Longer texts are cut (and counted). Default: the model's context."""
    seed: NonNegativeInt = 0
    """Of every cell's first try."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """As train.precision."""
    micro_batch: Annotated[int | Literal["auto"], Parameter(accepts_keys=False)] = "auto"
    """As train.micro_batch."""
    keep_models: bool = False
    """Keep the best try's checkpoint of every cell. Otherwise only scores and predictions stay."""
    official_rows: bool = True
    """Refuse data whose numbers of rows are not GLUE's own."""
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
    """One piece of work, from texts to a trained model. A verb uses its own tables and leaves the others alone."""

    data: Path | None = None
    """Dataset folder: what `prepare` writes and `pretrain` reads. For `finetune`: its examples."""
    out: Path | None = None
    """Run folder."""
    tokenizer: str | None = None
    """gpt2, r50k_base, a folder or tokenizer.json, or a Hub id."""
    base: str | None = None
    """MODEL to start from instead of new weights; `finetune` spells it --model."""
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
