"A teacher's answers and scores on disk."

from pathlib import Path

import pytest
import torch

from ftguide.engine.cache import CachedTeacher, likely_and_drawn_tokens, write_cache

close = lambda wanted: pytest.approx(wanted, abs=1e-6)
ROWS = [dict(prompt=f"How much is {i} + {i % 7}?", completion=str(i + i % 7)) for i in range(40)]


def test_kept_tokens_are_the_likeliest_and_draws_from_the_others():
    torch.manual_seed(0)
    scores = torch.tensor([[0.4, 0.1, 0.3, 0.2], [0.1, 0.2, 0.3, 0.4]]).log() * 2
    ids, logps, rest = likely_and_drawn_tokens(scores, 2, 400, 2.0)
    assert ids[:, :2].tolist() == [[0, 2], [3, 2]] and ids.shape == logps.shape == (2, 402)
    assert rest.exp().tolist() == close([0.3, 0.3])
    torch.testing.assert_close(logps, (scores / 2).gather(1, ids))
    for row, likely, other in ((ids[0, 2:], 3, 1), (ids[1, 2:], 1, 0)):
        assert set(row.tolist()) == {likely, other} and (
            row == likely
        ).float().mean().item() == pytest.approx(2 / 3, abs=0.1)
    assert likely_and_drawn_tokens(torch.tensor([[0.0, -1e5]]), 1, 1, 1.0)[2].tolist() == [-6e4]


def test_missing_shards_are_named_and_written_again(tmp_path):
    whole = write_cache("tiny-small", ROWS, tmp_path, shard_rows=10, max_new_tokens=8)
    (tmp_path / "shard-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 4 files are missing, the first is shard-00002"):
        CachedTeacher(tmp_path)
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.glob("shard-*")}
    assert write_cache("tiny-small", ROWS, tmp_path, shard_rows=10, max_new_tokens=8).rows == whole.rows
    assert all(p.stat().st_mtime_ns == t for p, t in stamps.items())
    with pytest.raises(FileNotFoundError, match="no cache.json"):
        CachedTeacher(tmp_path / "nothing")


def test_full_disk_keeps_what_was_cached(tmp_path, monkeypatch):
    write_bytes = Path.write_bytes

    def full(path, content):
        if "shard-00002" in path.name:
            write_bytes(path, content[:100])
            raise OSError(28, "No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="shard-00002.*No space left.*goes on from there"):
        write_cache("tiny-small", ROWS, tmp_path, shard_rows=10, max_new_tokens=8)
    assert sorted(p.name for p in tmp_path.glob("*shard*")) == [
        "shard-00000.safetensors",
        "shard-00001.safetensors",
    ]
    monkeypatch.undo()
    assert len(write_cache("tiny-small", ROWS, tmp_path, shard_rows=10, max_new_tokens=8).rows) == len(ROWS)
