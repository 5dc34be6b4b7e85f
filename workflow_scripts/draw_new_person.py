from neuropictor.workflow.job import run
from neuropictor.evaluation.generalise import draw_new_person

run(draw_new_person)
