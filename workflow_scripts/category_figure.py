from neuropictor.workflow.job import run
from neuropictor.report.score_figures import category_figure

run(category_figure)
