"""A guide to customising language models that runs: SFT, DPO and distillation, derived, measured and plotted

Modules:

- `ftguide.engine.docments`: What a function says of its parameters: the comments beside them, read from the file without importing it."""

import lazy_loader

__version__ = "0.0.1"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
