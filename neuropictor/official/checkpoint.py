"""Convert checkpoints of the official code into folders of this project.

Three kinds are known by their keys: a complete NeuroPictor (written by training, plain or under ``state_dict``), Stable
Diffusion with a text tower and nothing trained (``control_sd21_ini.ckpt``), and the fMRI autoencoder (under ``model``).
Every tensor is used, knowingly left out, or an error; so is every missing tensor.
"""

import logging
import pickle
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neuropictor.models.backbone import Backbone
from neuropictor.models.networks import save_autoencoder
from neuropictor.models.null_context import NullContext
from neuropictor.models.pipeline import NeuroPictorPipeline
from neuropictor.models.population import AUTOENCODER
from neuropictor.official.parts import Options, convert, make, null_context, scheduler, write_text_towers
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
NAMED = 20
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
    "model_ema.": "moving average of the UNet's weights, which are taken as they are",
    **dict.fromkeys(("loss_fn_alex.", "eff_model.", "inception_model."), _EVALUATION),
}


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of an official checkpoint, without running any code it may contain.

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
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, TypeError) as error:
        # torch advises to load it all the same
        reason = str(error).partition("WeightsUnpickler error: ")[2] or type(error).__name__
        raise ValueError(
            f"{path}: not read, since it holds other objects than tensors, which could run any code, or is damaged "
            f"({reason.strip().splitlines()[0][:200]}); allowed: torch.save of tensors, for example epoch_015.pth of "
            "the authors' finetuned weights"
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
    """The use of every key of a checkpoint.

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
    unexpected
        Unknown keys, or keys of another shape.
    missing
        Tensors that no key gives, as ``part: name`` in this project.
    """

    kind: str
    parts: dict[str, nn.Module]
    mapped: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def check(self, path: str | Path) -> None:
        """Refuse a checkpoint with unexpected or missing keys, naming the first of them."""
        if self.unexpected or self.missing:
            lists = [
                f"{len(keys)} {word}: {', '.join(keys[:NAMED])}{', ...' if len(keys) > NAMED else ''}"
                for word, keys in (("missing", self.missing), ("unexpected", self.unexpected))
                if keys
            ]
            raise ValueError(
                f"{path}: its keys are not those of the official code's {self.kind} checkpoint. {'; '.join(lists)}. "
                "Allowed: all keys of one, for example of finetune_single_sub/sub01/epoch_015.pth"
            )


def _kind(keys: set[str]) -> str:
    """Return the kind of a checkpoint."""
    parts = {part for part, prefix in PREFIXES.items() if any(key.startswith(prefix) for key in keys)}
    if "autoencoder" in parts:
        return "autoencoder"
    if parts & {"guiding", "encoder"}:
        return "neuropictor"
    if "unet" in parts:
        return "backbone"
    raise ValueError(
        f"keys: none of an official checkpoint among {len(keys)}, such as {sorted(keys)[:3]}; allowed: keys that begin "
        f"with {', '.join(PREFIXES.values())}, for example cond_stage.norm.weight"
    )


def make_plan(tensors: Mapping[str, Tensor], options: Options | None = None) -> Plan:
    """Decide the use of every key; no weights are read, and they may be on the meta device.

    Parameters
    ----------
    tensors
        By keys.
    options
        What shapes do not tell; None: the paper's.

    Raises
    ------
    ValueError
        If the keys are of no known kind, or so incomplete that sizes cannot be read off them.
    """
    kind, keys = _kind(set(tensors)), list(tensors)
    ignored = {key: reason for key in keys if (reason := _reason(key, kind))}
    # An empty tensor of the same shape, filled with a number, identifies each tensor behind the converters.
    marked = {
        key: torch.tensor(number, dtype=torch.int32).expand(tensors[key].shape)
        for number, key in enumerate(keys)
        if key not in ignored
    }
    used = [part for part in PREFIXES if part in KINDS[kind] or (part == "text" and part_tensors(tensors, "text"))]
    try:
        networks = make({part: part_tensors(tensors, part) for part in used}, options or Options())
        plan = Plan(kind, networks, ignored=ignored)
        named = {part: convert(part, part_tensors(marked, part), network) for part, network in plan.parts.items()}
    except KeyError as error:
        raise ValueError(
            f"sizes: cannot be read off the {kind} checkpoint, as {error} is missing; allowed: all keys of one, for "
            "example of finetune_single_sub/sub01/epoch_015.pth"
        ) from None
    for part, network in plan.parts.items():
        shapes = {name: value.shape for name, value in network.state_dict().items()}
        for name, mark in named[part].items():
            if shapes.get(name) == mark.shape:
                plan.mapped.setdefault(keys[mark[(0,) * mark.ndim]], (part, []))[1].append(name)
                del shapes[name]
        plan.missing += [f"{part}: {name}" for name in shapes]
    plan.unexpected = [key for key in keys if key not in ignored and key not in plan.mapped]
    return plan


def _reason(key: str, kind: str) -> str | None:
    """Say why a key is left out; None if it is not."""
    if kind == "backbone" and key.startswith(PREFIXES["manipulation"]):
        return "untrained copy of the UNet, which training makes anew"
    for name, why in IGNORED.items():
        if key == name or (name[-1] == "." and key.startswith(name)):
            return why
    return None


def part_tensors(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Return one part's tensors, by names without the part's prefix."""
    prefix = PREFIXES[part]
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def load_parts(plan: Plan, tensors: Mapping[str, Tensor]) -> dict[str, nn.Module]:
    """Fill the plan's networks with a checkpoint's tensors, as they lie in the file where no change is needed."""
    for part, module in plan.parts.items():
        state = {key: tensors[key].float() for key, (where, _) in plan.mapped.items() if where == part}
        converted = convert(part, part_tensors(state, part), module)
        module.load_state_dict({name: value.contiguous() for name, value in converted.items()}, assign=True)
        module.eval().requires_grad_(False)
    return plan.parts


def _check_schedule(tensors: Mapping[str, Tensor]) -> None:
    """Refuse a checkpoint whose stored noise schedule is another than the scheduler's."""
    alphas = scheduler().alphas_cumprod
    stored = tensors.get("alphas_cumprod", alphas)
    # float16 holds 11 bits of each
    if stored.shape != alphas.shape or not torch.allclose(stored.float(), alphas, rtol=2**-10, atol=1e-5):
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

    A complete NeuroPictor becomes a pipeline (`NeuroPictorPipeline.from_pretrained`), which, if the checkpoint has its
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
        If `out` exists.
    """
    out = Path(out)
    if out.exists():
        raise FileExistsError(f"{out} exists; allowed: a new folder, for example --out {out}-2")
    work = out.with_name(f".{out.name}.partial")
    with RunRecord(out / "run.json", "import_official", inputs=[checkpoint], outputs=[out]) as record:
        tensors = read_checkpoint(checkpoint)
        plan = make_plan(tensors, options)
        plan.check(checkpoint)
        _check_schedule(tensors)
        parts = load_parts(plan, tensors)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            _write(plan.kind, parts, work, backbone)
            work.rename(out)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        counts = {"mapped": len(plan.mapped), "ignored": len(plan.ignored), "unmapped": 0}
        record.add(kind=plan.kind, **counts, reasons=dict(Counter(plan.ignored.values())))
    log.info("%s: a %s checkpoint, %d of its %d tensors used", checkpoint, plan.kind, len(plan.mapped), len(tensors))


def _write(kind: str, parts: Mapping[str, Any], out: Path, backbone: str | Path | None) -> None:
    if kind == "autoencoder":
        save_autoencoder(parts["autoencoder"], out / AUTOENCODER)
        return
    if kind == "backbone":
        scheduler().save_pretrained(out / "scheduler")
        for name in ("unet", "vae"):
            parts[name].save_pretrained(out / name)
        write_text_towers(parts["text"], out)
        return
    frozen = None if backbone is None else Backbone.load(backbone)
    if "text" in parts:
        null = null_context(parts["text"])
    elif frozen is not None:
        null = frozen.null_context()
    else:
        raise ValueError(
            "null context: the checkpoint has no text tower (keys cond_stage_model.model.*) to make it with; allowed: "
            "a backbone with one, for example --backbone /data/stable-diffusion-2-1-base"
        )
    networks = {name: parts[name] for name in KINDS["neuropictor"]}
    pipeline = NeuroPictorPipeline(**networks, scheduler=scheduler(), null_context=NullContext.of(null))
    if backbone is None:
        pipeline.save_pretrained(out)
        if "text" in parts:
            write_text_towers(parts["text"], out)
        return
    for name in ("unet", "vae"):
        ours, theirs = parts[name].state_dict(), getattr(frozen, name).state_dict()
        same = {key for key in ours.keys() & theirs.keys() if torch.equal(ours[key], theirs[key])}
        different = (ours.keys() | theirs.keys()) - same
        if different:
            raise ValueError(
                f"backbone: {name} in {backbone} differs from the checkpoint's in {len(different)} tensors, such as "
                f"{min(different)}; allowed: the backbone that the checkpoint was trained on, or no --backbone, "
                "which writes the checkpoint's own"
            )
    pipeline.save_trained(out, backbone)
