"""Checkpoints of the official code made into folders of this project.

Three kinds are known by their keys: a whole NeuroPictor (written by training, plain or under ``state_dict``), Stable
Diffusion with a text tower and nothing trained (``control_sd21_ini.ckpt``), and the fMRI autoencoder (under ``model``).
Every tensor is used, knowingly left out, or an error; so is every tensor that is not there.
"""

import logging
import pickle
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from neuropictor.models.backbone import Backbone
from neuropictor.models.networks import save_autoencoder
from neuropictor.models.null_context import NullContext
from neuropictor.models.pipeline import NeuroPictorPipeline
from neuropictor.models.population import AUTOENCODER
from neuropictor.official import names
from neuropictor.official import parts as official_parts
from neuropictor.official.sizes import Options, Shapes
from neuropictor.records.record import RunRecord

log = logging.getLogger(__name__)

#: Prefix of each part's keys.
PREFIXES = {
    "unet": "model.diffusion_model.",
    "manipulation": "control_model.",
    "guiding": "cond_stage.",
    "encoder": "fmri_encoder.transformer.",
    "vae": "first_stage_model.",
    "text": "cond_stage_model.model.",
    "autoencoder": "transformer.",
}
KINDS = {
    "neuropictor": ("encoder", "guiding", "manipulation", "unet", "vae"),
    "backbone": ("unet", "vae", "text"),
    "autoencoder": ("autoencoder",),
}
_SCHEDULE = "buffer of the noise schedule, which the scheduler makes"
_UNUSED = "never used by the official code"
_EVALUATION = "network of the official validation"
_BUFFERS = """betas alphas_cumprod alphas_cumprod_prev sqrt_alphas_cumprod sqrt_one_minus_alphas_cumprod
log_one_minus_alphas_cumprod sqrt_recip_alphas_cumprod sqrt_recipm1_alphas_cumprod posterior_variance
posterior_log_variance_clipped posterior_mean_coef1 posterior_mean_coef2 logvar"""
#: Keys, or beginnings of keys that end in a dot, that are left out knowingly, and why.
IGNORED = {
    **dict.fromkeys(_BUFFERS.split(), _SCHEDULE),
    "control_model.input_hint_block.": _UNUSED,
    "fmri_encoder.transformer.pos_embed": "fixed table, compared with the one made here",
    "fmri_encoder.transformer.pred.": _UNUSED,
    "fmri_encoder.transformer.mask_token": _UNUSED,
    "transformer.pos_embed": "fixed table, compared with the one made here",
    "transformer.decoder_pos_embed": "fixed table",
    "cond_stage_model.model.logit_scale": _UNUSED,
    "cond_stage_model.model.attn_mask": "fixed mask",
    **dict.fromkeys(("loss_fn_alex.", "eff_model.", "inception_model."), _EVALUATION),
}


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of an official checkpoint, without running any code that it may hold.

    The file is mapped into memory where its format allows, so that tensors are read when they are used.

    Raises
    ------
    ValueError
        If it holds anything but tensors and plain values, or no tensors at all.
    """
    try:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            content = torch.load(path, map_location="cpu", weights_only=True)  # written by torch before 1.6
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path}: not read, since it holds other objects than tensors, which could run any code, or is damaged "
            f"({str(error).splitlines()[0][:200]}); allowed: torch.save of tensors, for example epoch_015.pth of the "
            "authors' finetuned weights"
        ) from None
    for nested in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(nested), Mapping):
            content = content[nested]
            break
    tensors = dict(content) if isinstance(content, Mapping) else {}
    if not tensors or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ValueError(
            f"{path}: holds no state dict; allowed: tensors by name, at the top or under 'state_dict' or 'model', for "
            "example epoch_015.pth, control_sd21_ini.ckpt or checkpoint_120000.pth"
        )
    return {name.removeprefix("module."): value for name, value in tensors.items()}


@dataclass
class Plan:
    """What becomes of every key of a checkpoint.

    Attributes
    ----------
    kind
        ``neuropictor``, ``backbone`` or ``autoencoder``.
    parts
        The networks by part, on the meta device, in the sizes of the checkpoint.
    mapped
        For each key the part and the names of its tensors there.
    ignored
        For each key that is left out, why.
    unexpected, missing
        Keys that nobody knows, and keys that should be there, both as in the checkpoint.
    """

    kind: str
    parts: dict[str, nn.Module]
    mapped: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def check(self, path: str | Path) -> None:
        """Refuse a checkpoint with unexpected or missing keys, naming all of them."""
        if self.unexpected or self.missing:
            lists = [
                f"{len(keys)} {word}: {', '.join(keys)}"
                for word, keys in (("missing", self.missing), ("unexpected", self.unexpected))
                if keys
            ]
            raise ValueError(
                f"{path}: its keys are not those of the official code's {self.kind} checkpoint. {'; '.join(lists)}. "
                "Allowed: all keys of one, for example of finetune_single_sub/sub01/epoch_015.pth"
            )


def _kind(keys: set[str]) -> str:
    """Tell the kind of a checkpoint."""
    found = {part for part, prefix in PREFIXES.items() if any(key.startswith(prefix) for key in keys)}
    if "autoencoder" in found:
        return "autoencoder"
    if found & {"guiding", "encoder"}:
        return "neuropictor"
    if "unet" in found:
        return "backbone"
    raise ValueError(
        f"keys: none of an official checkpoint among {len(keys)}, such as {sorted(keys)[:3]}; allowed: keys that begin "
        f"with {', '.join(PREFIXES.values())}, for example cond_stage.norm.weight"
    )


def make_plan(shapes: Shapes, options: Options | None = None, table: Tensor | None = None) -> Plan:
    """Decide what becomes of every key; nothing is read but names and shapes.

    Parameters
    ----------
    shapes
        Shape of each key.
    options
        What shapes do not tell; None: the paper's.
    table
        The encoder's stored position table, see `official_sizes.encoder_config`.

    Raises
    ------
    ValueError
        If the keys are of no known kind, or so incomplete that sizes cannot be read off them.
    """
    kind = _kind(set(shapes))
    used = [part for part in PREFIXES if part in KINDS[kind] or (part == "text" and _has(shapes, "text"))]
    try:
        found = {part: part_shapes(shapes, part) for part in used}
        made, pairs = official_parts.make(found, options or Options(), table)
    except (KeyError, StopIteration) as error:
        raise ValueError(
            f"sizes: cannot be read off the {kind} checkpoint, as {error} is missing; allowed: all keys of one, for "
            "example of finetune_single_sub/sub01/epoch_015.pth"
        ) from None
    plan = Plan(kind, made)
    wanted = {part: set(module.state_dict()) for part, module in made.items()}
    for key in shapes:
        part = next((name for name in used if key.startswith(PREFIXES[name])), None)
        reason = _reason(key, kind)
        if reason:
            plan.ignored[key] = reason
            continue
        inner = key.removeprefix(PREFIXES[part]) if part else key
        own = names.translate_joint(inner) if part == "text" else []
        own = own or ([names.translate(inner, pairs[part])] if part else [])
        if own and set(own) <= wanted[part]:
            plan.mapped[key] = (part, own)
        else:
            plan.unexpected.append(key)
    for part, own in wanted.items():
        absent = own - {name for where, found in plan.mapped.values() if where == part for name in found}
        plan.missing += sorted({PREFIXES[part] + names.official_name(name, pairs[part]) for name in absent})
    return plan


def _reason(key: str, kind: str) -> str | None:
    """Say why a key is left out; None if it is not."""
    if kind == "backbone" and key.startswith(PREFIXES["manipulation"]):
        return "untrained copy of the UNet, which training makes anew"
    for name, why in IGNORED.items():
        if key == name or (name[-1] == "." and key.startswith(name)):
            return why
    return None


def _has(shapes: Shapes, part: str) -> bool:
    return any(key.startswith(PREFIXES[part]) for key in shapes)


def part_shapes(shapes: Shapes, part: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of one part, by names without the part's prefix."""
    prefix = PREFIXES[part]
    return {key.removeprefix(prefix): tuple(shape) for key, shape in shapes.items() if key.startswith(prefix)}


