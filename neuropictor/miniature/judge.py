"""The judge of a model card: it tells categories of scenes, and no part of the backbone has learnt from it."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from neuropictor.miniature.backbone import Part, categories, train_part
from neuropictor.miniature.networks import build_tower, render_scenes
from neuropictor.models.backbone import Backbone, ImageTower
from neuropictor.models.parts import load_part
from neuropictor.simulation.scenes.scene import CATEGORIES, Scene

if TYPE_CHECKING:
    from neuropictor.miniature.settings import MiniatureSettings


class Judge(Part):
    """A network of the image tower's kind that is taught the main object's category alone."""

    recipe: ClassVar = {"learning_rate": 2e-3, "weight_decay": 0.05, "validation_interval": 500}
    trained: ClassVar = ()
    module: ImageTower

    def __init__(self, backbone: Backbone, images: np.ndarray, scenes: list[Scene]):
        super().__init__(backbone, images, scenes)
        self.module = build_tower(len(CATEGORIES))
        self.main = categories(scenes).to(backbone.device)

    def _loss(self, rows: np.ndarray) -> Tensor:
        return F.cross_entropy(self.module(self.backbone.to_tensor(self.images[rows])), self.main[rows])

    def _measures(self, rows: np.ndarray) -> dict[str, Tensor]:
        seen = self.module(self.backbone.to_tensor(self.images[rows])).argmax(1)
        return {"category": (seen == self.main[rows]).float().mean()}


def load_judge(backbone: Backbone, settings: "MiniatureSettings", folder: Path) -> ImageTower:
    """Read the judge of a folder; train it first on the scenes of the settings where there is none."""
    if not folder.is_dir():
        training, runtime = settings.backbone, settings.runtime
        images, scenes = render_scenes(range(training.scenes), training.seed, max(1, runtime.threads))
        torch.manual_seed(training.seed)
        task = Judge(backbone, images, scenes)
        steps = folder.with_name("checkpoints") / "judge-steps"
        train_part("judge", task, training, runtime, steps, {})
        task.module.half().save_pretrained(folder)
    judge = load_part(ImageTower, folder, dtype=torch.float32).eval()
    judge.to(backbone.device)  # pyright: ignore[reportArgumentType] (its decorator hides self)
    return judge


@torch.no_grad()
def judge_images(judge: ImageTower, backbone: Backbone, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the categories that a judge sees in images ``[N]``, as indices, and its features ``[N, F]``."""
    seen, features = [], []
    for chunk in np.array_split(images, -(-len(images) // 100)):
        pooled = judge.resnet(backbone.to_tensor(chunk)).pooler_output.flatten(1)
        seen.append(judge.projection(pooled).argmax(1).cpu().numpy())
        features.append(pooled.cpu().numpy())
    return np.concatenate(seen), np.concatenate(features)
