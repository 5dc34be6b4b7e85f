from neuropictor.workflow.job import run
from neuropictor.data.alignment import make_space

run(make_space)
