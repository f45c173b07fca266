"""Requests made by hand, byte by byte, to find a reader that understands them differently, or that chokes on them."""

import gzip
import json
import os
import re
import socket
from contextlib import suppress

import psutil
import pytest

from support.api_requests import ADMIN, RUN
from support.fixtures.service import Service

BODY = json.dumps(RUN).encode()
HEAD = b"Host: localhost\r\nAuthorization: Bearer " + ADMIN.encode() + b"\r\nContent-Type: application/json\r\n"
PUT = b"PUT /v1/runs/hostile HTTP/1.1\r\n" + HEAD
SMUGGLED = b"DELETE /v1/runs/kept HTTP/1.1\r\n" + HEAD + b"\r\n"
LIMIT_S = 60.0
MEBIBYTE = 1024 * 1024


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def sized(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n" % len(body) + body


REQUESTS = {
    "length and chunks": PUT + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunks and length": PUT + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n" + SMUGGLED,
    "two lengths": PUT + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
    "a list of lengths": PUT + b"Content-Length: 0, %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
    "a length with a sign": PUT + b"Content-Length: +%d\r\n\r\n" % len(BODY) + BODY,
    "a negative length": PUT + b"Content-Length: -1\r\n\r\n",
    "a length with a space in its name": PUT + b"Content-Length : 0\r\n\r\n" + SMUGGLED,
    "a length of ten gigabytes": PUT + b"Content-Length: 10000000000\r\n\r\n{",
    "a length beyond 64 bit": PUT + b"Content-Length: 99999999999999999999\r\n\r\n{",
    "chunked spelt otherwise": PUT + b"Transfer-Encoding: xchunked\r\n\r\n" + chunked(BODY),
    "chunked after identity": PUT + b"Transfer-Encoding: identity, chunked\r\n\r\n" + chunked(BODY),
    "chunked with a tab": PUT + b"Transfer-Encoding:\tchunked\r\n\r\n" + chunked(BODY),
    "chunked twice": PUT + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + chunked(BODY),
    "a chunk beyond 64 bit": PUT + b"Transfer-Encoding: chunked\r\n\r\n100000000000000000\r\n{}",
    "a negative chunk": PUT + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n{}\r\n0\r\n\r\n",
    "a chunk with an endless extension": PUT + b"Transfer-Encoding: chunked\r\n\r\n2;" + b"x" * MEBIBYTE,
    "trailers that order": PUT + b"Transfer-Encoding: chunked\r\n\r\n0\r\nAuthorization: Bearer x\r\n\r\n",
    "lines that end with a bare LF": PUT.replace(b"\r\n", b"\n") + b"\n",
    "lines that end with a bare CR": PUT.replace(b"\r\n", b"\r") + b"\r",
    "a folded header": PUT + b"X-Folded: a\r\n b\r\n" + sized(BODY),
    "a NUL in a header": PUT + b"X-Null: a\x00b\r\n" + sized(BODY),
    "a header without a name": PUT + b": x\r\n" + sized(BODY),
    "a header of a megabyte": PUT + b"X-Long: " + b"x" * MEBIBYTE + b"\r\n\r\n",
    "a thousand headers": PUT + b"".join(b"X-%d: x\r\n" % number for number in range(1000)) + b"\r\n",
    "an address of a megabyte": b"GET /" + b"a" * MEBIBYTE + b" HTTP/1.1\r\n" + HEAD + b"\r\n",
    "no host": b"GET /v1/runs HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /v1/runs HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n",
    "another host in the address": b"GET http://evil/v1/runs HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a scheme of its own": b"GET file:///etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "an old version": b"GET /v1/runs\r\n\r\n",
    "a version of the future": b"GET /v1/runs HTTP/9.9\r\n" + HEAD + b"\r\n",
    "HTTP/2 without being asked": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": bytes.fromhex("16030100a5010000a10303") + os.urandom(64),
    "random bytes": b"\xff\xfe\x00" * 100,
    "a method of a kilobyte": b"X" * 1024 + b" /v1/runs HTTP/1.1\r\n" + HEAD + b"\r\n",
    "CONNECT": b"CONNECT evil:443 HTTP/1.1\r\nHost: evil:443\r\n\r\n",
    "OPTIONS *": b"OPTIONS * HTTP/1.1\r\n" + HEAD + b"\r\n",
    "a web socket": b"GET /v1/runs HTTP/1.1\r\n" + HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "HTTP/2 by upgrade": b"GET /v1/runs HTTP/1.1\r\n" + HEAD + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    "an expectation": PUT + b"Expect: 100-continue\r\n" + sized(BODY),
    "a packed bomb": PUT + b"Content-Encoding: gzip\r\n" + sized(gzip.compress(bytes(50 * MEBIBYTE))),
    "ten megabytes": PUT + sized(b"[" + b"1," * (5 * MEBIBYTE) + b"1]"),
    "a deep document": PUT + sized(b'{"policy":' * 50_000),
    "many members": PUT + sized(b"{" + b",".join(b'"%d":0' % number for number in range(60_000)) + b"}"),
    "a long number": PUT + sized(b'{"policy": ' + b"9" * 900_000 + b"}"),
    "UTF-16": PUT + sized(json.dumps(RUN).encode("utf-16")),
    "a form": PUT.replace(b"application/json", b"multipart/form-data; boundary=x") + sized(b"--x\r\n" * 10_000),
    "a path with a NUL": b"GET /v1/runs/%00 HTTP/1.1\r\n" + HEAD + b"\r\n",
    "a path that is no UTF-8": b"GET /v1/runs/%ff%fe HTTP/1.1\r\n" + HEAD + b"\r\n",
    "a query that is no UTF-8": b"GET /v1/runs?after=%ff HTTP/1.1\r\n" + HEAD + b"\r\n",
    "a query of many names": b"GET /v1/runs?" + b"a=1&" * 1000 + b" HTTP/1.1\r\n" + HEAD + b"\r\n",
    "a header that splits": b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: a%0d%0aSet-Cookie: x=1\r\n\r\n",
}  # fmt: skip


@pytest.fixture(scope="module")
def attacked(one_guarded: Service) -> Service:
    """A service with a run that is to stay."""
    assert 201 == one_guarded.http.put("/v1/runs/kept", json=RUN).status_code
    return one_guarded


@pytest.mark.parametrize("request_bytes", REQUESTS.values(), ids=list(REQUESTS))
def test_any_input_is_answered_or_rejected_and_the_next_request_is_served(attacked: Service, request_bytes: bytes):
    """
    Forbidden whatever comes: a failure, no end within ten seconds, an order that was smuggled in, a detail of
    the inside, and a next request that fares worse for it.
    """
    answer = raw(attacked, request_bytes)
    statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", answer)]

    assert all(status < 500 for status in statuses), answer[:500]
    assert re.search(rb"Traceback|site-packages|set-cookie|SELECT ", answer) is None
    assert 200 == attacked.http.get("/v1/runs/kept").status_code


def test_hostile_input_costs_no_memory(attacked: Service):
    """
    Ten times the largest input of the tests above.
    """
    large = [REQUESTS[name] for name in ("a packed bomb", "ten megabytes", "a deep document", "a header of a megabyte")]
    for each in large:
        raw(attacked, each)
    before = psutil.Process().memory_info().rss
    for each in large * 10:
        raw(attacked, each)

    assert psutil.Process().memory_info().rss - before < 100 * MEBIBYTE


def raw(service: Service, request: bytes) -> bytes:
    """Everything that comes back until the service closes the connection, or has nothing more to say."""
    host, port = service.url.removeprefix("http://").split(":")
    received = b""
    # It may be closed on us while we are still sending.
    with socket.create_connection((host, int(port)), timeout=LIMIT_S) as connection, suppress(ConnectionError):
        connection.sendall(request)
        with suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        while part := connection.recv(65536):
            received += part
    return received
