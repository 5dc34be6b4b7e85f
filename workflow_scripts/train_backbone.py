from neuropictor.workflow.job import run
from neuropictor.miniature.backbone import train_backbone

run(train_backbone)
