"""A guide to customising language models that runs: SFT, DPO and distillation, derived, measured and plotted

Modules:

- `ftguide.cli`: The commands of `ftguide`.
- `ftguide.engine.docments`: What a function says of its parameters: the comments beside them, read from the file without importing it.
- `ftguide.engine.run`: `Run`: the one place that trains.
- `ftguide.serving.card`: The model card of a deployed version, and fingerprints of what it was trained on.
- `ftguide.serving.guard`: What is refused before gradio reads it.
- `ftguide.serving.streaming`: Answers while they are written, many at the same time.
- `ftguide.serving.versions`: A folder of numbered versions of a model, one of them in service, none of them half written."""

import lazy_loader

__version__ = "0.0.1"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
