"""Cache of parsed runs."""

from remotelr_service.db.queries.runs import StoredRow, StoredRun, parse_row

MAX_CACHED = 4_096


class RunCache:
    """The runs that a writer saved last, by key. An entry is used only if the locked row equals the saved row.

    The cache saves the parsing of the row. It does not save the lock or the read: another replica may have written.
    """

    def __init__(self) -> None:
        self._entries: dict[str, tuple[StoredRow, StoredRun]] = {}

    def load(self, key: str, row: StoredRow) -> StoredRun:
        """The run of a locked row."""
        entry = self._entries.get(key)
        return entry[1] if entry is not None and entry[0] == row else parse_row(row)

    def put(self, key: str, row: StoredRow, stored: StoredRun) -> None:
        """Remember a run that is saved as `row`. If the transaction fails, the next locked row differs."""
        if len(self._entries) >= MAX_CACHED:
            self._entries.clear()
        self._entries[key] = row, stored
