from neuropictor.workflow.job import run
from neuropictor.simulation.writer.imagery import write_imagery_subject

run(write_imagery_subject)
