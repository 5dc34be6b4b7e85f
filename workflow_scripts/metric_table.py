from neuropictor.workflow.job import run
from neuropictor.report.scores import metric_table

run(metric_table)
