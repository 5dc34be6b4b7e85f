"""Weights from a stand-in for the hub, in a process of its own, as its address is read from the environment once."""

import hashlib
import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from neuropictor.config import ConfigError, load
from neuropictor.fetching.hub import needed_files

ROOT = Path(__file__).resolve().parents[3]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "README.md": b"words",
    "model_index.json": b"{}",
    "unet/config.json": b"{}",
    "unet/diffusion_pytorch_model.safetensors": b"unet" * 1000,
    "unet/diffusion_pytorch_model.fp16.safetensors": b"half",
    "unet/diffusion_pytorch_model.bin": b"pickle",
    "vae/config.json": b"{}",
    "vae/diffusion_pytorch_model.safetensors": b"vae" * 1000,
    "text_encoder/config.json": b"{}",
    "text_encoder/model.safetensors": b"text" * 1000,
    "tokenizer/vocab.json": b"{}",
    "tokenizer/merges.txt": b"a b",
    "scheduler/scheduler_config.json": b"{}",
    "safety_checker/model.safetensors": b"not needed",
    "v2-1_512-ema-pruned.safetensors": b"not needed",
}
NEEDED = {name for name in FILES if name.count("/") == 1 and ".fp16" not in name and ".bin" not in name}
NEEDED = NEEDED - {"safety_checker/model.safetensors"} | {"model_index.json"}


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does to the two questions that fetching asks."""

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        hub = self.server
        hub.asked.append((self.command, self.path))
        if self.path.startswith("/api/models/owner/name/revision/"):
            siblings = [self.sibling(name, data) for name, data in FILES.items()]
            content = json.dumps({"id": "owner/name", "sha": hub.commit, "siblings": siblings}).encode()
            self.send(content, {"Content-Type": "application/json"}, body)
            return
        name = self.path.partition(f"/resolve/{COMMIT}/")[2].partition("?")[0]
        if name not in FILES:
            self.send_error(404)
            return
        data = hub.damaged.get(name, FILES[name])
        etag = hashlib.sha256(FILES[name]).hexdigest()
        self.send(data, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, body)

    @staticmethod
    def sibling(name, data):
        entry = {"rfilename": name, "size": len(data), "blobId": "0" * 40}
        if name.endswith("safetensors"):
            entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 1}
        return entry

    def send(self, content, headers, body):
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked, server.damaged, server.commit = [], {}, COMMIT
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def fetch(hub, out, home):
    code = "import sys; from neuropictor.fetching.hub import fetch_repository as f; f('owner/name', *sys.argv[1:])"
    env = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(home)}
    command = [sys.executable, "-c", code, COMMIT, str(out)]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_only_what_is_needed_is_fetched_and_listed_with_checksums(hub, tmp_path):
    done = fetch(hub, tmp_path / "out", tmp_path / "home")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "out" / "fetched.json").read_text())
    assert (manifest["repository"], manifest["commit"]) == ("owner/name", COMMIT)
    assert set(manifest["files"]) == NEEDED
    for name in NEEDED:
        assert (tmp_path / "out" / name).read_bytes() == FILES[name]
        assert manifest["files"][name]["sha256"] == hashlib.sha256(FILES[name]).hexdigest()
    assert not (tmp_path / "out" / "unet" / "diffusion_pytorch_model.bin").exists()


def test_what_is_there_is_not_fetched_again(hub, tmp_path):
    assert fetch(hub, tmp_path / "out", tmp_path / "home").returncode == 0
    (tmp_path / "out" / "fetched.json").unlink()  # stopped before the end
    (tmp_path / "out" / "vae" / "config.json").unlink()
    hub.asked.clear()
    assert fetch(hub, tmp_path / "out", tmp_path / "home").returncode == 0
    fetched = [path.rpartition("/resolve/")[2] for command, path in hub.asked if command == "GET" and "resolve" in path]
    assert fetched == [f"{COMMIT}/vae/config.json"]


def test_a_damaged_file_is_refused_and_removed(hub, tmp_path):
    name = "unet/diffusion_pytorch_model.safetensors"
    hub.damaged[name] = b"x" * len(FILES[name])
    done = fetch(hub, tmp_path / "out", tmp_path / "home")
    assert done.returncode != 0
    assert "the file was removed" in done.stderr
    assert not (tmp_path / "out" / name).exists()
    assert not (tmp_path / "out" / "fetched.json").exists()


def test_another_commit_is_refused(hub, tmp_path):
    hub.commit = "f" * 40
    done = fetch(hub, tmp_path / "out", tmp_path / "home")
    assert "owner/name: the hub answered ffff" in done.stderr


def test_files_of_a_text_tower():
    names = ["config.json", "model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin", "merges.txt"]
    assert needed_files(names) == ["config.json", "merges.txt", "model.safetensors"]
    sharded = ["config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    assert needed_files(sharded) == sorted(sharded)


@pytest.mark.parametrize("gone", ["vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"])
def test_pickles_alone_are_refused(gone):
    with pytest.raises(ValueError, match=r"no safetensors of .* for example sd2-community"):
        needed_files([name for name in FILES if name != gone])


def test_where_fetched_weights_lie():
    settings = load({"backbone": {"source": "owner/name", "revision": COMMIT, "target_text_encoder": "here"}})
    assert settings.backbone_folder() == f"data/weights/owner--name/{COMMIT}"
    assert settings.target_folder() == "here"
    assert load({}).backbone_folder() == "miniature"


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ({"source": "miniature", "revision": COMMIT}, "source is 'miniature', which is no repository of the hub"),
        ({"target_text_encoder": "a/b/c", "target_revision": COMMIT}, "target_text_encoder is 'a/b/c'"),
        ({"source": "owner/name", "revision": "main"}, "revision"),
    ],
)
def test_only_repositories_have_revisions(backbone, message):
    with pytest.raises(ConfigError, match=message):
        load({"backbone": backbone})
