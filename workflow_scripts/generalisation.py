from neuropictor.workflow.job import run
from neuropictor.report.generalisation import report_generalisation

run(report_generalisation)
