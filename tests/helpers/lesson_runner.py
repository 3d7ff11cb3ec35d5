"""Lessons run in processes forked from one that has imported the libraries.

Importing them anew takes longer than many a lesson. Each lesson has a process and a namespace of its own."""

import multiprocessing
import os
import pkgutil
import signal
import sys
from contextlib import suppress
from importlib import import_module

import nbformat


class LessonRunner:
    "A process that has imported what lessons import, and runs them one after another."

    def __init__(self):
        self.process = None

    def run(self, path: str, parameters: dict, log: str) -> int:
        "Exit code of a lesson; what it printed, and its error, go into `log`."
        if not self.process:
            self.here, there = multiprocessing.Pipe()
            self.process = multiprocessing.get_context("spawn").Process(target=serve, args=(there,))
            self.process.start()
            there.close()
        try:
            self.here.send((path, parameters, log))
            return self.here.recv()
        except BaseException:  # the time is over, or the process is gone
            self.close()
            raise

    def close(self):
        "End the process, and the lesson that is still running."
        if self.process:
            with suppress(ProcessLookupError, AttributeError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.kill()
            self.process.join()
            self.process = None


def serve(jobs):
    if hasattr(os, "setsid"):
        os.setsid()  # a lesson ends with this process
    for name in ("matplotlib.pyplot", "IPython.core.interactiveshell", *modules_of_lessons()):
        import_module(name)
    start = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    while True:
        lesson = start.Process(target=run, args=jobs.recv())
        lesson.start()
        lesson.join()
        jobs.send(lesson.exitcode)


def modules_of_lessons() -> list[str]:
    import ftguide

    names = [m.name for m in pkgutil.iter_modules(ftguide.__path__, "ftguide.") if not m.ispkg]
    return [name for name in names if not name.endswith(("__main__", "_modidx", "cli"))]


def run(path: str, parameters: dict, log: str):
    "All cells of a lesson, in the folder of its log; the cell of parameters is followed by these."
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    said = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.chdir(os.path.dirname(log))
    shell = InteractiveShell.instance(config=Config(HistoryManager=dict(enabled=False)))
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            done = shell.run_cell(cell.source)  # prints what goes wrong
            if not done.success:
                sys.exit(f"in cell {cell.id}")
        if "parameters" in cell.metadata.get("tags", []):
            shell.user_ns.update(parameters)
