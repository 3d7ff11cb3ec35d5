"Shared by all tests: no network, no telemetry, no progress bars."
import os

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TQDM_DISABLE="1", MPLBACKEND="agg", TOKENIZERS_PARALLELISM="false")
