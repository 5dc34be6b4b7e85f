from neuropictor.workflow.job import run
from neuropictor.report.figures import response_map

run(response_map)
