"""The page at /docs: the requests that /openapi.json describes, without a script or anything of another site."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ info.title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font: 14px/1.4 ui-monospace, monospace; }
h2 { margin: 2.5rem 0 0; font-size: 1.1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; border-top: 1px solid #8884; }
</style>
<h1>{{ info.title }}</h1>
<p>{{ info.description }} <a href="openapi.json">openapi.json</a> has all of it for programs.</p>
{% for path, operations in paths.items() %}{% for method, operation in operations.items() %}
<h2><code>{{ method.upper() }} {{ path }}</code> {{ operation.summary }}</h2>
<p>{{ operation.description }}</p>
{% if operation.requestBody %}<p>Request: {{ fields(operation.requestBody) }}</p>{% endif %}
<p>Answer: {% for status, answer in operation.responses.items() if status < "300" %}
{{ status }} {{ fields(answer) }}{{ "" if loop.last else ", " }}{% endfor %}; else a Problem, with the status
{% for status in operation.responses if status >= "300" %}{{ status }}{{ "" if loop.last else ", " }}{% endfor %}</p>
{% endfor %}{% endfor %}
<h2>Types</h2>
{% for name, schema in schemas.items() %}
<h3 id="{{ name }}">{{ name }}</h3>
<p>{{ schema.description }}</p>
<table>{% for key, field in schema.properties.items() %}
<tr><th><code>{{ key }}</code>{{ "" if key in schema.required else " (optional)" }}</th>
<td>{{ kind(field) }}</td><td>{{ field.description }}</td></tr>{% endfor %}</table>
{% endfor %}
</html>
"""


def page(description: dict[str, Any]) -> str:
    """Return the page of an OpenAPI description."""
    template = Environment(autoescape=True, trim_blocks=True).from_string(_PAGE)
    return template.render(**description, schemas=description["components"]["schemas"], kind=_kind, fields=_fields)


def _fields(message: dict[str, Any]) -> str:
    """Return the type of what a request or an answer holds."""
    return ", ".join(_kind(content.get("schema", {})) for content in message.get("content", {}).values())


def _kind(schema: dict[str, Any]) -> str:
    """Return a type in words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(map(_kind, schema["anyOf"]))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    return str(schema.get("type", "text"))
