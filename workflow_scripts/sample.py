from neuropictor.workflow.job import run
from neuropictor.sampling import sample_subject

run(sample_subject, processes=True)
