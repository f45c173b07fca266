"""Content negotiation by the header Accept (RFC 9110, section 12.5.1)."""

from collections.abc import Sequence

from fastapi import Request

JSON, CSV, SVG = "application/json", "text/csv", "image/svg+xml"


def preferred_media_type(request: Request, offered: Sequence[str]) -> str:
    """The most preferred media type of `offered`; the first one if Accept is absent or matches none."""
    ranges = [_media_range(part) for part in request.headers.get("accept", "").split(",")[:50]]
    ranked = [(_quality(media_type, ranges), media_type) for media_type in offered]
    (quality, _), best = max(ranked, key=lambda each: each[0])
    return best if quality > 0 else offered[0]


def _media_range(part: str) -> tuple[str, float]:
    name, *parameters = (each.strip().lower() for each in part.split(";"))
    quality = next((each[2:] for each in parameters if each.startswith("q=")), "1")
    try:
        return name, min(max(float(quality), 0.0), 1.0)
    except ValueError:
        return name, 0.0


def _quality(media_type: str, accepted: Sequence[tuple[str, float]]) -> tuple[float, int]:
    """The quality of the most specific matching range, and its specificity, which breaks ties."""
    ranges = ("*/*", f"{media_type.partition('/')[0]}/*", media_type)
    found = [(ranges.index(name), quality) for name, quality in accepted if name in ranges]
    specificity, quality = max(found, default=(0, 0.0))
    return quality, specificity
