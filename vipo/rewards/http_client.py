"""JSON over HTTP with bounded time and bounded retries, for rewards that live in another process."""

from __future__ import annotations

import http.client
import itertools
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import urlsplit

from vipo.rewards.http_exchange import exchange
from vipo.rewards.wire import WireError, parse_json

Item = TypeVar('Item')
Result = TypeVar('Result')


class ServiceError(RuntimeError):
    """A service gave no usable answer. The message names the address, the attempts and the cause.

    Attributes:
        sample: number, within the request, of the sample that the service could not score; None where it is no sample's
            fault, see :func:`~vipo.rewards.base.find_culprit`.
    """

    def __init__(self, message: str, sample: int | None = None) -> None:
        super().__init__(message)
        self.sample = sample


class _Refused(ServiceError):
    """An answer that another attempt would not change."""


class _Failed(ServiceError):
    """An answer that another attempt may change."""


class JsonClient:
    """Asks one of several equal servers.

    A connection that fails or breaks off, a timeout, an answer that is no JSON (it may be cut off) and the statuses 429
    and 5xx are tried again, at the next server of the list, after 1, 2, 4, ... times ``backoff`` seconds. Any other
    answer is final.

    Args:
        url: address, or list of addresses, ``http://host:port/path``.
        timeout: seconds of one attempt, see :func:`~vipo.rewards.http_exchange.exchange`.
        retries: attempts after the first.
        backoff, max_backoff: seconds before the second attempt, and the most before any.
        key_variable: environment variable that holds a bearer token. The token itself is in no config, log or message.
        at: config key, for messages.

    Raises:
        ValueError: an option is out of range, an address is none, or the variable is not set.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        timeout: float = 120.0,
        retries: int = 5,
        backoff: float = 1.0,
        max_backoff: float = 30.0,
        key_variable: str | None = None,
        at: str = 'reward',
    ) -> None:
        self.urls = [_check_url(u, at) for u in ([url] if isinstance(url, str) else url)]
        if not self.urls:
            raise ValueError(f'{at}.url is an empty list; name at least one server')
        if not 0 < timeout < float('inf'):
            raise ValueError(f'{at}.timeout must be a positive number of seconds, got {timeout}')
        if retries < 0:
            raise ValueError(f'{at}.retries must not be negative, got {retries}')
        if not 0 <= backoff <= max_backoff < float('inf'):
            raise ValueError(
                f'{at}.backoff must lie between 0 and {at}.max_backoff, got {backoff} and {max_backoff} seconds'
            )
        self.timeout, self.retries, self.backoff, self.max_backoff = timeout, retries, backoff, max_backoff
        self._headers = {'Content-Type': 'application/json', 'Accept': 'application/json'}
        if key_variable is not None:
            self._headers['Authorization'] = f'Bearer {read_key(key_variable, at)}'

    def get(self, url: str, path: str, timeout: float) -> Any:
        """JSON from one server, in one attempt.

        Raises:
            ServiceError: it cannot be had.
        """
        try:
            return self._once('GET', url + path, None, timeout)
        except (OSError, http.client.HTTPException, ServiceError, WireError) as error:
            raise ServiceError(f'{url}{path}: {describe(error)}') from error

    def post(self, path: str, body: bytes, read: Callable[[Any], Result], first: int = 0) -> Result:
        """Post to a server and read its answer.

        Args:
            read: turns the JSON into a result, or raises :class:`WireError`, which is final.
            first: number of the server that is asked first.

        Raises:
            ServiceError: after the last attempt, or at once where another attempt would change nothing.
        """
        failures: list[str] = []
        for attempt in itertools.count():
            url = self.urls[(first + attempt) % len(self.urls)]
            try:
                answer = self._once('POST', url + path, body, self.timeout)
            except _Refused as error:
                raise ServiceError(f'{url}{path}: {error}', error.sample) from error
            except (OSError, http.client.HTTPException, WireError, _Failed) as error:
                failures.append(f'{url}{path}: {describe(error)}')
                if attempt == self.retries:
                    raise ServiceError(_summary(failures), getattr(error, 'sample', None)) from error
                time.sleep(min(self.backoff * 2 ** min(attempt, 60), self.max_backoff))
                continue
            try:
                return read(answer)
            except WireError as error:
                raise ServiceError(f'{url}{path} gave an answer that cannot be used: {error}', error.sample) from error

    def _once(self, method: str, url: str, body: bytes | None, timeout: float) -> Any:
        status, reason, answer = exchange(method, url, body, self._headers, timeout)
        if status == 200:
            return parse_json(answer)
        text, sample = _error_text(answer)
        said = f'status {status} {reason}' + (f', "{text}"' if text else '')
        if status == 429 or status >= 500:
            raise _Failed(said, sample)
        raise _Refused(said, sample)


def read_key(variable: str, at: str) -> str:
    """A token from the environment.

    Raises:
        ValueError: the variable is not set, or holds what no header can carry; the message does not repeat it.
    """
    key = os.environ.get(variable, '').strip()
    if not key:
        raise ValueError(f'{at}.key_variable: the environment variable {variable} is not set')
    if not key.isascii() or not key.isprintable() or ' ' in key:
        raise ValueError(f'{at}.key_variable: {variable} holds characters that no HTTP header can carry')
    return key


def in_order(function: Callable[[Item], Result], items: Sequence[Item], concurrency: int) -> list[Result]:
    """``function`` of every item, so many at a time; the first failure in the order of the items is raised.

    After a failure nothing new is begun; what is under way ends by its own timeout.
    """
    with ThreadPoolExecutor(concurrency) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def describe(error: BaseException) -> str:
    """What went wrong, in few words."""
    if isinstance(error, TimeoutError):
        return 'timed out'
    if isinstance(error, http.client.IncompleteRead):
        return f'the connection broke off within the answer ({error})'
    if isinstance(error, http.client.RemoteDisconnected):
        return 'the connection was closed without an answer'
    return str(error) or type(error).__name__


def _summary(failures: list[str]) -> str:
    """One line of the attempts; what repeats is said once."""
    counts = {text: failures.count(text) for text in failures}
    shown = '; '.join(f'{text}' + (f' ({n} times)' if n > 1 else '') for text, n in counts.items())
    return f'no answer in {len(failures)} attempt{"s" if len(failures) > 1 else ""}: {shown}'


def _error_text(answer: bytes) -> tuple[str, int | None]:
    """What a server says of its error, cut to a line, and the sample it names."""
    text: Any = answer[:400].decode('utf-8', 'replace')
    sample = None
    try:
        message = parse_json(answer)
    except WireError:
        message = None
    if isinstance(message, dict):
        sample = message.get('sample')
        text = message.get('error', message.get('message', text))
        text = text.get('message', text) if isinstance(text, dict) else text
    known = isinstance(sample, int) and not isinstance(sample, bool) and sample >= 0
    return ' '.join(str(text).split())[:400], sample if known else None


def _check_url(url: Any, at: str) -> str:
    if not isinstance(url, str):
        raise ValueError(f'{at}.url must be a text or a list of texts, got {url!r} in it')
    address = urlsplit(url)
    if address.username is not None or address.password is not None:
        raise ValueError(f'{at}.url must not hold a password; name an environment variable in {at}.key_variable')
    try:
        good = address.scheme in ('http', 'https') and bool(address.hostname) and (address.port or 80) > 0
    except ValueError:  # a port that is none
        good = False
    plain = url.isascii() and url.isprintable() and not {' ', '?', '#'} & set(url)
    if not good or not plain:
        raise ValueError(f'{at}.url must look like http://host:port, got {url!r}')
    return url.rstrip('/')
