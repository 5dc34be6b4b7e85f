from neuropictor.workflow.job import run
from neuropictor.controls.draw import steer_subject

run(steer_subject)
