"""The wire format: what goes in comes out, and nothing malformed gets through."""

import base64
import json

import httpx
import numpy as np
import pytest

from reward_plugin.errors import ProtocolError, TooLarge
from reward_plugin.images import to_npy, to_png
from reward_plugin.multipart import Part, join, split
from reward_plugin.types import ScoreTable
from reward_plugin.wire import (
    MAX_HEAD,
    MAX_VALUES,
    ScoreRequest,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from tests.reward.helpers import plain

IMAGES = (to_png(plain(1, 2)), to_npy(plain(3, 4)), b"\r\n--boundary\r\n\x00\xff", b"")
JSON = "application/json"


def as_json(**content: object) -> bytes:
    return json.dumps({"version": 1, **content}).encode()


def test_a_request_survives_the_trip():
    request = ScoreRequest(IMAGES, ("ein Apfel", "苹果", "", "x\r\n--y"), ("clip",), "run 7")
    assert decode_request(*encode_request(request)) == request
    assert decode_request(*encode_request(ScoreRequest(IMAGES))) == ScoreRequest(IMAGES)


def test_json_with_base64_is_the_same_request():
    images = [base64.b64encode(image).decode() for image in IMAGES]
    body = as_json(images=images, prompts=["a"] * 4, id="x")
    assert decode_request(JSON, body) == ScoreRequest(IMAGES, ("a",) * 4, None, "x")


def test_a_multipart_body_of_another_client_is_read():
    files = [("images", ("a.png", image, "image/png")) for image in IMAGES]
    other = httpx.Request("POST", "http://x", data={"request": as_json().decode()}, files=files)
    assert decode_request(other.headers["content-type"], other.read()) == ScoreRequest(IMAGES)


def test_a_response_survives_the_trip_to_the_last_bit():
    values = np.random.default_rng(0).uniform(0, 100, (5, 2)).astype(np.float32)
    table = ScoreTable.computed(("a", "b"), values).scatter([None, "truncated", None, None, None, None])
    text = json.dumps(encode_response(table, "run 7"), allow_nan=False)
    back = decode_response(json.loads(text))
    np.testing.assert_array_equal(back.values, table.values)
    assert (back.dimensions, back.errors) == (table.dimensions, table.errors)


def test_an_empty_response_survives_the_trip():
    assert decode_response(encode_response(ScoreTable.computed(("a",), []))).values.shape == (0, 1)


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        ("text/plain", b"", "text/plain; send multipart"),
        (JSON, b"{", "not valid JSON"),
        (JSON, b"[" * 100_000, "not valid JSON"),
        (JSON, b"[]", "must be an object"),
        (JSON, as_json(), "images is missing"),
        (JSON, as_json(images="abcd"), "images must be a list"),
        (JSON, as_json(images=["!"]), r"images\[0\] is not base64"),
        (JSON, as_json(images=[], prompts=["a"]), "1 prompts for 0 images"),
        (JSON, as_json(images=[], prompts=[1]), "prompts must be a list of texts"),
        (JSON, json.dumps({"version": 2, "images": []}).encode(), "version 2"),
        ("multipart/form-data", b"", "boundary|ends before"),
        ("multipart/form-data; boundary=x", b"", "ends before"),
        ("multipart/form-data; boundary=x", b"junk", "damaged multipart"),
        ("multipart/form-data; boundary=" + "x" * 1000, b"", "damaged multipart"),
        (*join([Part("images", "image/png", b"abc")]), "0 parts named request"),
        (*join([Part("request", JSON, b"{}")] * 2), "2 parts named request"),
        (*join([Part("request", JSON, b"{}"), Part("image", "", b"")]), "a part named 'image'"),
        (*join([Part("request", JSON, b'"' + b" " * MAX_HEAD + b'"')]), "the part request has"),
        (JSON, as_json(images=[], url="http://a"), "unknown key 'url'"),
        (JSON, b"[" + b"[]," * MAX_VALUES + b"[]]", "commas and brackets"),
    ],
    ids=lambda value: "" if "boundary" in str(value) else None,  # it is another one each time
)
def test_a_malformed_request_is_refused_with_the_rule(kind: str, body: bytes, reason: str):
    with pytest.raises((ProtocolError, TooLarge), match=reason):
        decode_request(kind, body)


def test_a_cut_body_is_refused_wherever_it_is_cut():
    kind, body = encode_request(ScoreRequest((b"abc", b"defg"), ("a", "b")))
    for length in range(len(body) - 4):  # the last two bytes, and "--", may be missing
        with pytest.raises(ProtocolError):
            split(kind, body[:length])


@pytest.mark.parametrize(
    "message",
    [
        None,
        [],
        {},
        {"version": 1},
        {"version": 3},
        encode_response(ScoreTable.computed(("a",), [[1]])) | {"errors": []},
    ],
)
def test_another_response_is_refused(message: object):
    with pytest.raises(ProtocolError):
        decode_response(message)
