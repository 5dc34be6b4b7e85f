from neuropictor.workflow.job import run
from neuropictor.evaluation.generalise import draw_test_set

run(draw_test_set)
