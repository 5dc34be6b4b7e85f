from neuropictor.workflow.job import run
from neuropictor.report.figures import training_curves

run(training_curves)
