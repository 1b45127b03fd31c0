"""Compare `gptworks prepare` with tiktoken and datasets.map: prepare.py FILE --tokenizer DIR [--collect DIR ...].

`prepare` does all the work, from the compressed file to checksummed shards. tiktoken only encodes texts in memory, with
one thread per core. datasets.map runs transformers' fast GPT-2 tokenizer on part of the file, with one process per
core. MB are megabytes of UTF-8 text. With --collect, FILE is first made from the distinct source and text files in
folders such as /usr and a Python environment. Most machines have hundreds of MB of such text.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import machine

SUFFIXES = {".py", ".pyi", ".pl", ".js", ".c", ".h", ".cpp", ".hpp", ".md", ".rst", ".txt", ".html", ".xml"}


def collect(folders: Sequence[Path], limit: float, file: Path) -> None:
    """Write up to `limit` bytes of distinct files in the folders, of 200 bytes to 2 MB each, as .jsonl.zst."""
    import hashlib
    import json

    import zstandard

    seen, size = set(), 0
    with zstandard.open(file, "wb", cctx=zstandard.ZstdCompressor(level=9)) as out:
        for path in (path for folder in folders for path in sorted(folder.rglob("*"))):
            if path.suffix not in SUFFIXES or path.is_symlink() or not path.is_file() or size > limit:
                continue
            content = path.read_bytes()
            key = hashlib.sha256(content).digest()
            if not 200 <= len(content) <= 2e6 or key in seen:
                continue
            try:
                row = json.dumps({"text": content.decode()}, ensure_ascii=False)
            except UnicodeDecodeError:
                continue
            seen.add(key)
            size += len(content)
            out.write((row + "\n").encode())


def texts_of(file: Path, limit: int) -> list[str]:
    """The texts of a file, up to `limit` bytes."""
    from gptworks.data.work_units import read_documents
    from gptworks.recipe import PrepareOptions

    texts, size = [], 0
    for document in read_documents(str(file), PrepareOptions(sources=(str(file),))):
        texts.append(document.text)
        size += len(document.text.encode())
        if size >= limit:
            break
    return texts


def tiktoken_encoding(folder: Path) -> Any:
    """A tiktoken encoding with the merge ranks of our tokenizer."""
    import tiktoken

    from gptworks.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(folder)
    special = set(tokenizer.special_tokens.values())
    ranks = {tokenizer.token_bytes(i): i for i in range(tokenizer.vocab_size) if i not in special}
    pattern = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
    return tiktoken.Encoding(
        "gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens=tokenizer.special_tokens
    )


def timed(work: Callable[[], Any]) -> float:
    """Seconds that a function takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(options: argparse.Namespace) -> tuple[dict[str, float], float]:
    """MB of text per second of each contender, and MB in total."""
    from datasets import Dataset, disable_progress_bars
    from transformers import PreTrainedTokenizerFast

    from gptworks.data.prepare import prepare
    from gptworks.recipe import PrepareOptions
    from gptworks.text.tokenizer import Tokenizer

    disable_progress_bars()
    cores = os.cpu_count() or 1
    texts = texts_of(options.file, 10**12)
    mb = sum(len(text.encode()) for text in texts) / 1e6
    tokenizer = Tokenizer.load(options.tokenizer)
    rates: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        work = PrepareOptions(sources=(str(options.file),))
        rates["gptworks prepare"] = mb / timed(lambda: prepare(work, tokenizer, folder / "set"))
        encoding = tiktoken_encoding(options.tokenizer)
        encoding.encode_ordinary(texts[0])
        rates["tiktoken alone"] = mb / timed(lambda: encoding.encode_ordinary_batch(texts, num_threads=cores))
        tokenizer.save(folder / "hf")
        fast = PreTrainedTokenizerFast.from_pretrained(folder / "hf")
        sample, size = [], 0.0
        for text in (
            part
            for document in texts
            for part in (document[i : i + 5000] for i in range(0, len(document), 5000))
        ):
            sample.append(text)
            size += len(text.encode()) / 1e6
            if size >= options.map_mb:
                break
        table = Dataset.from_dict({"text": sample})
        seconds = timed(
            lambda: table.map(
                lambda rows: {"ids": fast(rows["text"])["input_ids"]}, batched=True, num_proc=cores
            )
        )
        rates["datasets.map"] = size / seconds
    return rates, mb


def trained_bpe(file: Path, mb: float, vocab_size: int) -> dict[str, float]:
    """Time and memory of `gptworks tokenizer train` on the start of the file."""
    import resource

    with tempfile.TemporaryDirectory() as scratch:
        words = ["tokenizer", "train", "--sources", str(file), "--out", f"{scratch}/bpe"]
        words += ["--vocab-size", str(vocab_size), "--max-bytes", str(round(mb * 1e6))]
        seconds = timed(lambda: subprocess.run([sys.executable, "-m", "gptworks", *words], check=True))
    memory = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {"megabytes": mb, "vocab_size": vocab_size, "seconds": seconds, "peak_memory": memory}


def main() -> None:
    """Measure all contenders and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument(
        "--tokenizer", type=Path, required=True, help="tokenizer folder with GPT-2's vocabulary"
    )
    parser.add_argument(
        "--collect",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="make FILE from the text files in these folders",
    )
    parser.add_argument("--collect-mb", type=float, default=700, help="maximum size of FILE")
    parser.add_argument("--map-mb", type=float, default=4, help="amount of text for datasets.map")
    parser.add_argument(
        "--bpe-mb", type=float, default=100, help="amount of text for training a BPE; 0: skip it"
    )
    parser.add_argument("--bpe-vocab", type=int, default=32768)
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder for the result")
    parser.add_argument("--name", default="prepare", help="name of the result file")
    options = parser.parse_args()
    if options.collect:
        collect(options.collect, options.collect_mb * 1e6, options.file)
    # This comes first, because the measured memory is that of the largest child process so far.
    bpe = trained_bpe(options.file, options.bpe_mb, options.bpe_vocab) if options.bpe_mb else None
    if bpe:
        print(
            f"BPE of {bpe['vocab_size']:,} ids on {bpe['megabytes']:g} MB: {bpe['seconds']:.1f} s, "
            f"{bpe['peak_memory'] / 1e9:.2f} GB"
        )
    rates, mb = measure(options)
    for name, rate in rates.items():
        print(f"{name:<18} {rate:8.1f} MB/s   {rates['gptworks prepare'] / rate:6.1f}x")
    result = {"file": options.file.name, "megabytes": mb, "megabytes_per_second": rates, "bpe": bpe}
    print(machine.write(options.name, result, options.out))


if __name__ == "__main__":
    main()
