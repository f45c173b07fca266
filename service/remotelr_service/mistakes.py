"""What the people who run the service may have got wrong. The command line says it in one line, without a traceback."""


class Mistake(Exception):
    """Something only the person at the command line can put right; the message says what and how."""
