from neuropictor.workflow.job import run
from neuropictor.data.latents import cache_latents

run(cache_latents)
