"""Keeps passwords and tokens out of whatever is written down: logs, run folders, MLflow.

The one choke point: text goes through `redact_text`, key-value tables through `redact_table`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

HIDDEN = "***"
_SECRET_NAME = re.compile(
    r"(^|[._\-])(auth|authorization|token|secret|password|passwd|credentials?|signature"
    r"|(api|access|private|secret)[_\-]?key([_\-]?id)?)($|[._\-])",
    re.IGNORECASE,
)
_USER_INFO = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_QUERY = re.compile(r"([?&])([A-Za-z0-9_.\-]+)=([^&\s\"']+)")
# Tokens that announce themselves: GitHub, GitLab, Hugging Face, AWS, Slack, OpenAI style, Databricks, JWT.
_KNOWN_TOKEN = re.compile(
    r"\b(gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w\-]{20,}|hf_\w{20,}|AKIA[0-9A-Z]{16}"
    r"|xox[a-z]-[\w\-]{10,}|sk-[\w\-]{20,}|dapi[0-9a-f]{32}|eyJ[\w\-]{10,}\.[\w\-]{10,}\.[\w\-]{5,})"
)
_SHORTEST_SECRET = 8


def is_secret_name(name: str) -> bool:
    """Whether a key or environment variable of this name usually holds a secret."""
    return bool(_SECRET_NAME.search(name))


def redact_text(text: str, environment: Mapping[str, str] | None = None) -> str:
    """Hide user info in URIs, secret query values, known token forms and secrets of the environment."""
    text = _USER_INFO.sub(HIDDEN, text)
    text = _QUERY.sub(_hide_query, text)
    text = _KNOWN_TOKEN.sub(HIDDEN, text)
    for name, value in (os.environ if environment is None else environment).items():
        if is_secret_name(name) and len(value) >= _SHORTEST_SECRET and value in text:
            # A path, such as SSH_AUTH_SOCK, says where a secret is and is none itself.
            text = text if os.path.exists(value) else text.replace(value, HIDDEN)
    return text


def redact_table(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same table with secret values hidden, at any depth; true, false and null are no secrets."""
    return {key: _redact_value(key, value) for key, value in values.items()}


def _redact_value(key: str, value: Any) -> Any:
    secret = is_secret_name(key) and not (value is None or isinstance(value, bool))
    return HIDDEN if secret else _redact(value)


def _redact(value: Any) -> Any:
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, Mapping):
        return redact_table(cast(Mapping[str, Any], value))
    if isinstance(value, (list, tuple)):
        return [_redact(item) for item in cast(Sequence[Any], value)]
    return value


def _hide_query(found: re.Match[str]) -> str:
    value = HIDDEN if is_secret_name(found[2]) or found[2].lower() in ("sig", "key") else found[3]
    return f"{found[1]}{found[2]}={value}"
