from neuropictor.workflow.job import run
from neuropictor.evaluation.groups import evaluate_pairs

run(evaluate_pairs)
