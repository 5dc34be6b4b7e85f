from neuropictor.workflow.job import run
from neuropictor.report.published import published_table

run(published_table)
