from neuropictor.workflow.job import run
from neuropictor.evaluation.evaluate import evaluate

run(evaluate)
