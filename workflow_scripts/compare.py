from neuropictor.workflow.job import run
from neuropictor.report.comparison import compare

run(compare)
