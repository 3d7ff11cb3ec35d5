"Processes that vote in one store at once."

import multiprocessing

from ftguide.serving.votes import Feedback


def writer(path, start, who, n):
    start.wait()
    store = Feedback(path)
    for i in range(n):
        store.vote(f"q{i}", "a", "v1", True, f"r{who}", key=f"{who}-{i}")


def written(path, n, processes=8):
    context = multiprocessing.get_context("fork")
    start = context.Event()
    workers = [context.Process(target=writer, args=(path, start, k, n)) for k in range(processes)]
    for w in workers:
        w.start()
    start.set()
    for w in workers:
        w.join(150)
    assert [w.exitcode for w in workers] == [0] * processes
    return Feedback(path)
