from neuropictor.workflow.job import run
from neuropictor.evaluation.metrics import evaluate

run(evaluate)
