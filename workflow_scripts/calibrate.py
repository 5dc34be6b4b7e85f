from neuropictor.workflow.job import run
from neuropictor.training.calibrate import calibrate

run(calibrate, processes=True)
