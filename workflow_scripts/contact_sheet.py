from neuropictor.workflow.job import run
from neuropictor.report.figures import contact_sheet

run(contact_sheet)
