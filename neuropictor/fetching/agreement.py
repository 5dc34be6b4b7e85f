"""NSD's agreement: it must be signed before anything is fetched, and real and simulated data never mix."""

from pathlib import Path

from neuropictor.nsd import keys

#: Data Access Agreement, and the terms that it names (registry of open data on AWS, ``datasets/nsd.yaml``).
FORM = "https://forms.gle/xue2bCdM9LaFNMeb7"
TERMS = "https://cvnlab.slite.page/p/IB6BSeW_7o/Terms-and-Conditions"


class AgreementError(PermissionError):
    """NSD's terms have not been accepted."""


def check_terms(accepted: bool) -> None:
    """Make sure that the user has accepted NSD's terms.

    Raises
    ------
    AgreementError
        If not; the message names the form.
    """
    if not accepted:
        raise AgreementError(
            "nsd.terms_accepted is false, and NSD is only for those who have accepted its terms. Read them at"
            f" {TERMS}, fill in the Data Access Agreement at {FORM}, then set it to true; example:"
            " nsd: {source: fetch, terms_accepted: true}"
        )


def check_root(root: Path, simulated: bool) -> None:
    """Make sure that an endpoint's data, simulated or real, may go into a folder in NSD's layout.

    Raises
    ------
    FileExistsError
        If real files would be mixed with simulated ones, or the other way round.
    """
    if simulated:
        keys.check_free_for_simulation(root)
    elif keys.is_simulated(root):
        raise FileExistsError(
            f"{root} holds a simulated NSD ({keys.SIMULATED}), and real files must not come among simulated ones."
            " Allowed: a new folder, or one with NSD itself, e.g. paths: {nsd: data/real/nsd}"
        )
