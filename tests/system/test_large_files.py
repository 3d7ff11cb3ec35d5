"A file of many megabytes: rows are streamed in constant memory, and checked in a few times its size."

import json
import os
import random
import subprocess
import sys

import pytest

BIG_MB = int(os.environ.get("FTGUIDE_BIG_FILE_MB", 20))


LARGE = """
import resource, sys, time
unit = 1024 if sys.platform != "darwin" else 1024**2
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
what, file = sys.argv[1:]; began = time.perf_counter()
if what == "check":
    from ftguide.data import check
    import rapidfuzz, scipy.stats, datasketch, tqdm.auto; before = peak(); n = check(file).n
else:
    from ftguide.engine.training_data import streamed
    rows = iter(streamed(file)); next(rows); before = peak(); n = 1 + sum(1 for _ in rows)
print(n, round(time.perf_counter() - began, 1), round(before), round(peak()))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="resource")
def test_a_large_file(tmp_path):
    "Streamed in constant memory; `check` keeps the texts, in a few times their size."
    chance, file = random.Random(0), tmp_path / "large.jsonl"
    sentences = [" ".join(f"w{chance.randrange(2000)}" for _ in range(30)) + "." for _ in range(1000)]
    with file.open("w", encoding="utf-8") as f:
        while f.tell() < BIG_MB * 1e6:
            f.write(
                "".join(
                    json.dumps(
                        dict(
                            prompt=f"Number {chance.getrandbits(60)}: "
                            + " ".join(chance.choices(sentences, k=10)),
                            completion=f"It is {chance.getrandbits(60)}.",
                        )
                    )
                    + "\n"
                    for _ in range(100)
                )
            )
    found = {}
    for what in ("stream", "check"):
        done = subprocess.run(
            [sys.executable, "-c", LARGE, what, str(file)],
            capture_output=True,
            text=True,
            timeout=3000,
            env={**os.environ, "TQDM_DISABLE": "1"},
        )
        assert done.returncode == 0, done.stderr
        found[what] = n, seconds, before, peak = tuple(map(float, done.stdout.split()))
        print(
            f"{file.stat().st_size / 1e6:.0f} MB, {n:,.0f} rows, {what}: {seconds} s, "
            f"memory from {before:,.0f} to {peak:,.0f} MB"
        )
    assert (
        found["stream"][0] == found["check"][0] > BIG_MB * 400
        and found["stream"][3] - found["stream"][2] < 30
    )
    assert found["check"][3] - found["check"][2] < 200 + 6 * BIG_MB
