"""A local server in the manner of S3 (ranges, ETags, If-Range), well-behaved or bad as lines and servers can be."""

import hashlib
import io
import random
import socket
import struct
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from urllib.parse import unquote, urlsplit

from neuropictor.nsd import keys


@dataclass
class Stored:
    """An object: uploaded at once, or in parts of some bytes."""

    content: bytes
    part_size: int | None = None

    @cached_property
    def etag(self) -> str:
        if self.part_size is None:
            return hashlib.md5(self.content).hexdigest()
        parts = [self.content[i : i + self.part_size] for i in range(0, len(self.content), self.part_size)]
        joined = b"".join(hashlib.md5(part).digest() for part in parts)
        return f"{hashlib.md5(joined).hexdigest()}-{len(parts)}"


@dataclass
class Mischief:
    """What goes wrong, and how often a request for bytes.

    drop, reset, stall, short, wrong, swap, whole (the range is ignored), endless, or a status code.
    """

    rates: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    stall: float = 0.4
    bytes_per_second: float = 0
    done: Counter = field(default_factory=Counter)

    def __post_init__(self):
        self.random, self.lock = random.Random(self.seed), threading.Lock()

    def choose(self) -> str:
        """Choose what happens to the next request for bytes."""
        with self.lock:
            drawn = self.random.random()
            for name, rate in self.rates.items():
                drawn -= rate
                if drawn < 0:
                    self.done[name] += 1
                    return name
        return ""

    def below(self, limit: int) -> int:
        with self.lock:
            return self.random.randrange(max(1, limit))


class StandInBucket(ThreadingHTTPServer):
    """Objects by key, or status codes in their place; `requests` lists (method, key, range, condition)."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, objects: dict[str, Stored | int], mischief: Mischief | None = None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects, self.mischief = objects, mischief or Mischief()
        self.requests: list[tuple[str, str, str, str]] = []
        self.next_version: dict[str, Stored] = {}
        self.sent_on: dict[str, str] = {}
        self.credentials: list[str] = []
        self.sent, self.lock = 0, threading.Lock()

    def server_bind(self) -> None:
        """Do as a plain server: HTTP's asks for the machine's name, which may take a second."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing about clients that hang up."""


@contextmanager
def serving(objects: dict[str, Stored | int], mischief: Mischief | None = None) -> Iterator[StandInBucket]:
    """Run a server for a while."""
    server = StandInBucket(objects, mischief)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: StandInBucket

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        stored = self._asked(unquote(urlsplit(self.path).path[1:]), "HEAD")
        if stored is not None:
            self._head(200, stored, len(stored.content))

    def do_GET(self) -> None:
        key, mischief = unquote(urlsplit(self.path).path[1:]), self.server.mischief
        action = mischief.choose()
        if action == "swap" and key in self.server.next_version:
            self.server.objects[key] = self.server.next_version.pop(key)
        stored = self._asked(key, "GET")
        if stored is None:
            return
        if action.isdigit():
            self._empty(int(action))
            return
        content, status, extra = memoryview(stored.content), 200, {}
        same = self.headers.get("If-Range", f'"{stored.etag}"') == f'"{stored.etag}"'
        if "Range" in self.headers and same and action != "whole":
            first = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            status, extra = 206, {"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"}
            content = content[first:]
        if action == "wrong" and content:
            place = mischief.below(len(content))
            content = bytes(content[:place]) + bytes([content[place] ^ 1]) + bytes(content[place + 1 :])
        if action == "short":
            content = content[: mischief.below(len(content))]
        self._head(status, stored, len(content), extra | {"Content-Length": ""} if action == "endless" else extra)
        while action == "endless":
            self._send(content)
        if action in {"drop", "reset", "stall"}:
            self._send(content[: mischief.below(len(content))])
            if action == "stall":
                time.sleep(mischief.stall)
            if action == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
        else:
            self._send(content)

    def _send(self, content: bytes | memoryview) -> None:
        rate = self.server.mischief.bytes_per_second
        step = 4096 if rate else 2**20
        for start in range(0, len(content), step):
            self.wfile.write(content[start : start + step])
            with self.server.lock:
                self.server.sent += len(content[start : start + step])
            if rate:
                time.sleep(step / rate)

    def _asked(self, key: str, method: str) -> Stored | None:
        self.server.credentials += filter(None, [self.headers.get("Authorization")])
        self.server.requests.append((method, key, self.headers.get("Range", ""), self.headers.get("If-Range", "")))
        stored = self.server.objects.get(key)
        if isinstance(stored, Stored):
            return stored
        self._empty(stored or 404, self.server.sent_on.get(key, ""))
        return None

    def _head(self, status: int, stored: Stored, length: int, extra: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"ETag": f'"{stored.etag}"', "Content-Length": str(length), **(extra or {})}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()

    def _empty(self, status: int, to: str = "") -> None:
        self.send_response(status)
        if to:
            self.send_header("Location", to)
        self.send_header("Content-Length", "0")
        self.end_headers()


def packed(root: Path, archives: Mapping[str, Sequence[str]]) -> dict[str, Stored]:
    """All files below a folder as objects, and COCO's annotations in archives (key: kinds) as COCO packs them."""
    files = [path for path in root.rglob("*") if path.is_file()]
    objects = {path.relative_to(root).as_posix(): Stored(path.read_bytes()) for path in files}
    for archive, kinds in archives.items():
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as file:
            for kind in kinds:
                for split in keys.COCO_SPLITS:
                    key = keys.annotations(kind, split)
                    file.write(root / key, f"annotations/{Path(key).name}")
        objects[archive] = Stored(content.getvalue())
    return objects
