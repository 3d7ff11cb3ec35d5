"""A guide to customising language models that runs: SFT, DPO and distillation.

Its public names stand in `__init__.pyi`; each is imported when first used, so `import ftguide` is quick."""

import lazy_loader

__version__ = "0.0.1"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
