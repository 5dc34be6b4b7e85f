from neuropictor.workflow.job import run
from neuropictor.controls.tables import score_controls

run(score_controls)
