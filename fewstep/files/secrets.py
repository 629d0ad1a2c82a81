"""What others may not read of a config or an address: passwords, keys, signatures."""

import re
from typing import Any

SECRET_KEY = re.compile(r"(token|secret|password|passwd|api_?key|credential)s?$", re.IGNORECASE)
USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
SIGNED_QUERY = re.compile(r"(?<=\?)[^\s\"']*(?:signature|token|key)[^\s\"']*", re.IGNORECASE)


def without_secrets(value: Any) -> Any:
    """A config for others to read: values under names such as `api_key` and credentials in addresses are replaced."""
    if isinstance(value, dict):
        hidden = {k for k, v in value.items() if isinstance(v, str) and SECRET_KEY.search(str(k))}
        return {k: "***" if k in hidden else without_secrets(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(v) for v in value]
    return SIGNED_QUERY.sub("***", USER_IN_URL.sub("***@", value)) if isinstance(value, str) else value
