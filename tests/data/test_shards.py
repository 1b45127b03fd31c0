import errno
import os

import numpy as np
import pytest

from gptworks.data.shards import cast_ids, dtype_for, index_path, map_tokens, open_shard, write_shard
from gptworks.errors import DataError
from gptworks.files import checksum


def write(path, ids, dtype, ends=None):
    ids = np.array(ids, dtype)
    return write_shard(path, [ids[:1], ids[1:]], np.array(ends or [len(ids)]), np.dtype(dtype))


@pytest.mark.parametrize(("dtype", "largest"), [("<u2", 2**16 - 1), ("<u4", 2**32 - 1)])
def test_a_shard_comes_back_as_it_was_written(tmp_path, dtype, largest):
    path = tmp_path / "train-00000.bin"
    checksums = write(path, [1, 2, largest], dtype, [1, 3])
    shard = open_shard(path)
    assert shard.tokens.tolist() == [1, 2, largest]
    assert shard.tokens.dtype == np.dtype(dtype)
    assert not shard.tokens.flags.writeable
    assert shard.ends.tolist() == [1, 3]
    assert checksums == (checksum(path), checksum(index_path(path)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train-00000.bin", "train-00000.idx"]


def modded_nanogpt_load(path):
    """`_load_data_shard` of KellerJordan/modded-nanogpt, with numpy for torch."""
    header = np.fromfile(path, dtype=np.int32, count=256)
    assert header[0] == 20240520, "magic number mismatch in the data .bin file"
    assert header[1] == 1, "unsupported version"
    with path.open("rb") as f:
        f.seek(256 * 4)
        tokens = np.frombuffer(f.read(), dtype=np.uint16)
    assert len(tokens) == header[2], "number of tokens read does not match header?"
    return tokens


def test_modded_nanogpt_reads_our_shards(tmp_path):
    write(tmp_path / "a.bin", [5, 6, 50256], "<u2")
    assert modded_nanogpt_load(tmp_path / "a.bin").tolist() == [5, 6, 50256]


def test_nanogpt_files_without_a_header_are_read(tmp_path):
    ids = np.array([1, 2, 3, 50256], np.uint16)
    ids.tofile(tmp_path / "train.bin")
    assert map_tokens(tmp_path / "train.bin").tolist() == ids.tolist()
    (tmp_path / "empty.bin").touch()
    assert len(map_tokens(tmp_path / "empty.bin")) == 0


def test_the_type_follows_the_vocabulary():
    assert dtype_for(2**16) == np.uint16
    assert dtype_for(2**16 + 1) == np.uint32


@pytest.mark.parametrize("largest", [300, 65536, 65536 + 5])
def test_a_token_that_does_not_fit_is_refused(largest):
    with pytest.raises(DataError, match=f"a.bin holds token {largest:,}, .* 299"):
        cast_ids(np.array([1, largest], np.uint32), np.dtype("<u2"), 300, "a.bin")
    assert cast_ids(np.array([1, 299]), np.dtype("<u2"), 300, "a.bin").dtype == np.uint16


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "holds 1,029 bytes, but its header says 1,030"),
        (lambda p: p.write_bytes(p.read_bytes() + b"xx"), "its header says"),
        (lambda p: p.unlink(), "cannot read the token shard"),
        (lambda p: index_path(p).unlink(), "cannot read the document ends"),
        (lambda p: index_path(p).write_bytes(b"\1" * 7), "does not match train.bin"),
        (lambda p: index_path(p).write_bytes(b"\1" + b"\0" * 7), "does not match train.bin"),
        (lambda p: p.write_bytes(p.read_bytes()[:4] + b"\7" + p.read_bytes()[5:]), "version 7"),
    ],
)
def test_a_damaged_shard_is_refused(tmp_path, harm, message):
    path = tmp_path / "train.bin"
    write(path, [1, 2, 3], "<u2")
    harm(path)
    with pytest.raises(DataError, match=message):
        open_shard(path)


def test_half_a_token_is_refused(tmp_path):
    (tmp_path / "train.bin").write_bytes(b"\1\2\3")
    with pytest.raises(DataError, match="not a whole number of uint16 tokens"):
        map_tokens(tmp_path / "train.bin")


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "train.bin"
    write(path, [1, 2, 3], "<u2")
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(path, [4, 5, 6], "<u2")
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("*.draft"))
