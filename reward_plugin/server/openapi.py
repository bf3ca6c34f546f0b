"""What /openapi.json and /docs say beyond what FastAPI finds out: bodies, answers, and examples that run."""

from __future__ import annotations

import base64
from typing import Any

import PIL.Image
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from reward_plugin.images import to_png

_PNG = base64.b64encode(to_png(PIL.Image.new("RGB", (16, 16), (200, 120, 40)))).decode()

CURL = """curl http://127.0.0.1:8100/v1/score \\
    -F 'request={"prompts": ["an orange square"]};type=application/json' \\
    -F 'images=@square.png'"""

PYTHON = """import io
import json

import httpx
import numpy as np

pictures = [np.full((64, 64, 3), 200, np.uint8), np.zeros((64, 64, 3), np.uint8)]
files = [("request", (None, json.dumps({"prompts": ["a grey square", "a black square"]})))]
for picture in pictures:
    file = io.BytesIO()
    np.save(file, picture)
    files.append(("images", ("picture.npy", file.getvalue())))
answer = httpx.post("http://127.0.0.1:8100/v1/score", files=files).json()
for values, error in zip(answer["values"], answer["errors"]):
    print(dict(zip(answer["dimensions"], values)), error)
"""


def _texts(description: str) -> dict[str, Any]:
    return {"type": ["array", "null"], "items": {"type": "string"}, "description": description}


_OPTIONS = {
    "version": {"type": "integer", "enum": [1], "description": "of this format"},
    "prompts": _texts("one per picture, for scorers that look at them"),
    "scorers": _texts("names of the scorers to run; all without it"),
    "dimensions": _texts("columns of the answer; all that the scorers give without it"),
    "ids": _texts("one name per picture; they come back in the answer"),
    "id": {"type": "string", "description": "a name for the request; comes back in the answer"},
}
_JSON = {
    "type": "object",
    "additionalProperties": False,
    "required": ["images"],
    "properties": {
        "images": {
            "type": "array",
            "items": {"type": "string", "format": "byte"},
            "description": "base64 of PNG, JPEG, WebP or .npy files (uint8 [height, width, 3])",
        },
        **_OPTIONS,
    },
}
_MULTIPART = {
    "type": "object",
    "required": ["request"],
    "properties": {
        "request": {"type": "object", "additionalProperties": False, "properties": _OPTIONS},
        "images": {
            "type": "array",
            "items": {"type": "string", "format": "binary"},
            "description": "one part a picture: PNG, JPEG, WebP or .npy (uint8 [height, width, 3])",
        },
    },
}
_ANSWER = {
    "type": "object",
    "properties": {
        "version": {"type": "integer"},
        "id": {"type": "string"},
        "dimensions": {"type": "array", "items": {"type": "string"}},
        "values": {
            "type": "array",
            "items": {"type": "array", "items": {"type": ["number", "null"]}},
            "description": "one row a picture, one column a dimension; null is a missing score",
        },
        "errors": {
            "type": "array",
            "items": {"type": ["string", "null"]},
            "description": "one a picture: why it has no score, or null",
        },
        "ids": _texts("as they were sent"),
        "scored_by": {
            "type": ["string", "null"],
            "description": "what decides the scores, as at /v1/scorers; another text, another model",
        },
    },
}
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {name: {"type": "string"} for name in ("code", "message", "request_id")},
        }
    },
}
_FAILURES = {
    "400": "the request is malformed; the message says which rule it breaks",
    "401": "wrong or no token",
    "404": "no scorer or dimension of that name",
    "408": "the request took too long to arrive",
    "413": "too many pictures, bytes or pixels: send fewer at once",
    "500": "a scorer failed on the whole batch",
    "503": "too many requests are waiting; come back after Retry-After seconds",
}
#: Goes into the operation of POST /v1/score.
SCORE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": _JSON,
                "examples": {
                    "one picture": {"value": {"images": [_PNG], "prompts": ["an orange square"]}},
                    "named pictures": {"value": {"images": [_PNG, _PNG], "ids": ["a", "b"], "id": "step 7"}},
                },
            },
            "multipart/form-data": {"schema": _MULTIPART},
        },
    },
    "responses": {
        "200": {
            "description": "The scores",
            "headers": {"X-Request-ID": {"schema": {"type": "string"}}},
            "content": {"application/json": {"schema": _ANSWER}},
        },
        **{
            status: {"description": text, "content": {"application/json": {"schema": _ERROR}}}
            for status, text in _FAILURES.items()
        },
    },
    "x-codeSamples": [
        {"lang": "Shell", "label": "a file", "source": CURL},
        {"lang": "Python", "label": "raw arrays", "source": PYTHON},
    ],
}


def schema(app: FastAPI, has_token: bool) -> dict[str, Any]:
    """The application's OpenAPI document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)  # our own 400 says what is wrong
        if has_token:
            schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
            schemes["token"] = {"type": "http", "scheme": "bearer"}
            document["security"] = [{"token": []}]
            for path in ("/health", "/ready"):
                document["paths"][path]["get"]["security"] = []
        app.openapi_schema = document
    return app.openapi_schema


def page(document: dict[str, Any]) -> str:
    """The document as one HTML page that needs nothing else."""
    import jinja2

    return jinja2.Template(_PAGE, autoescape=True).render(document=document)


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{{ document.info.title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem }
h2 { border-top: 1px solid #ccc; padding-top: 1rem; font-size: 1.1rem } code, pre { font-size: .875rem }
pre { background: #f4f4f4; padding: .75rem; overflow-x: auto } td, th { text-align: left; padding: 0 1rem 0 0;
vertical-align: top }
</style>
<h1>{{ document.info.title }}</h1>
<p>Version {{ document.info.version }} of the format. <a href="openapi.json">openapi.json</a> is the same for
programs.{% if document.security %} Send <code>Authorization: Bearer TOKEN</code>.{% endif %}</p>
{% for path, operations in document.paths.items() %}{% for method, operation in operations.items() %}
<h2><code>{{ method | upper }} {{ path }}</code></h2>
<p>{{ operation.description or operation.summary }}</p>
{% for kind, body in (operation.requestBody.content if operation.requestBody else {}).items() %}
<h3><code>{{ kind }}</code></h3>
<table>{% for name, field in body.schema.properties.items() %}
<tr><td><code>{{ name }}</code><td>{{ field.type if field.type is string else field.type[0] }}
<td>{{ field.description or (field.properties or {}) | join(", ") }}{% endfor %}</table>
{% endfor %}
{% for sample in operation["x-codeSamples"] or [] %}<p>{{ sample.lang }}, {{ sample.label }}:</p>
<pre>{{ sample.source }}</pre>
{% endfor %}
<table>{% for status, answer in operation.responses.items() %}<tr><td>{{ status }}<td>{{ answer.description }}
{% endfor %}</table>
{% endfor %}{% endfor %}
</html>
"""
