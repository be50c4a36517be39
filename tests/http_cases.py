"""HTTP/1.1 as a table: what a client or a backend may send, and what must become of it.

Every row names the section of RFC 9112 (or 9110) that it is about. The rows are used
twice: on the parsers alone (tests/unit) and over real sockets, with the gateway in
between and a backend that keeps every byte (tests/process).
"""

from __future__ import annotations

from typing import Final

import attrs

#: What the gateway puts into ``Host`` on its way to the backend; tests know the address.
HOST: Final = b"BACKEND"

#: A body that names the model, and its chunked form.
BODY: Final = b'{"model": "a"}'
CHUNKED_BODY: Final = b"e\r\n" + BODY + b"\r\n0\r\n\r\n"

#: Why a request is refused: it cannot be read in one way; we cannot do it; too large.
BAD, TOO_LARGE, EXPECTATION, HEAD_TOO_LARGE, UNABLE, VERSION = 400, 413, 417, 431, 501, 505


@attrs.frozen
class Request:
    """What a client sends.

    Attributes:
        rfc: The section, as ``9112-6.1``.
        what: What is special about it.
        data: The bytes.
        status: With what it is refused; None if it is served.
        upstream: What the backend gets of it, byte for byte.
        closes: The connection ends with the answer.
    """

    rfc: str
    what: str
    data: bytes
    status: int | None = None
    upstream: bytes = b""
    closes: bool = False

    def __str__(self) -> str:
        return f"{self.rfc} {self.what}"


@attrs.frozen
class Response:
    """What a backend sends.

    Attributes:
        rfc: The section, as ``9112-6.1``.
        what: What is special about it.
        data: The bytes.
        client: What the client gets, byte for byte; None if it gets a 502 of the router.
        method: What was asked.
        version: The client's version.
        ends: The backend closes behind *data*.
        kept: The backend's connection is used for the next request.
        closes: The client's connection ends with the answer.
    """

    rfc: str
    what: str
    data: bytes
    client: bytes | None = None
    method: bytes = b"POST"
    version: bytes = b"1.1"
    ends: bool = False
    kept: bool = False
    closes: bool = False

    def __str__(self) -> str:
        return f"{self.rfc} {self.what}"


