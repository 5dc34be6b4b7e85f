from neuropictor.workflow.job import run
from neuropictor.data.preprocess import preprocess_subject

run(preprocess_subject)
