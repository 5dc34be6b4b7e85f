from neuropictor.workflow.job import run
from neuropictor.report.scores import report_scores

run(report_scores)