def get(*fields: bytes, line: bytes = b"GET /x?model=a HTTP/1.1", host: bool = True) -> bytes:
    """Return a request without a body."""
    lines = [line, *([b"Host: localhost"] if host else []), *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def post(*fields: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    """Return a POST whose framing is what *fields* say."""
    return get(*fields, line=b"POST /x HTTP/" + version) + body


def length(*fields: bytes, body: bytes = BODY, version: bytes = b"1.1") -> bytes:
    """Return a POST with one good length."""
    return post(b"Content-Length: %d" % len(body), *fields, body=body, version=version)


def chunked(body: bytes, *fields: bytes) -> bytes:
    """Return a POST whose body is the coded *body*."""
    return post(b"Transfer-Encoding: chunked", *fields, body=body)


def up(*fields: bytes, line: bytes = b"GET /x?model=a") -> bytes:
    """Return what a backend gets for `get`."""
    lines = [line + b" HTTP/1.1", b"Host: " + HOST, *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def up_post(*fields: bytes, body: bytes = BODY) -> bytes:
    """Return what a backend gets for `post`."""
    return up(*fields, b"Content-Length: %d" % len(body), line=b"POST /x") + body


def refused(status: int, rfc: str, **rows: bytes) -> list[Request]:
    """Return a row for each of *rows*, all refused with *status*."""
    return [
        Request(rfc, what.replace("_", " "), data, status, closes=True)
        for what, data in rows.items()
    ]


def served(rfc: str, what: str, data: bytes, upstream: bytes, *, closes: bool = False) -> Request:
    """Return the row of a request that is served."""
    return Request(rfc, what, data, None, upstream, closes)


SERVED: Final = [
    # -- request line and target
    served("9112-2.2", "empty line before the request", b"\r\n" + get(), up()),
    served("9112-2.2", "several empty lines", b"\r\n\r\n\r\n" + get(), up()),
    served("9112-2.3", "newer minor version", get(line=b"GET /x?model=a HTTP/1.9"), up()),
    served(
        "9112-3",
        "any method",
        get(line=b"DELETE /x?model=a HTTP/1.1"),
        up(b"Content-Length: 0", line=b"DELETE /x?model=a"),
    ),
    served(
        "9112-3.2.1",
        "empty query",
        get(line=b"GET /x?model=a? HTTP/1.1").replace(b"a?", b"a&"),
        up(line=b"GET /x?model=a&"),
    ),
    served(
        "9112-3.2.1",
        "odd but legal target",
        get(line=b"GET //x/../%00;a='!'?model=a&b=?/ HTTP/1.1"),
        up(line=b"GET //x/../%00;a='!'?model=a&b=?/"),
    ),
    served(
        "9112-3.2.2", "absolute form", get(line=b"GET http://localhost/x?model=a HTTP/1.1"), up()
    ),
    served(
        "9112-3.2.2",
        "absolute form, other host in the field",
        get(b"Host: ignored", line=b"GET http://localhost:80/x?model=a HTTP/1.1", host=False),
        up(),
    ),
    served(
        "9112-3.2.2",
        "absolute form without a path",
        get(line=b"GET HTTP://localhost?model=a HTTP/1.1").replace(b"?model", b"/health?model"),
        up(line=b"GET /health?model=a"),
    ),
    served("9112-3.2", "Host with a port", get(b"Host: localhost:8080", host=False), up()),
    served("9112-3.2", "Host is an IPv6 address", get(b"Host: [::1]:80", host=False), up()),
    served(
        "9112-3.2",
        "no Host in HTTP/1.0",
        get(line=b"GET /x?model=a HTTP/1.0", host=False),
        up(),
        closes=True,
    ),
    # -- fields
    served("9112-5", "names keep their spelling", get(b"X-OdD: 1"), up(b"X-OdD: 1")),
    served(
        "9112-5.1", "blanks around the value", get(b"A: \t b \t", b"B:c"), up(b"A: \t b \t", b"B:c")
    ),
    served("9112-5.1", "empty value", get(b"A:"), up(b"A:")),
    served(
        "9110-5.3",
        "repeated fields keep their order",
        get(b"A: 1", b"B: 2", b"A: 3"),
        up(b"A: 1", b"B: 2", b"A: 3"),
    ),
    served("9110-5.5", "obs-text", get(b"A: \xe4\xff"), up(b"A: \xe4\xff")),
    served(
        "9110-5.6.2",
        "every character of a token",
        get(b"!#$%&'*+-.^_`|~09azAZ: 1"),
        up(b"!#$%&'*+-.^_`|~09azAZ: 1"),
    ),
    # -- framing
    served("9112-6.2", "length", length(), up_post()),
    served(
        "9112-6.2", "length with leading zeros", post(b"Content-Length: 0014", body=BODY), up_post()
    ),
    served("9112-6.2", "length 0 of a GET", get(b"Content-Length: 0"), up(b"Content-Length: 0")),
    served(
        "9112-6.2",
        "body of a GET",
        get(b"Content-Length: 2") + b"hi",
        up(b"Content-Length: 2") + b"hi",
    ),
    served("9112-6.3", "neither length nor coding: no body", get(), up()),
    served("9112-6.1", "chunked", chunked(CHUNKED_BODY), up_post()),
    served(
        "9112-6.1",
        "coding names are not case-sensitive",
        post(b"transfer-encoding: ChUnKeD", body=CHUNKED_BODY),
        up_post(),
    ),
    served(
        "9112-7.1",
        "upper-case size, leading zeros",
        chunked(b"000E\r\n" + BODY + b"\r\n000\r\n\r\n"),
        up_post(),
    ),
    served(
        "9112-7.1",
        "one byte per chunk",
        chunked(b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"),
        up_post(),
    ),
    served(
        "9112-7.1.1",
        "chunk extensions",
        chunked(b'e;a=b;c="d e";f\r\n' + BODY + b"\r\n0 ; last\r\n\r\n"),
        up_post(),
    ),
    served(
        "9112-7.1.2",
        "trailers are dropped",
        chunked(b"e\r\n" + BODY + b"\r\n0\r\nX-Sum: 1\r\nHost: evil\r\nContent-Length: 3\r\n\r\n"),
        up_post(),
    ),
    served(
        "9112-7.1.2",
        "announced trailers are dropped",
        chunked(
            b"e\r\n" + BODY + b"\r\n0\r\nX: 1\r\n\r\n",
            b"Trailer: X",
            b"TE: trailers",
            b"Connection: TE",
        ),
        up_post(),
    ),
    # -- connections
    served("9112-9.3", "close", length(b"Connection: close"), up_post(), closes=True),
    served(
        "9112-9.3",
        "close among others, any case",
        length(b"Connection: x, CLOSE"),
        up_post(),
        closes=True,
    ),
    served(
        "9112-9.3",
        "close wins over keep-alive",
        length(b"Connection: keep-alive, close"),
        up_post(),
        closes=True,
    ),
    served("9112-9.3", "HTTP/1.0 closes", length(version=b"1.0"), up_post(), closes=True),
    served(
        "9112-9.3",
        "HTTP/1.0 keep-alive",
        length(b"Connection: Keep-Alive", version=b"1.0"),
        up_post(),
    ),
    served(
        "9110-7.6.1",
        "fields that Connection names",
        length(b"Connection: x-hop, X-Hop2", b"X-Hop: 1", b"x-hop2: 2", b"X: 3"),
        up_post(b"X: 3"),
    ),
    served(
        "9110-7.6.1",
        "Connection cannot name the framing",
        length(b"Connection: content-length, host"),
        up_post(),
    ),
    served(
        "9110-7.6.1",
        "hop by hop without being named",
        length(
            b"Keep-Alive: 5",
            b"Proxy-Connection: close",
            b"TE: gzip",
            b"Proxy-Authorization: Basic eA==",
        ),
        up_post(),
    ),
    served(
        "9110-7.8",
        "h2c is not spoken",
        get(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"),
        up(),
    ),
    served("9110-7.8", "Upgrade that Connection does not name", get(b"Upgrade: websocket"), up()),
    served(
        "9110-10.1.1",
        "100-continue with the body at once",
        length(b"Expect: 100-continue"),
        up_post(),
    ),
    served("9110-10.1.1", "100-continue without a body", get(b"Expect: 100-CONTINUE"), up()),
    served(
        "9110-10.1.1",
        "HTTP/1.0 cannot expect",
        length(b"Expect: 100-continue", b"Connection: keep-alive", version=b"1.0"),
        up_post(),
    ),
]

REFUSED: Final = [
    # -- lines
    *refused(
        BAD,
        "9112-2.2",
        bare_LF_everywhere=get().replace(b"\r\n", b"\n"),
        bare_LF_behind_the_request_line=get().replace(b"\r\n", b"\n", 1),
        bare_LF_behind_a_field=get(b"A: b\nC: d"),
        bare_LF_at_the_end_of_the_head=get(b"A: b\n").replace(b"\n\r\n\r\n", b"\n\n"),
        bare_CR_in_a_field=get(b"A: b\rC: d"),
        bare_CR_in_the_request_line=get(line=b"GET /x?model=a\rHTTP/1.1"),
        bare_CR_before_the_request=b"\r" + get(),
        bare_LF_before_the_request=b"\n" + get(),
        blank_before_the_first_field=get(b"A: b", host=False).replace(b"\r\nA", b"\r\n A"),
        endless_empty_lines=b"\r\n" * 40,
    ),
    # -- request line and target
    *refused(
        BAD,
        "9112-3",
        two_spaces_before_the_target=get(line=b"GET  /x?model=a HTTP/1.1"),
        two_spaces_before_the_version=get(line=b"GET /x?model=a  HTTP/1.1"),
        space_behind_the_version=get(line=b"GET /x?model=a HTTP/1.1 "),
        tab_for_a_space=get(line=b"GET\t/x?model=a\tHTTP/1.1"),
        space_before_the_method=get(line=b" GET /x?model=a HTTP/1.1"),
        space_in_the_target=get(line=b"GET /x y?model=a HTTP/1.1"),
        method_that_is_no_token=get(line=b"G@T /x?model=a HTTP/1.1"),
        no_method=get(line=b"/x?model=a HTTP/1.1"),
        lower_case_protocol=get(line=b"GET /x?model=a http/1.1"),
        other_protocol=get(line=b"GET /x?model=a RTSP/1.0"),
        HTTP_0_9=b"GET /x?model=a\r\n",
        TLS=b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(32)),
        SSH=b"SSH-2.0-OpenSSH_9.2\r\n",
    ),
    *refused(
        BAD,
        "9112-3.2",
        NUL_in_the_target=get(line=b"GET /x\x00?model=a HTTP/1.1"),
        raw_bytes_in_the_target=get(line=b"GET /\xc3\xa4?model=a HTTP/1.1"),
        fragment=get(line=b"GET /x?model=a#f HTTP/1.1"),
        no_slash=get(line=b"GET x?model=a HTTP/1.1"),
        authority_form_of_GET=get(line=b"GET localhost:80 HTTP/1.1"),
        asterisk_form_of_GET=get(line=b"GET * HTTP/1.1"),
        scheme_of_another_protocol=get(line=b"GET ftp://localhost/x?model=a HTTP/1.1"),
        absolute_form_with_user=get(line=b"GET http://u@localhost/x?model=a HTTP/1.1"),
        absolute_form_without_host=get(line=b"GET http:///x?model=a HTTP/1.1"),
        no_Host=get(host=False),
        no_Host_with_absolute_form=get(line=b"GET http://localhost/x?model=a HTTP/1.1", host=False),
        two_Hosts=get(b"Host: localhost"),
        two_different_Hosts=get(b"Host: evil"),
        two_Hosts_in_HTTP_1_0=get(b"Host: localhost", line=b"GET /x?model=a HTTP/1.0"),
        list_of_Hosts=get(b"Host: localhost, evil", host=False),
        Host_with_path=get(b"Host: localhost/x", host=False),
        Host_with_user=get(b"Host: u@localhost", host=False),
        Host_with_odd_port=get(b"Host: localhost:x", host=False),
        Host_is_folded=get(b"Host:\r\n localhost", host=False),
        space_behind_the_name_Host=get(b"Host : localhost", host=False),
    ),
    *refused(UNABLE, "9112-3.2.3", CONNECT=get(line=b"CONNECT localhost:80 HTTP/1.1")),
    *refused(
        VERSION,
        "9112-2.3",
        HTTP_2_preface=b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        HTTP_2=get(line=b"GET /x?model=a HTTP/2.0"),
        HTTP_0_9_with_a_version=get(line=b"GET /x?model=a HTTP/0.9"),
        two_digits=get(line=b"GET /x?model=a HTTP/1.10"),
        no_minor=get(line=b"GET /x?model=a HTTP/1"),
    ),
    # -- fields
    *refused(
        BAD,
        "9112-5.1",
        space_before_the_colon=get(b"A : b"),
        tab_before_the_colon=get(b"A\t: b"),
        no_colon=get(b"A"),
        no_name=get(b": b"),
        space_in_the_name=get(b"A B: c"),
        bytes_in_the_name=get(b"\xc4: b"),
        NUL_in_the_name=get(b"A\x00: b"),
        NUL_in_the_value=get(b"A: \x00"),
        control_byte_in_the_value=get(b"A: \x1b[0m"),
        DEL_in_the_value=get(b"A: \x7f"),
    ),
    *refused(
        BAD,
        "9112-5.2",
        obs_fold=get(b"A: b\r\n c"),
        obs_fold_with_tab=get(b"A: b\r\n\tc"),
        obs_fold_of_a_coding=post(b"Transfer-Encoding:\r\n chunked", body=CHUNKED_BODY),
        obs_fold_of_a_length=post(b"Content-Length:\r\n 14", body=BODY),
    ),
    *refused(
        HEAD_TOO_LARGE,
        "9110-5.4",
        head_of_70_KB=get(b"A: " + b"x" * 70_000),
        endless_head=get(b"A: " + b"x" * 200_000),
        target_of_70_KB=get(line=b"GET /" + b"x" * 70_000 + b"?model=a HTTP/1.1"),
        thousand_fields=get(*[b"A: b"] * 1000),
    ),
    # -- framing
    *refused(
        BAD,
        "9112-6.1",
        length_and_chunked=chunked(CHUNKED_BODY, b"Content-Length: 14"),
        chunked_and_length=post(
            b"Content-Length: 14", b"Transfer-Encoding: chunked", body=CHUNKED_BODY
        ),
        length_0_and_chunked=post(
            b"Content-Length: 0", b"Transfer-Encoding: chunked", body=CHUNKED_BODY
        ),
        length_and_identity=length(b"Transfer-Encoding: identity"),
        length_and_an_unknown_coding=length(b"Transfer-Encoding: x"),
        space_behind_the_name=post(b"Transfer-Encoding : chunked", body=CHUNKED_BODY),
        blank_before_the_name=post(b"A: b\r\n Transfer-Encoding: chunked", body=CHUNKED_BODY),
        vertical_tab_before_the_coding=post(b"Transfer-Encoding: \x0bchunked", body=CHUNKED_BODY),
        NUL_behind_the_coding=post(b"Transfer-Encoding: chunked\x00", body=CHUNKED_BODY),
        bare_CR_behind_the_coding=post(b"Transfer-Encoding: chunked\rX: y", body=CHUNKED_BODY),
        hidden_behind_a_bare_LF=length(b"X: y\nTransfer-Encoding: chunked"),
        chunked_in_HTTP_1_0=post(
            b"Transfer-Encoding: chunked",
            b"Connection: keep-alive",
            body=CHUNKED_BODY,
            version=b"1.0",
        ),
        underscore_is_another_name_but_so_is_the_length=post(
            b"Transfer_Encoding: chunked", b"Content-Length: x", body=CHUNKED_BODY
        ),
    ),
    *refused(
        UNABLE,
        "9112-6.1",
        identity=post(b"Transfer-Encoding: identity", body=BODY),
        gzip=post(b"Transfer-Encoding: gzip", body=BODY),
        gzip_chunked=post(b"Transfer-Encoding: gzip, chunked", body=CHUNKED_BODY),
        chunked_not_last=post(b"Transfer-Encoding: chunked, gzip", body=CHUNKED_BODY),
        chunked_twice=post(b"Transfer-Encoding: chunked, chunked", body=CHUNKED_BODY),
        chunked_in_two_fields=post(*[b"Transfer-Encoding: chunked"] * 2, body=CHUNKED_BODY),
        identity_in_a_second_field=chunked(CHUNKED_BODY, b"Transfer-Encoding: identity"),
        empty_member=post(b"Transfer-Encoding: chunked,", body=CHUNKED_BODY),
        empty_coding=post(b"Transfer-Encoding:", body=CHUNKED_BODY),
        quoted=post(b'Transfer-Encoding: "chunked"', body=CHUNKED_BODY),
        with_a_parameter=post(b"Transfer-Encoding: chunked;q=1", body=CHUNKED_BODY),
        prefixed=post(b"Transfer-Encoding: xchunked", body=CHUNKED_BODY),
        with_a_blank=post(b"Transfer-Encoding: chun ked", body=CHUNKED_BODY),
        obs_text_behind_it=post(b"Transfer-Encoding: chunked\xa0", body=CHUNKED_BODY),
    ),
    *refused(
        BAD,
        "9112-6.2",
        plus_sign=post(b"Content-Length: +14", body=BODY),
        minus_sign=post(b"Content-Length: -14", body=BODY),
        hexadecimal=post(b"Content-Length: 0xe", body=BODY),
        underscore=post(b"Content-Length: 1_4", body=BODY),
        fraction=post(b"Content-Length: 14.0", body=BODY),
        exponent=post(b"Content-Length: 1e1", body=BODY),
        blank_inside=post(b"Content-Length: 1 4", body=BODY),
        empty=post(b"Content-Length:", body=BODY),
        letters=post(b"Content-Length: xiv", body=BODY),
        superscript_digit=post(b"Content-Length: \xb2", body=BODY),
        quoted=post(b'Content-Length: "14"', body=BODY),
        over_64_bits=post(b"Content-Length: 18446744073709551630", body=BODY),
        list_of_the_same=post(b"Content-Length: 14, 14", body=BODY),
        list_of_different=post(b"Content-Length: 14, 0", body=BODY),
        twice_the_same=length(b"Content-Length: 14"),
        twice_different=length(b"Content-Length: 0"),
        space_behind_the_name=post(b"Content-Length : 14", body=BODY),
    ),
    # -- the chunked coding
    *refused(
        BAD,
        "9112-7.1",
        no_size=chunked(b"\r\n" + BODY),
        extension_without_size=chunked(b";a=b\r\n" + BODY),
        size_that_is_no_number=chunked(b"g\r\n"),
        size_with_0x=chunked(b"0xe\r\n" + BODY + b"\r\n0\r\n\r\n"),
        size_with_plus=chunked(b"+e\r\n" + BODY + b"\r\n0\r\n\r\n"),
        size_with_minus=chunked(b"-e\r\n" + BODY + b"\r\n0\r\n\r\n"),
        size_with_underscore=chunked(b"0_e\r\n" + BODY + b"\r\n0\r\n\r\n"),
        size_over_64_bits=chunked(b"1000000000000000e\r\n" + BODY + b"\r\n0\r\n\r\n"),
        blank_before_the_size=chunked(b" e\r\n" + BODY + b"\r\n0\r\n\r\n"),
        blank_behind_the_size=chunked(b"e \r\n" + BODY + b"\r\n0\r\n\r\n"),
        bare_LF_behind_the_size=chunked(b"e\n" + BODY + b"\r\n0\r\n\r\n"),
        bare_CR_behind_the_size=chunked(b"e\r" + BODY + b"\r\n0\r\n\r\n"),
        two_CRs_behind_the_size=chunked(b"e\r\r\n" + BODY + b"\r\n0\r\n\r\n"),
        no_CRLF_behind_the_chunk=chunked(b"e\r\n" + BODY + b"0\r\n\r\n"),
        bare_LF_behind_the_chunk=chunked(b"e\r\n" + BODY + b"\n0\r\n\r\n"),
        bare_CR_behind_the_chunk=chunked(b"e\r\n" + BODY + b"\r0\r\n\r\n"),
        size_too_small=chunked(b"d\r\n" + BODY + b"\r\n0\r\n\r\n"),
        size_too_large=chunked(b"f\r\n" + BODY + b"\r\n0\r\n\r\n"),
    ),
    *refused(
        BAD,
        "9112-7.1.1",
        bare_LF_in_an_extension=chunked(b"e;a\nb\r\n" + BODY + b"\r\n0\r\n\r\n"),
        bare_CR_in_an_extension=chunked(b"e;a\rb\r\n" + BODY + b"\r\n0\r\n\r\n"),
        NUL_in_an_extension=chunked(b"e;a\x00\r\n" + BODY + b"\r\n0\r\n\r\n"),
        endless_extension=chunked(b"e;" + b"x" * 10_000),
        extension_ended_by_LF=chunked(b"e;a\n" + BODY + b"\r\n0\r\n\r\n"),
    ),
    *refused(
        BAD,
        "9112-7.1.2",
        space_before_the_colon=chunked(b"0\r\nA : b\r\n\r\n"),
        obs_fold=chunked(b"0\r\nA: b\r\n c\r\n\r\n"),
        bare_LF=chunked(b"0\r\nA: b\n\r\n"),
        bare_LF_at_the_end=chunked(b"0\r\n\n"),
        no_colon=chunked(b"0\r\nGET /x?model=a HTTP/1.1\r\n\r\n"),
        endless=chunked(b"0\r\n" + b"A: b\r\n" * 5_000),
    ),
    # -- expectations
    *refused(
        EXPECTATION,
        "9110-10.1.1",
        unknown_expectation=length(b"Expect: 200-ok"),
        two_expectations=length(b"Expect: 100-continue", b"Expect: 100-continue"),
    ),
]

OK: Final = b"HTTP/1.1 200 OK\r\n"


def answered(
    rfc: str,
    what: str,
    data: bytes,
    client: bytes,
    *,
    method: bytes = b"POST",
    version: bytes = b"1.1",
    ends: bool = False,
    kept: bool = True,
    closes: bool = False,
) -> Response:
    """Return the row of an answer that reaches the client."""
    return Response(rfc, what, data, client, method, version, ends, kept, closes)


def broken(rfc: str, **rows: bytes) -> list[Response]:
    """Return a row for each of *rows*, all a 502."""
    return [Response(rfc, what.replace("_", " "), data) for what, data in rows.items()]


LENGTH_2: Final = b"Content-Length: 2\r\n"
CODED: Final = b"Transfer-Encoding: chunked\r\n"
CLOSE: Final = b"Connection: close\r\n"
PLAIN: Final = OK + LENGTH_2 + b"\r\nok"

ANSWERED: Final = [
    # -- status line and fields
    answered(
        "9112-4",
        "no reason",
        b"HTTP/1.1 200 \r\n" + LENGTH_2 + b"\r\nok",
        b"HTTP/1.1 200 \r\n" + LENGTH_2 + b"\r\nok",
    ),
    answered(
        "9112-4",
        "not even the space",
        b"HTTP/1.1 200\r\n" + LENGTH_2 + b"\r\nok",
        b"HTTP/1.1 200 \r\n" + LENGTH_2 + b"\r\nok",
    ),
    answered(
        "9110-15",
        "unknown status",
        b"HTTP/1.1 799 Odd\r\n" + LENGTH_2 + b"\r\nok",
        b"HTTP/1.1 799 Odd\r\n" + LENGTH_2 + b"\r\nok",
    ),
    answered("9112-2.3", "newer minor version", PLAIN.replace(b"1.1", b"1.9"), PLAIN),
    answered(
        "9112-5.1",
        "blanks before a colon are removed",
        OK + b"A \t: b\r\nContent-Length : 2\r\n\r\nok",
        OK + b"A: b\r\n" + LENGTH_2 + b"\r\nok",
    ),
    answered(
        "9110-5.3",
        "repeated fields stay apart",
        OK + b"Set-Cookie: a\r\nSet-Cookie: b\r\n" + LENGTH_2 + b"\r\nok",
        OK + b"Set-Cookie: a\r\nSet-Cookie: b\r\n" + LENGTH_2 + b"\r\nok",
    ),
    answered(
        "9110-7.6.1",
        "hop by hop",
        OK
        + b"Connection: X-Hop, keep-alive\r\nKeep-Alive: 5\r\nX-Hop: 1\r\nUpgrade: h2c\r\n"
        + LENGTH_2
        + b"\r\nok",
        PLAIN,
    ),
    # -- where the body ends
    answered("9112-6.3", "length", PLAIN, PLAIN),
    answered(
        "9112-6.3", "length 0", OK + b"Content-Length: 0\r\n\r\n", OK + b"Content-Length: 0\r\n\r\n"
    ),
    answered("9112-6.3", "the same length twice", OK + LENGTH_2 * 2 + b"\r\nok", PLAIN),
    answered(
        "9112-6.3",
        "chunked",
        OK + CODED + b"\r\n2\r\nok\r\n0\r\n\r\n",
        OK + CODED + b"\r\n2\r\nok\r\n0\r\n\r\n",
    ),
    answered(
        "9112-7.1.1",
        "chunk extensions",
        OK + CODED + b"\r\n2;a=b\r\nok\r\n0;z\r\n\r\n",
        OK + CODED + b"\r\n2;a=b\r\nok\r\n0;z\r\n\r\n",
    ),
    answered(
        "9112-7.1.2",
        "trailers",
        OK + CODED + b"\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n",
        OK + CODED + b"\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n",
    ),
    answered(
        "9112-6.3",
        "neither: until it closes",
        OK + b"\r\nok",
        OK + CLOSE + b"\r\nok",
        ends=True,
        kept=False,
        closes=True,
    ),
    answered(
        "9112-6.3",
        "until it closes, HTTP/1.0",
        b"HTTP/1.0 200 OK\r\n\r\nok",
        OK + CLOSE + b"\r\nok",
        ends=True,
        kept=False,
        closes=True,
    ),
    answered(
        "9112-6.3",
        "HEAD with a length",
        OK + LENGTH_2 + b"\r\n",
        OK + LENGTH_2 + b"\r\n",
        method=b"HEAD",
    ),
    answered("9112-6.3", "HEAD with a coding", OK + CODED + b"\r\n", OK + b"\r\n", method=b"HEAD"),
    answered("9112-6.3", "HEAD with neither", OK + b"\r\n", OK + b"\r\n", method=b"HEAD"),
    answered(
        "9112-6.3", "204", b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"
    ),
    answered(
        "9110-8.6",
        "204 with a length",
        b"HTTP/1.1 204 No Content\r\n" + LENGTH_2 + b"\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
    ),
    answered(
        "9112-6.3",
        "304 with a length",
        b"HTTP/1.1 304 Not Modified\r\n" + LENGTH_2 + b"\r\n",
        b"HTTP/1.1 304 Not Modified\r\n" + LENGTH_2 + b"\r\n",
    ),
    # -- connections
    answered(
        "9112-9.3",
        "the backend closes, the client's connection lives on",
        OK + CLOSE + LENGTH_2 + b"\r\nok",
        PLAIN,
        kept=False,
    ),
    answered("9112-9.3", "HTTP/1.0 backend", PLAIN.replace(b"1.1", b"1.0"), PLAIN, kept=False),
    answered(
        "9112-9.3",
        "HTTP/1.0 backend that keeps alive",
        b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n" + LENGTH_2 + b"\r\nok",
        PLAIN,
    ),
    answered(
        "9112-9.3",
        "HTTP/1.0 client",
        PLAIN,
        OK + LENGTH_2 + CLOSE + b"\r\nok",
        version=b"1.0",
        closes=True,
    ),
    answered(
        "9112-7.1",
        "HTTP/1.0 client, chunks decoded",
        OK + CODED + b"\r\n1\r\no\r\n1;x\r\nk\r\n0\r\nA: b\r\n\r\n",
        OK + CLOSE + b"\r\nok",
        version=b"1.0",
        closes=True,
    ),
    # -- more than one answer
    answered("9112-6.3", "surplus bytes behind a length", PLAIN + b"more", PLAIN, kept=False),
    answered("9112-9.2", "a second answer", PLAIN * 2, PLAIN, kept=False),
    answered(
        "9112-6.3",
        "surplus behind the last chunk",
        OK + CODED + b"\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200",
        OK + CODED + b"\r\n2\r\nok\r\n0\r\n\r\n",
        kept=False,
    ),
    answered(
        "9112-6.3", "a body of HEAD", PLAIN, OK + LENGTH_2 + b"\r\n", method=b"HEAD", kept=False
    ),
    answered(
        "9112-6.3",
        "a body of 204",
        b"HTTP/1.1 204 No Content\r\n\r\nok",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        kept=False,
    ),
    answered(
        "9112-6.3",
        "a body of 304",
        b"HTTP/1.1 304 Not Modified\r\n\r\nok",
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
        kept=False,
    ),
    # -- interim answers
    answered(
        "9110-15.2",
        "100 that the router has dealt with",
        b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN,
        PLAIN,
    ),
    answered(
        "9110-15.2",
        "102 and 103 are passed on",
        b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + PLAIN,
        b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + PLAIN,
    ),
    answered(
        "9110-15.2",
        "103 is not for HTTP/1.0",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + PLAIN,
        OK + LENGTH_2 + CLOSE + b"\r\nok",
        version=b"1.0",
        closes=True,
    ),
    answered(
        "9110-15.2",
        "103 has no body, whatever it says",
        b"HTTP/1.1 103 Early Hints\r\n" + LENGTH_2 + b"\r\n" + PLAIN,
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + PLAIN,
    ),
]

BROKEN: Final = [
    *broken(
        "9112-4",
        HTTP_2=PLAIN.replace(b"HTTP/1.1", b"HTTP/2.0"),
        other_protocol=b"SSH-2.0-OpenSSH_9.2\r\n",
        lower_case=PLAIN.replace(b"HTTP", b"http"),
        ICY=PLAIN.replace(b"HTTP/1.1", b"ICY"),
        HTTP_0_9=b"<html>\r\n</html>\r\n",
        two_digits=PLAIN.replace(b"200", b"20"),
        four_digits=PLAIN.replace(b"200", b"2000"),
        status_below_100=PLAIN.replace(b"200", b"099"),
        two_spaces=PLAIN.replace(b" 200", b"  200"),
        control_byte_in_the_reason=PLAIN.replace(b"OK", b"O\x00K"),
        empty_line_before=b"\r\n" + PLAIN,
    ),
    *broken(
        "9112-2.2",
        bare_LF_everywhere=PLAIN.replace(b"\r\n", b"\n"),
        bare_LF_behind_a_field=OK + b"A: b\n" + LENGTH_2 + b"\r\nok",
        bare_CR_in_a_field=OK + b"A: b\rC: d\r\n" + LENGTH_2 + b"\r\nok",
    ),
    *broken(
        "9112-5",
        no_colon=OK + b"A\r\n" + LENGTH_2 + b"\r\nok",
        no_name=OK + b": b\r\n" + LENGTH_2 + b"\r\nok",
        NUL_in_a_value=OK + b"A: \x00\r\n" + LENGTH_2 + b"\r\nok",
        head_of_70_KB=OK + b"A: " + b"x" * 70_000 + b"\r\n\r\n",
    ),
    *broken("9112-5.2", obs_fold=OK + b"A: b\r\n c\r\n" + LENGTH_2 + b"\r\nok"),
    *broken(
        "9112-6.3",
        length_and_chunked=OK + LENGTH_2 + CODED + b"\r\n2\r\nok\r\n0\r\n\r\n",
        two_lengths=OK + LENGTH_2 + b"Content-Length: 3\r\n\r\nok",
        list_of_lengths=OK + b"Content-Length: 2, 3\r\n\r\nok",
        negative_length=OK + b"Content-Length: -2\r\n\r\nok",
        length_that_is_no_number=OK + b"Content-Length: two\r\n\r\nok",
        gzip=OK + b"transfer-encoding: gzip, chunked\r\n\r\n",
        chunked_twice=OK + CODED * 2 + b"\r\n2\r\nok\r\n0\r\n\r\n",
    ),
    *broken("9112-6.1", chunked_by_HTTP_1_0=b"HTTP/1.0 200 OK\r\n" + CODED + b"\r\n0\r\n\r\n"),
]


@attrs.frozen
class Cut:
    """A body that breaks off, or breaks the coding, after the client got its beginning.

    Attributes:
        rfc: The section.
        what: What is wrong.
        framing: The field that announces its end.
        body: What comes of it before the backend closes.
        broken: The coding is broken, which shows before the end.
    """

    rfc: str
    what: str
    framing: bytes
    body: bytes
    broken: bool = True

    def __str__(self) -> str:
        return f"{self.rfc} {self.what}"

    @property
    def data(self) -> bytes:
        """Return all that the backend sends."""
        return OK + self.framing + b"\r\n" + self.body


CUT: Final = [
    Cut("9112-8", "length too large", LENGTH_2, b"o", broken=False),
    Cut("9112-8", "no last chunk", CODED, b"2\r\nok\r\n", broken=False),
    Cut("9112-8", "in the middle of a chunk", CODED, b"2\r\no", broken=False),
    Cut("9112-8", "in the trailers", CODED, b"2\r\nok\r\n0\r\nA: b\r\n", broken=False),
    Cut("9112-7.1", "size that is no number", CODED, b"2\r\nok\r\nx\r\n"),
    Cut("9112-7.1", "size with 0x", CODED, b"2\r\nok\r\n0x2\r\nok\r\n"),
    Cut("9112-7.1", "size with an underscore", CODED, b"2\r\nok\r\n1_0\r\nok\r\n"),
    Cut("9112-7.1", "size over 64 bits", CODED, b"2\r\nok\r\n10000000000000002\r\nok\r\n"),
    Cut("9112-7.1", "no CRLF behind a chunk", CODED, b"2\r\nok2\r\nok\r\n"),
    Cut("9112-7.1", "bare LF behind a size", CODED, b"2\r\nok\r\n2\nok\r\n"),
    Cut("9112-7.1.1", "bare CR in an extension", CODED, b"2\r\nok\r\n2;\rok\r\nok\r\n"),
    Cut(
        "9112-7.1.2", "trailer that is no field", CODED, b"2\r\nok\r\n0\r\nHTTP/1.1 200 OK\r\n\r\n"
    ),
]
