from neuropictor.workflow.job import run
from neuropictor.report.score_figures import score_figure

run(score_figure)
