"""Ways of denoising: a backbone's noise schedule, walked by one of several solvers."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import diffusers
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, SchedulerMixin, UniPCMultistepScheduler
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers

#: Second order is what DPM-Solver++ (arXiv 2211.01095) and UniPC (arXiv 2302.04867) advise for guided sampling.
SOLVERS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {}),
    "dpm++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "unipc": (UniPCMultistepScheduler, {"solver_type": "bh2", "solver_order": 2}),
}


#: Classes that are given by betas; the others' UNets predict something else than DDIM takes.
READ = tuple(kind.name for kind in KarrasDiffusionSchedulers if kind.name != "EDMEulerScheduler")
#: What a file of another class does not say, as Stable Diffusion's own has it: its latents are not in -1..1.
_STABLE_DIFFUSION = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, "timestep_spacing": "leading"}


def load_schedule(folder: Path) -> DDIMScheduler:
    """Read a backbone's noise schedule, written by whatever scheduler, as a DDIM scheduler.

    What the file does not say is what its own class takes for granted. Steps between the ends (``linspace``) become
    ``trailing`` ones, which begin at full noise too, since DDIM goes by whole steps.

    Raises
    ------
    ValueError
        If it is not the schedule of a diffusion by betas.
    """
    config = cast("dict[str, Any]", DDIMScheduler.load_config(folder, local_files_only=True))
    name = config.get("_class_name", "DDIMScheduler")
    if name not in READ:
        raise ValueError(
            f"{folder}/scheduler_config.json: _class_name is {name!r}; allowed: {', '.join(READ)}, for example "
            "Stable Diffusion's PNDMScheduler"
        )
    levels = config.get("num_train_timesteps", 1000)
    if not isinstance(levels, int) or not 1 <= levels <= 10_000:
        raise ValueError(
            f"{folder}/scheduler_config.json: num_train_timesteps is {levels!r}; allowed: 1 to 10000, for example 1000"
        )
    if name != "DDIMScheduler":
        parameters = inspect.signature(getattr(diffusers, name).__init__).parameters.values()
        assumed = {
            parameter.name: parameter.default for parameter in parameters if parameter.default != parameter.empty
        }
        config = _STABLE_DIFFUSION | assumed | explicit(config)
    if config.get("timestep_spacing") == "linspace":
        config["timestep_spacing"] = "trailing"
    return cast("DDIMScheduler", DDIMScheduler.from_config(config))


def make_scheduler(solver: str, config: Mapping[str, Any]) -> SchedulerMixin:
    """Return a diffusers scheduler for a backbone's noise schedule.

    Parameters
    ----------
    solver
        ``ddim`` (the paper's), or for fewer steps ``dpm++`` or ``unipc``.
    config
        Of the backbone's own scheduler: betas, prediction type and spacing of the time steps are taken from it.
    """
    kind, options = SOLVERS[solver]
    return kind.from_config(explicit(config), **options)


def explicit(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a scheduler's complete configuration, independent of class defaults.

    diffusers drops arguments not named when a scheduler was made, positional ones included, and takes the defaults of
    the new class: other betas, or other spacing of steps.
    """
    return {name: value for name, value in config.items() if name != "_use_default_values"}
