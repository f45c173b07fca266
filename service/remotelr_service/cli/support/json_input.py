"""JSON that a person hands over: in a file, through a pipe, or typed."""

import json
import sys
from pathlib import Path
from typing import Any

from remotelr_service.errors import UserError


def read_document(given: str) -> Any:
    """The JSON in a file, on stdin (`-`), or in the argument itself. Raises Mistake."""
    if given == "-":
        text, source = sys.stdin.read(), "stdin"
    elif given.lstrip().startswith(("{", "[")):
        text, source = given, "the argument"
    else:
        try:
            text, source = Path(given).read_text(encoding="utf-8"), given
        except UnicodeDecodeError:
            raise UserError(f"{given} is not text") from None
        except OSError as error:
            raise UserError(f"{given} cannot be read: {error.strerror}") from None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source} is not JSON: {error}") from None


def read_object(given: str) -> dict[str, Any]:
    """As `read_document`, where it has to be an object. Raises Mistake."""
    document = read_document(given)
    if isinstance(document, dict):
        return document
    raise UserError(f"a JSON object is needed, not {repr(document)[:60]}")
