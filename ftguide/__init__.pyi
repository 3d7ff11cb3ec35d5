# The public names and where each is defined. Type checkers read this file, and so does __init__.py.
from .data import check as check
from .data import split as split
from .decide import choose_technique as choose_technique
from .decide import roi as roi
from .deployment import Gate as Gate
from .deployment import deploy as deploy
from .deployment import rollback as rollback
from .distillation import distill as distill
from .distillation import make_student as make_student
from .dpo import align_dpo as align_dpo
from .dpo import align_kto as align_kto
from .dpo import make_pairs as make_pairs
from .engine.rows import read as read
from .engine.teachers import TextTeacher as TextTeacher
from .engine.training_data import streamed as streamed
from .evaluation import Report as Report
from .evaluation import evaluate as evaluate
from .health import diagnose as diagnose
from .improvement import improve as improve
from .market import load_tasks as load_tasks
from .market import shoppers_choose as shoppers_choose
from .models import LM as LM
from .models import load as load
from .models import reply as reply
from .models import save as save
from .scale import estimate as estimate
from .serving.page import serve as serve
from .serving.votes import Feedback as Feedback
from .sft import finetune_sft as finetune_sft

__version__: str
