from neuropictor.workflow.job import run
from neuropictor.data.preprocess import preprocess_stimuli

run(preprocess_stimuli)
