"""JSON arguments: a file, stdin, or the JSON itself."""

import json
import sys
from pathlib import Path
from typing import Any

from remotelr_service.errors import UserError


def read_document(given: str) -> Any:
    """The JSON of a file, of stdin (`-`), or of the argument itself. Raises UserError."""
    if given == "-":
        text, source = sys.stdin.read(), "stdin"
    elif given.lstrip().startswith(("{", "[")):
        text, source = given, "the argument"
    else:
        try:
            text, source = Path(given).read_text(encoding="utf-8"), given
        except UnicodeDecodeError:
            raise UserError(f"{given} is not a text file; give a file of JSON") from None
        except OSError as error:
            raise UserError(f"{given} cannot be read: {error.strerror}") from None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source} is not JSON: {error}") from None


def read_object(given: str) -> dict[str, Any]:
    """The JSON object that `read_document` reads. Raises UserError for any other JSON."""
    document = read_document(given)
    if isinstance(document, dict):
        return document
    raise UserError(f"expected a JSON object, got {repr(document)[:60]}")
