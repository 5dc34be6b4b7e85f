from neuropictor.workflow.job import run
from neuropictor.simulation.writer.synthetic import write_synthetic_subject

run(write_synthetic_subject)
