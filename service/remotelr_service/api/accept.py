"""Which of several forms an answer shall have, as the header Accept says (RFC 9110, section 12.5.1)."""

from collections.abc import Sequence

from fastapi import Request

JSON, CSV, SVG = "application/json", "text/csv", "image/svg+xml"


def wanted(request: Request, offered: Sequence[str]) -> str:
    """The media type of `offered` that is wanted most; the first where the header is silent, or wants none of them."""
    header = request.headers.get("accept", "")
    asked = [_media_range(part) for part in header.split(",")[:50]]
    ranked = [(max((_weight(each, media_type) for each in asked), default=0.0), media_type) for media_type in offered]
    best, media_type = max(ranked, key=lambda each: each[0])
    return media_type if best > 0 else offered[0]


def _media_range(part: str) -> tuple[str, float]:
    name, *parameters = (each.strip().lower() for each in part.split(";"))
    quality = next((each[2:] for each in parameters if each.startswith("q=")), "1")
    try:
        return name, min(max(float(quality), 0.0), 1.0)
    except ValueError:
        return name, 0.0


def _weight(asked: tuple[str, float], media_type: str) -> float:
    name, quality = asked
    if name == media_type:
        return quality
    # What is named outright comes before what a wildcard takes in.
    return quality * 1e-3 if name in ("*/*", f"{media_type.partition('/')[0]}/*") else 0.0
