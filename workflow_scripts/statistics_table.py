from neuropictor.workflow.job import run
from neuropictor.report.scores import statistics_table

run(statistics_table)
