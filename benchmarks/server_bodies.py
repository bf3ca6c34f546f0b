"""Requests that a reward server must survive: damaged, lying, hostile, and a few that look odd but are right.

Each function makes one, another one each time. A case says which statuses may answer it and, where pictures
of it are good, what their rows must be.
"""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from benchmarks.server_cases import (
    FORM,
    JSON,
    MISSING,
    NOT_HTTP,
    REFUSED,
    Case,
    Draw,
    post,
    request_head,
    to_json,
)
from benchmarks.server_pictures import PICTURES
from benchmarks.server_stamp import prompt_of
from reward_plugin.wire import ScoreRequest, encode_request

# Bodies that are cut or mislabelled


def cut_short(draw: Draw) -> Case:
    kind, body = draw.good()
    return post(kind, body[: draw.random.randrange(len(body) - 4)], REFUSED)


def gone_before_the_end(draw: Draw) -> Case:
    kind, body = draw.good()
    sent = body[: draw.random.randrange(len(body))]
    return post(kind, sent, REFUSED, length=len(body), hang_up=True)


def wrong_boundary(draw: Draw) -> Case:
    boundary = draw.random.choice(["; boundary=another", "; boundary=", "", "; boundary=" + "x" * 3000])
    return post(FORM + boundary, draw.good()[1], REFUSED)


def bytes_changed(draw: Draw) -> Case:
    kind, body = draw.good()
    changed = bytearray(body)
    for _ in range(draw.random.randint(1, 40)):
        changed[draw.random.randrange(len(changed))] = draw.random.randrange(256)
    return post(kind, bytes(changed), REFUSED | {"200", "404"})


def wrong_content_type(draw: Draw) -> Case:
    kinds = [
        "",
        "text/plain",
        "image/png",
        "application/x-www-form-urlencoded",
        "application/xml",
        "\x00",
    ]
    return post(draw.random.choice(kinds), draw.good()[1], REFUSED)


def compressed(draw: Draw) -> Case:
    kind, body = draw.good()
    return post(kind, zlib.compress(body), REFUSED, head="Content-Encoding: gzip\r\n")


def pickled(draw: Draw) -> Case:
    kind = draw.random.choice(["application/octet-stream", "application/python-pickle", JSON])
    path = draw.random.choice(["/v1/score", "/compute", "/"])
    return post(kind, pickle.dumps(draw.trapped()), REFUSED | {"404", "405"}, path=path)


# Lengths and numbers that lie


def huge_length(draw: Draw) -> Case:
    length = draw.random.choice([10**12, 2**31, 2**63, 10**40])
    return post(*draw.good(), REFUSED | NOT_HTTP, length=length)


def length_of_another_kind(draw: Draw) -> Case:
    kind, body = draw.good()
    length = draw.random.choice(["-5", "many", "0x10", ""])
    return post(kind, body, NOT_HTTP | REFUSED, length=length)


def chunks_that_lie(draw: Draw) -> Case:
    chunk = draw.random.choice(
        [b"zz\r\nabc\r\n", b"-1\r\n\r\n", b"ffffffffffffffffff\r\nabc", b"5\r\nabcdefgh\r\n0\r\n\r\n"]
    )
    data = request_head("/v1/score", JSON, "Transfer-Encoding: chunked\r\n") + chunk
    return Case(data, NOT_HTTP | REFUSED)


def length_and_chunks(draw: Draw) -> Case:
    more = f"Transfer-Encoding: chunked\r\nContent-Length: {draw.random.randrange(50)}\r\n"
    data = request_head("/v1/score", JSON, more) + b"2\r\n{}\r\n0\r\n\r\n"
    return Case(data, NOT_HTTP | REFUSED)


def not_http(draw: Draw) -> Case:
    garbage = draw.random.randbytes(draw.random.randint(1, 2000)) + b"\r\n\r\n"
    return Case(garbage, NOT_HTTP)


def long_header(draw: Draw) -> Case:
    kind, body = draw.good()
    more = f"X-Long: {'x' * draw.random.randint(70_000, 200_000)}\r\n"
    return post(kind, body, NOT_HTTP | {"200"}, head=more)


# JSON that is not what it should be


def not_json(draw: Draw) -> Case:
    texts = [
        b"",
        b"{",
        b'{"images": [',
        b"\xff\xfe",
        b"[]",
        b"7",
        b"null",
        b'"text"',
        b"{'images': []}",
        b"NaN",
    ]
    return post(JSON, draw.random.choice([*texts, draw.random.randbytes(50)]), REFUSED)


def deep_json(draw: Draw) -> Case:
    depth = draw.random.randint(2_000, 200_000)
    opening, closing = draw.random.choice([(b"[", b"]"), (b'{"a":', b"}")])
    value = opening * depth + b"1" + closing * depth
    return post(JSON, b'{"images": [], "prompts": ' + value + b"}", REFUSED)


def wrong_kinds(draw: Draw) -> Case:
    key = draw.random.choice(["images", "prompts", "scorers", "version"])
    value = draw.random.choice([5, "text", {"a": 1}, [1, 2], [None], [[]], True, 1.5])
    body = {"images": [draw.base64()], "prompts": ["one"]} | {key: value}
    allowed = REFUSED | ({"200"} if (key, value) == ("version", True) else frozenset())
    return post(JSON, to_json(body), allowed)


def huge_numbers(draw: Draw) -> Case:
    digits = draw.random.choice(["9" * 5000, "-" + "9" * 5000, "1e999999", "-0.0e-400"])
    return post(JSON, b'{"images": [], "version": ' + digits.encode() + b"}", REFUSED)


