from neuropictor.workflow.job import run
from neuropictor.simulation.writer.synthetic import write_synthetic_images

run(write_synthetic_images)
