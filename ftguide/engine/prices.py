"Prices of GPUs and APIs, each with its date and source: lines of ftguide/prices.json, which you can edit."

import json
from pathlib import Path

from ftguide.engine.arguments import is_number, require

PACKAGED = Path(__file__).resolve().parent.parent / "prices.json"


def prices(
    file: str | Path | None = None,  # JSON of the same form; None reads the one in the package
) -> dict[str, dict[str, dict]]:  # "gpus" and "apis": name -> numbers, date and source
    "Dated prices of GPUs and APIs."
    return json.loads(Path(file or PACKAGED).read_text(encoding="utf-8"))


def device_line(
    device: str | dict,  # a name in prices()["gpus"], or a dict like one of its lines
) -> dict:  # memory_gb, peak_tflops, usd_per_hour and what else the line holds
    "What is known of a device; ValueError where it is unknown or lacks a number."
    gpus = prices()["gpus"]
    if not isinstance(device, dict) and device not in gpus:
        raise ValueError(f"no device {device!r} in prices.json; it has {', '.join(gpus)}")
    line = device if isinstance(device, dict) else gpus[device]
    needed = ("memory_gb", "peak_tflops", "usd_per_hour")
    if lacking := [name for name in needed if not is_number(line.get(name))]:
        raise ValueError(f"device needs {', '.join(lacking)}, as a number")
    return line


def api_usd(
    name: str,  # one of prices()["apis"], else ValueError
    tokens_in: float,  # read
    tokens_out: float = 0.0,  # written
) -> float:  # USD
    "What an API takes for so many tokens."
    apis = prices()["apis"]
    if name not in apis:
        raise ValueError(f"no API {name!r} in prices.json; it has {', '.join(apis)}")
    require("a number, 0 or more", is_number, tokens_in=tokens_in, tokens_out=tokens_out)
    read = tokens_in * apis[name]["usd_per_million_input_tokens"]
    written = tokens_out * apis[name]["usd_per_million_output_tokens"]
    return (read + written) / 1e6