def not_base64(draw: Draw) -> Case:
    text = draw.random.choice(["!!!", "AAA", "A" * 1001, "é", "data:image/png;base64," + draw.base64()])
    return post(JSON, to_json({"images": [draw.base64(), text]}), REFUSED)


def an_address_instead_of_a_picture(draw: Draw) -> Case:
    text = draw.random.choice(["http://127.0.0.1:1/a.png", "file:///etc/passwd", "/etc/passwd", "../a.png"])
    return post(JSON, to_json({"images": [text]}), REFUSED | {"200"}, rows=(MISSING,))


def wrong_counts(draw: Draw) -> Case:
    prompts = ["a"] * draw.random.choice([0, 1, 3, 1000])
    return post(JSON, to_json({"images": [draw.base64()] * 2, "prompts": prompts}), REFUSED)


def lone_surrogates(draw: Draw) -> Case:
    body: dict[str, Any] = {"images": [draw.base64()], "prompts": ["fine"], "id": "fine"}
    body[draw.random.choice(["prompts", "id", "scorers"])] = draw.random.choice(["\ud800", ["\udfff"]])
    return post(JSON, json.dumps(body).encode(), REFUSED | {"200", "404"})


def unknown_scorer(draw: Draw) -> Case:
    scorers = draw.random.choice(
        [["none"], ["stamp", "none"], ["stamp", "stamp"], [], ["\n" * 999], ["../x"]]
    )
    return post(JSON, to_json({"images": [draw.base64()], "scorers": scorers}), REFUSED | {"404"})


def damaged_in_flow_factorys_form(draw: Draw) -> Case:
    good = draw.base64()
    bodies: list[Any] = [
        {"prompt": ["a"], "image": ["not base64"]},
        {"prompt": ["a", "b"], "image": [good]},
        {"prompt": ["\ud800"], "image": [good]},
        {"prompt": [5], "image": [good]},
        {"prompt": ["a"], "image": good},
        {"prompt": ["a"], "video": [[good]]},
        [good],
    ]
    return post(JSON, to_json(draw.random.choice(bodies)), REFUSED, path="/compute")


# Forms that are not what they should be


def parts_missing_or_twice(draw: Draw) -> Case:
    part = b'--b\r\nContent-Disposition: form-data; name="request"\r\n\r\n{}\r\n'
    nameless = b"--b\r\nContent-Disposition: form-data\r\n\r\n{}\r\n"
    body = draw.random.choice([part * 2, nameless, b"--b\r\n\r\n{}\r\n", part * 20_000]) + b"--b--\r\n"
    return post(FORM + "; boundary=b", body, REFUSED)


def damaged_part_headers(draw: Draw) -> Case:
    head = draw.random.choice([b"no colon", b": empty", b"A" * 50_000 + b": x", b"X: \x00\xff", b"X:" * 9000])
    return post(FORM + "; boundary=b", b"--b\r\n" + head + b"\r\n\r\n{}\r\n--b--\r\n", REFUSED)


def too_many(draw: Draw) -> Case:
    kind, body = encode_request(ScoreRequest((draw.picture(0),) * 1025))
    return post(kind, body, frozenset({"413"}))


# Odd but right


def right_as_json(draw: Draw) -> Case:
    serials = [draw.random.randrange(1 << 24) for _ in range(draw.random.randint(0, 3))]
    images = [base64.b64encode(draw.picture(serial)).decode() for serial in serials]
    body = {"images": images, "prompts": [prompt_of(serial) for serial in serials]}
    return post(JSON + "; charset=utf-8", to_json(body), frozenset({"200"}), rows=tuple(serials))


def other_methods_and_paths(draw: Draw) -> Case:
    method = draw.random.choice(["GET", "PUT", "DELETE", "PATCH", "HEAD", "TRACE", "BREW"])
    path = draw.random.choice(
        ["/v1/score", "/v1/score/", "/../../etc/passwd", "/%2e%2e/", "/v2/score", "/" * 5000]
    )
    data = f"{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
    return Case(data, frozenset({"307", "400", "404", "405", "414", "501", "closed"}))


KINDS: dict[str, Callable[[Draw], Case]] = {
    "cut short": cut_short,
    "gone before the end": gone_before_the_end,
    "wrong boundary": wrong_boundary,
    "bytes changed": bytes_changed,
    "wrong content type": wrong_content_type,
    "compressed": compressed,
    "pickled": pickled,
    "huge length": huge_length,
    "length of another kind": length_of_another_kind,
    "chunks that lie": chunks_that_lie,
    "length and chunks": length_and_chunks,
    "not http": not_http,
    "long header": long_header,
    "not json": not_json,
    "deep json": deep_json,
    "wrong kinds": wrong_kinds,
    "huge numbers": huge_numbers,
    "not base64": not_base64,
    "an address instead of a picture": an_address_instead_of_a_picture,
    "wrong counts": wrong_counts,
    "lone surrogates": lone_surrogates,
    "unknown scorer": unknown_scorer,
    "damaged in Flow-Factory's form": damaged_in_flow_factorys_form,
    "parts missing or twice": parts_missing_or_twice,
    "damaged part headers": damaged_part_headers,
    "too many": too_many,
    "right as json": right_as_json,
    "other methods and paths": other_methods_and_paths,
    **PICTURES,
}


def draw_case(draw: Draw, kind: str | None = None) -> Case:
    """A case of this kind, or of a kind drawn at random."""
    kind = kind or draw.random.choice(list(KINDS))
    return replace(KINDS[kind](draw), name=kind)
