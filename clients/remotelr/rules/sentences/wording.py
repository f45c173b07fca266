"""How numbers stand in a sentence."""


def format_number(value: float | str) -> str:
    """A number short enough to read; one that is not finite comes as its name."""
    return value if isinstance(value, str) else f"{value:.6g}"


def times(count: int, thing: str) -> str:
    """So many things: `1 epoch`, `2 epochs`."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def format_factor(factor: float) -> str:
    """What was done to a rate: `halved`, `doubled`, `multiplied by 0.1`."""
    return {0.5: "halved", 2.0: "doubled"}.get(factor, f"multiplied by {format_number(factor)}")
