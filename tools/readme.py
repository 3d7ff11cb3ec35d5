"Writes README.md from nbs/index.ipynb: its text cells, with links to the notebooks. `--check` only compares."

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def readme() -> str:
    cells = json.loads((ROOT / "nbs/index.ipynb").read_text(encoding="utf-8"))["cells"]
    text = "\n\n".join("".join(c["source"]).strip() for c in cells if c["cell_type"] == "markdown")
    return re.sub(r"\]\(([\w/-]+\.(?:ipynb|svg))", r"](nbs/\1", text) + "\n"


if __name__ == "__main__":
    target = ROOT / "README.md"
    if "--check" in sys.argv:
        if not target.exists() or target.read_text(encoding="utf-8") != readme():
            sys.exit("README.md is stale: make readme")
    else:
        target.write_text(readme(), encoding="utf-8")
