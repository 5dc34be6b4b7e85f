"""Anonymous reads of a public bucket over HTTPS: size and ETag of an object, and ranges of its bytes.

What may pass (5xx, timeouts, resets, answers that end short) is tried again by `Attempts`, with exponential back-off;
all else is refused at once, with a message that says what to do.
"""

import logging
import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import quote

import requests
import urllib3
from requests.adapters import HTTPAdapter

log = logging.getLogger(__name__)

#: Bytes read from a connection at a time.
CHUNK_BYTES = 256 * 2**10
#: Answers besides 5xx that a later try may change: request timeout, too many requests.
_PASSING = {408, 429}
_EXAMPLE = "nsddata/experiments/nsd/nsd_expdesign.mat"


class FetchError(RuntimeError):
    """A file could not be fetched; the message says which, what was found, what is allowed and one example."""


class AbsentError(FetchError):
    """The endpoint refuses the object (403) or has none of this name (404)."""


class ObjectChangedError(FetchError):
    """The object at the endpoint was replaced while it was read."""


class PassingError(Exception):
    """Something went wrong that may go well next time."""


@dataclass(frozen=True)
class Remote:
    """An object at the endpoint: its key, size in bytes, and ETag without quotation marks."""

    key: str
    size: int
    etag: str


@dataclass(frozen=True)
class Retries:
    """How patient to be.

    Parameters
    ----------
    attempts
        Failures in a row, without one new byte, after which a file is given up.
    first_wait, longest_wait
        Seconds before the second try, doubled with each further one up to the longest.
    timeout
        Seconds to wait for a connection, or for a byte.
    generator
        Waits are shortened at random by up to a half, so that connections do not come back all at once.
    """

    attempts: int = 8
    first_wait: float = 1.0
    longest_wait: float = 60.0
    timeout: float = 30.0
    generator: random.Random = field(default_factory=random.Random)

    def wait(self, failures: int) -> float:
        """Return the seconds to wait after so many failures in a row."""
        return min(self.longest_wait, self.first_wait * 2 ** (failures - 1)) * self.generator.uniform(0.5, 1)


class Attempts:
    """Failures in a row at one object: waits after each, gives up after too many.

    Parameters
    ----------
    key
        Of the object, for the message.
    stop
        Ends a wait early when set.
    """

    def __init__(self, key: str, retries: Retries, stop: threading.Event | None = None):
        self.key, self.retries = key, retries
        self.stop = stop or threading.Event()
        self.failures = 0

    def failed(self, error: PassingError) -> None:
        """Wait before the next try.

        Raises
        ------
        FetchError
            If it was the last.
        """
        self.failures += 1
        if self.failures >= self.retries.attempts or self.stop.is_set():
            raise FetchError(
                f"{self.key}: given up after {self.failures} tries in a row without a new byte; the last ended with:"
                f" {error}. Bytes fetched so far are kept, and the same command goes on from there. Check the network"
                " and nsd.endpoint, e.g. endpoint: https://natural-scenes-dataset.s3.amazonaws.com"
            ) from error
        seconds = self.retries.wait(self.failures)
        log.info("%s: %s; next try in %.1f s", self.key, error, seconds)
        self.stop.wait(seconds)

    def went_on(self) -> None:
        """Forget the failures, since new bytes came."""
        self.failures = 0


