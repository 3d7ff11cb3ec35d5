"""A guide to customising language models that runs: SFT, DPO and distillation, derived, measured and plotted

Modules:

- `ftguide.cli`: The commands of `ftguide`.
- `ftguide.engine.docments`: What a function says of its parameters: the comments beside them, read from the file without importing it.
- `ftguide.engine.run`: `Run`: the one place that trains.
- `ftguide.serving.actions`: What happens when a visitor presses a button of the page, without any of its fields.
- `ftguide.serving.backups`: Backups of a store of votes: a folder beside it with dated copies, the newest sorted last.
- `ftguide.serving.card`: The model card of a deployed version, and fingerprints of what it was trained on.
- `ftguide.serving.guard`: What is refused before gradio reads it.
- `ftguide.serving.months`: What the monthly loop keeps on disk: which votes are used, and a month that was cut off.
- `ftguide.serving.page`: The page for asking and voting, made with gradio: fields, buttons, and how it is opened.
- `ftguide.serving.streaming`: Answers while they are written, many at the same time.
- `ftguide.serving.versions`: A folder of numbered versions of a model, one of them in service, none of them half written.
- `ftguide.serving.votes`: A store of votes and choices in one SQLite file, safe with threads, processes and crashes."""

import lazy_loader

__version__ = "0.0.1"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
