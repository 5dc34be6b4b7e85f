from neuropictor.workflow.job import run
from neuropictor.report.data_card import data_card

run(data_card)
