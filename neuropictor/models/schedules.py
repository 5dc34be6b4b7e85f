"""Ways of denoising: a backbone's noise schedule, walked by one of several solvers."""

from collections.abc import Mapping
from typing import Any

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, SchedulerMixin, UniPCMultistepScheduler

#: Second order is what DPM-Solver++ (arXiv 2211.01095) and UniPC (arXiv 2302.04867) advise for guided sampling.
SOLVERS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {}),
    "dpm++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "unipc": (UniPCMultistepScheduler, {"solver_type": "bh2", "solver_order": 2}),
}


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
