"""`python -m neuropictor`, as launchers such as accelerate's call it."""

from neuropictor.cli.app import app

app(prog_name="neuropictor")
