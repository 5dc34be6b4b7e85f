from neuropictor.workflow.job import run
from neuropictor.data.alignment import align_subject

run(align_subject)
