from neuropictor.workflow.job import run
from neuropictor.miniature.population import train_population

run(train_population)
