from neuropictor.workflow.job import run
from neuropictor.data.time_series import import_frames

run(import_frames)
