from neuropictor.workflow.job import run
from neuropictor.evaluation.groups import evaluate_test_set

run(evaluate_test_set)