class Bucket:
    """Objects below an address, e.g. ``https://natural-scenes-dataset.s3.amazonaws.com``.

    Parameters
    ----------
    endpoint
        Address that keys are appended to.
    connections
        Most connections at a time.
    """

    def __init__(self, endpoint: str, connections: int = 8, retries: Retries | None = None):
        self.endpoint, self.connections, self.retries = endpoint.rstrip("/"), connections, retries or Retries()
        self._session = requests.Session()
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=connections, max_retries=0))

    def find(self, key: str, stop: threading.Event | None = None) -> Remote:
        """Ask for an object's size and ETag; no more tries once `stop` is set.

        Raises
        ------
        AbsentError
            For 403 and 404.
        FetchError
            If there is no answer, or one without size or ETag.
        """
        attempts = Attempts(key, self.retries, stop)
        while True:
            try:
                with self._ask("HEAD", key) as answer:
                    return self._described(key, answer)
            except PassingError as error:
                attempts.failed(error)

    def find_all(self, keys: Sequence[str]) -> list[Remote]:
        """Ask for many objects' sizes and ETags, several at a time."""
        stop = threading.Event()
        with ThreadPoolExecutor(self.connections) as pool:
            jobs = [pool.submit(self.find, key, stop) for key in keys]
            try:
                return [job.result() for job in jobs]
            except BaseException:
                stop.set()
                pool.shutdown(cancel_futures=True)
                raise

    def part_size(self, remote: Remote, parts: int) -> int | None:
        """Ask for the size of the parts that an object was uploaded in; S3 tells, other servers may not."""
        try:
            with self._ask("HEAD", remote.key, params={"partNumber": "1"}) as answer:
                size = int(answer.headers.get("Content-Length", 0))
                told = answer.headers.get("x-amz-mp-parts-count") == str(parts)
        except (FetchError, PassingError):
            return None
        return size if told and size and -(-remote.size // size) == parts else None

    def read(self, remote: Remote, start: int, stop: int) -> Iterator[bytes]:
        """Read bytes ``start`` to ``stop - 1`` of an object, on the condition that it is still the same.

        Raises
        ------
        PassingError
            If the connection fails, now or between two chunks.
        ObjectChangedError
            If the object is another one by now.
        """
        condition = {"Range": f"bytes={start}-{stop - 1}", "If-Match": f'"{remote.etag}"'}
        with self._ask("GET", remote.key, headers=condition) as answer:
            self._check_range(remote, start, stop, answer)
            try:
                yield from answer.raw.stream(CHUNK_BYTES, decode_content=False)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise PassingError(f"the connection failed ({error})") from error

    def _ask(self, method: str, key: str, headers: dict | None = None, params: dict | None = None) -> requests.Response:
        wanted = {
            "Accept-Encoding": "identity",
            **(headers or {}),
        }  # the object's own bytes, never compressed on the way
        address = f"{self.endpoint}/{quote(key)}"
        try:
            answer = self._session.request(
                method, address, headers=wanted, params=params, stream=True, timeout=self.retries.timeout
            )
        except requests.RequestException as error:
            raise PassingError(f"no answer ({error})") from error
        if answer.status_code not in {200, 206}:
            answer.close()
            raise self._refusal(key, answer)
        return answer

    def _refusal(self, key: str, answer: requests.Response) -> Exception:
        status, reason = answer.status_code, answer.reason
        at = f"{key}: {self.endpoint} answers {status}"
        if status >= 500 or status in _PASSING:
            return PassingError(f"{status} {reason}")
        if status == 403:
            return AbsentError(
                f"{at} (forbidden). NSD answers so for what it holds back and for keys that do not exist. Allowed: keys"
                f" that its bucket shows to everybody, e.g. {_EXAMPLE}; check subject, session, nsd.beta_version and"
                " nsd.endpoint"
            )
        if status == 404:
            return AbsentError(
                f"{at} (not found). Allowed: keys as in NSD's bucket, e.g. {_EXAMPLE}; check subject, session,"
                " nsd.beta_version and nsd.endpoint, which a mirror may hold only in part"
            )
        if status in {412, 416}:
            return self._changed(key, str(status))
        return FetchError(
            f"{at} ({reason}), which is no answer of a public bucket. Allowed: 200 or 206; check nsd.endpoint, e.g."
            " endpoint: https://natural-scenes-dataset.s3.amazonaws.com"
        )

    def _changed(self, key: str, found: str) -> ObjectChangedError:
        return ObjectChangedError(
            f"{key} was replaced at {self.endpoint} while it was being fetched (found: {found}). What came of the old"
            " one has been removed, since halves of two versions make no file. Allowed: one version from first to last"
            " byte; give the same command again, e.g. snakemake, to fetch the new one"
        )

    def _described(self, key: str, answer: requests.Response) -> Remote:
        size, etag = answer.headers.get("Content-Length"), answer.headers.get("ETag", "")
        if size is None or not (etag.startswith('"') and etag.endswith('"') and len(etag) > 2):
            raise FetchError(
                f"{key}: {self.endpoint} tells the size {size or 'not at all'} and the ETag {etag or 'not at all'};"
                " without both, a file put together from ranges cannot be trusted. Allowed: a server that sends"
                ' Content-Length and a strong ETag, as S3 does, e.g. ETag: "9b2cf535f27731c974343645a3985328"'
            )
        return Remote(key, int(size), etag.strip('"'))

    def _check_range(self, remote: Remote, start: int, stop: int, answer: requests.Response) -> None:
        etag = answer.headers.get("ETag", "").strip('"')
        if etag and etag != remote.etag:
            raise self._changed(remote.key, f"ETag {etag}, at first {remote.etag}")
        if answer.status_code == 200:
            if (start, stop) != (0, remote.size):
                raise FetchError(
                    f"{remote.key}: {self.endpoint} answers 200 to a request for a range, so it only sends whole files."
                    " Allowed: a server that answers ranges with 206, as S3 does, e.g. nsd.endpoint:"
                    " https://natural-scenes-dataset.s3.amazonaws.com"
                )
        else:
            expected = f"bytes {start}-{stop - 1}/{remote.size}"
            found = answer.headers.get("Content-Range", "")
            if found != expected:
                raise PassingError(f"sent {found or 'no Content-Range'} instead of {expected}")
