"Wheel and sdist in dist/, checked: metadata, size, contents, and the wheel at work in an empty environment."

import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

ROOT, LIMIT = Path(__file__).resolve().parent.parent, 15e6
NEEDS = (
    "ftguide/checkpoints/tiny/model.safetensors",
    "ftguide/checkpoints/tiny-small/model.safetensors",
    "ftguide/report/report.html.jinja",
    "ftguide/prices.json",
    "ftguide/examples/packages.parquet",
    "ftguide/journey.py",
)


def run(*command, **knobs):
    print("$", *map(str, command))
    subprocess.run(command, check=True, **knobs)


def build() -> tuple[Path, Path]:  # wheel, sdist
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", ROOT / "dist", ROOT)
    return next((ROOT / "dist").glob("*.whl")), next((ROOT / "dist").glob("*.tar.gz"))


def contents(wheel: Path, sdist: Path):
    "Everything a user needs is inside, and the wheel is small."
    names = zipfile.ZipFile(wheel).namelist()
    if missing := [n for n in NEEDS if n not in names]:
        sys.exit(f"{wheel.name} lacks {missing}")
    if strange := [n for n in names if not n.startswith(("ftguide/", "ftguide-"))]:
        sys.exit(f"{wheel.name} holds {strange}")
    with tarfile.open(sdist) as archive:
        inside = {n.split("/", 1)[-1] for n in archive.getnames()}
    if missing := [
        n for n in (*NEEDS, "settings.ini", "setup.py", "README.md", "LICENSE") if n not in inside
    ]:
        sys.exit(f"{sdist.name} lacks {missing}")
    if wheel.stat().st_size > LIMIT:
        sys.exit(f"{wheel.name} has {wheel.stat().st_size / 1e6:.1f} MB, more than {LIMIT / 1e6:.0f}")
    print(
        f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, {len(names)} files; {sdist.name}: "
        f"{sdist.stat().st_size / 1e6:.1f} MB"
    )


def at_work(wheel: Path):
    """The wheel in an empty environment, with the versions of constraints.txt.

    Runs the journey on a folder of its own."""
    with tempfile.TemporaryDirectory() as there:
        venv.create(f"{there}/env", with_pip=True)
        python = next(
            p for p in (Path(there, "env/bin/python"), Path(there, "env/Scripts/python.exe")) if p.exists()
        )
        install = [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt"]
        run(*install, "torch")
        run(*install, wheel)
        run(
            python,
            "-c",
            "from ftguide.cli import main; main()",
            "run",
            "--out",
            f"{there}/out",
            cwd=there,
        )
        if not Path(there, "out/report.html").exists():
            sys.exit("ftguide run wrote no report")


if __name__ == "__main__":
    if missing := [m for m in ("build", "twine") if not find_spec(m)]:
        sys.exit(f"{' and '.join(missing)} not installed: .venv/bin/python -m pip install -e '.[release]'")
    wheel, sdist = build()
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    contents(wheel, sdist)
    at_work(wheel)
    print(f"ready: {wheel.relative_to(ROOT)}, {sdist.relative_to(ROOT)}")
