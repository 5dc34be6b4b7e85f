"""Extra test sets of NSD's people: what each experiment gives, and which betas of it can be used."""

from collections.abc import Iterable
from typing import Literal

Experiment = Literal["imagery", "synthetic"]
#: Test sets that are made of each experiment: NSD-Imagery's seen and imagined targets are two.
TEST_SETS: dict[Experiment, tuple[str, ...]] = {"imagery": ("vision", "imagery"), "synthetic": ("synthetic",)}
#: NSD's shared images in set B of NSD-Imagery.
FEWEST_SHARED = 5
_B1, _B2, _B3 = "betas_assumehrf", "betas_fithrf", "betas_fithrf_GLMdenoise_RR"


def check_betas(experiments: Iterable[str], beta_version: str) -> None:
    """Make sure that the experiments' betas exist in a version, in a known order.

    Which order b2 of NSD-Imagery has within a run is not public: neither ``glm_nsdimagery.m`` nor
    ``designmatrixSINGLETRIAL_nsdimagery.mat``, of which it was made (cvnlab/nsddatapaper, ``main/analysis.m``). b3 is
    GLMsingle's ``modelmd``, which numbers trials by onset (``GLMestimatesingletrial.m``).

    Raises
    ------
    ValueError
        If not; with the reason.
    """
    for experiment in experiments:
        if beta_version == _B1:
            reason = "which NSD does not have of this experiment"
        elif beta_version == _B2 and experiment == "imagery":
            reason = "whose order of trials within a run is not public, so that nobody can tell which trial a row is"
        else:
            continue
        raise ValueError(
            f"nsd.beta_version is {beta_version} and nsd.test_sets has {experiment}, {reason}; allowed: beta_version: "
            f"{_B3}, or test_sets without {experiment}"
        )
