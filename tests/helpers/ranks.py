"Two processes that share one piece of work, forked from one that has imported everything."

import os
from multiprocessing.connection import wait

import torch
from killed import child
from ports import free_port


def two_ranks(work, *args, environment: dict | None = None, seconds: float = 300) -> list[int]:
    "Exit codes of both; where one fails the other is ended, as a launcher does."
    shared = dict(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    ranks = []
    for n in map(str, range(2)):
        own = {**(environment or {}), **shared, "RANK": n, "LOCAL_RANK": n}
        ranks.append(child(begin, own, work, *args))
    wait([rank.sentinel for rank in ranks], seconds)
    if any(rank.exitcode for rank in ranks):
        for rank in ranks:
            rank.kill()
    for rank in ranks:
        rank.join(seconds)
        rank.kill()
    return [rank.exitcode for rank in ranks]


def begin(environment: dict, work, *args):
    os.environ.update(environment)
    torch.set_num_threads(1)
    work(*args)