def load_parts(plan: Plan, tensors: Mapping[str, Tensor]) -> dict[str, nn.Module]:
    """Fill the plan's networks with a checkpoint's tensors, as they lie in the file where no change is needed."""
    states: dict[str, dict[str, Tensor]] = {part: {} for part in plan.parts}
    for key, (part, own) in plan.mapped.items():
        tensor = tensors[key].float()
        if own[0] == "text_projection.weight":
            tensor = tensor.T
        if part == "vae" and ".attentions." in own[0] and tensor.ndim == 4:
            tensor = tensor[:, :, 0, 0]  # 1 x 1 convolutions there, linear layers here
        pieces = [piece.clone() for piece in tensor.chunk(len(own))] if len(own) > 1 else [tensor.contiguous()]
        states[part] |= dict(zip(own, pieces, strict=True))
    for part, module in plan.parts.items():
        module.load_state_dict(states[part], assign=True)
        module.eval().requires_grad_(False)
    return plan.parts


def _check_schedule(tensors: Mapping[str, Tensor], scheduler: DDIMScheduler) -> None:
    """Refuse a checkpoint whose stored noise schedule is another than the scheduler's."""
    stored = tensors.get("alphas_cumprod")
    if stored is None:
        return
    if stored.shape != scheduler.alphas_cumprod.shape or not np.allclose(stored, scheduler.alphas_cumprod, atol=1e-5):
        raise ValueError(
            "alphas_cumprod: the stored noise schedule is not Stable Diffusion's; allowed: 1000 scaled linear steps "
            "from 8.5e-4 to 0.012, as the official code has them"
        )


def import_official(
    checkpoint: str | Path,
    out: str | Path,
    options: Options | None = None,
    backbone: str | Path | None = None,
) -> None:
    """Write an official checkpoint as a folder.

    A whole NeuroPictor becomes a pipeline (`NeuroPictorPipeline.from_pretrained`), which, where the checkpoint has its
    text tower, is also a backbone to train on: ``text_encoder/`` lacks the tower's last block and gives the null
    context, ``target_text_encoder/`` has all blocks and gives the target of the semantic loss. Stable Diffusion alone
    becomes a backbone. The fMRI autoencoder becomes ``autoencoder.safetensors``, which a backbone's folder may carry as
    ``population/autoencoder.safetensors`` for ``calibrate: {init: population}``.

    Parameters
    ----------
    checkpoint
        ``.pth`` or ``.ckpt``.
    out
        Folder, which must not exist yet.
    options
        What shapes do not tell; None: the paper's.
    backbone
        A backbone with the same UNet and VAE: they are compared and named instead of written (3.8 GB). It also gives
        the null context where the checkpoint has no text tower.

    Raises
    ------
    ValueError
        If the file holds other objects than tensors, or other keys than expected.
    FileExistsError
        If there is something at `out`.
    """
    out = Path(out)
    if out.exists():
        raise FileExistsError(f"{out} exists; allowed: a new folder, for example --out {out}-2")
    work = out.with_name(f".{out.name}.partial")
    write = {"neuropictor": _write_pipeline, "backbone": _write_backbone, "autoencoder": _write_autoencoder}
    with RunRecord(out / "run.json", "import_official", inputs=[checkpoint]) as record:
        tensors = read_checkpoint(checkpoint)
        table = next((tensors[key] for key in tensors if key.endswith("transformer.pos_embed")), None)
        plan = make_plan({key: tuple(value.shape) for key, value in tensors.items()}, options, table)
        plan.check(checkpoint)
        parts = load_parts(plan, tensors)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            write[plan.kind](parts, tensors, work, backbone)
            work.rename(out)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        counts = {"mapped": len(plan.mapped), "ignored": len(plan.ignored), "unmapped": 0}
        record.add(kind=plan.kind, **counts, reasons=dict(Counter(plan.ignored.values())))
    log.info("%s: a %s checkpoint, %d of its %d tensors used", checkpoint, plan.kind, len(plan.mapped), len(tensors))


def _write_autoencoder(parts: Mapping[str, nn.Module], tensors: object, out: Path, backbone: object) -> None:
    save_autoencoder(parts["autoencoder"], out / AUTOENCODER)


def _write_backbone(parts: Mapping[str, Any], tensors: Mapping[str, Tensor], out: Path, backbone: object) -> None:
    scheduler = official_parts.scheduler()
    _check_schedule(tensors, scheduler)
    scheduler.save_pretrained(out / "scheduler")
    for name in ("unet", "vae"):
        parts[name].save_pretrained(out / name)
    official_parts.write_text_towers(parts["text"], out)


def _write_pipeline(
    parts: Mapping[str, Any], tensors: Mapping[str, Tensor], out: Path, backbone: str | Path | None
) -> None:
    scheduler = official_parts.scheduler()
    _check_schedule(tensors, scheduler)
    frozen = None if backbone is None else Backbone.load(backbone)
    if "text" in parts:
        null = official_parts.null_context(parts["text"])
    elif frozen is not None:
        null = frozen.null_context()
    else:
        raise ValueError(
            "null context: the checkpoint has no text tower (keys cond_stage_model.model.*) to make it with; allowed: "
            "a backbone with one, for example --backbone /data/stable-diffusion-2-1-base"
        )
    used = {name: parts[name] for name in ("encoder", "guiding", "manipulation", "unet", "vae")}
    pipeline = NeuroPictorPipeline(**used, scheduler=scheduler, null_context=NullContext.of(null))
    if frozen is None:
        pipeline.save_pretrained(out)
        if "text" in parts:
            official_parts.write_text_towers(parts["text"], out)
        return
    for name in ("unet", "vae"):
        own, other = parts[name].state_dict(), getattr(frozen, name).state_dict()
        different = [key for key in own.keys() | other.keys() if key not in own or not _same(own[key], other.get(key))]
        if different:
            raise ValueError(
                f"backbone: {name} in {backbone} differs from the checkpoint's in {len(different)} tensors, such as "
                f"{sorted(different)[0]}; allowed: the backbone that the checkpoint was trained on, or no --backbone, "
                "which writes the checkpoint's own"
            )
    pipeline.save_trained(out, backbone)


def _same(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.shape == other.shape and torch.equal(one, other)
