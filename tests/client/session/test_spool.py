"""What a trainer could not say is kept in a file, whatever happens to the trainer, the file or the disk."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remotelr._session.spool import MAX_BYTES, Spool, SpoolUnusable, default_directory, spool_path

RECORDS = [{"report": {"epoch": epoch, "metrics": {"val_loss": 1 / (epoch + 1)}}} for epoch in range(5)]


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "spools" / "mnist-7.spool"


def written(path: Path, records=RECORDS, **settings) -> bytes:
    spool = Spool(path, **settings)
    for record in records:
        assert spool.append(record)
    spool.close()
    return path.read_bytes()


def read(path: Path) -> list[dict]:
    spool = Spool(path)
    spool.close()
    return spool.records


def opening(path: Path) -> str:
    return f"from pathlib import Path; from remotelr._session.spool import Spool; spool = Spool(Path({str(path)!r}))"


def test_what_was_appended_is_there_when_it_is_opened_again(path):
    written(path)

    assert read(path) == RECORDS


def test_a_file_cut_at_any_byte_gives_the_records_before_the_cut_and_goes_on(path):
    content = written(path)
    ends = [len(written(path.with_name(f"{count}"), RECORDS[:count])) for count in range(1, len(RECORDS) + 1)]

    for length in range(len(content)):
        path.write_bytes(content[:length])
        whole = sum(end <= length for end in ends)

        spool = Spool(path)
        assert spool.records == RECORDS[:whole]
        assert spool.append({"after": length})
        spool.close()

        assert read(path) == [*RECORDS[:whole], {"after": length}]


@given(place=st.integers(min_value=0), bits=st.integers(min_value=1, max_value=255))
def test_a_changed_byte_anywhere_is_never_read_as_a_record(tmp_path_factory, place, bits):
    path = tmp_path_factory.mktemp("spool") / "a.spool"
    content = bytearray(written(path))
    content[place % len(content)] ^= bits
    path.write_bytes(content)

    try:
        records = read(path)
    except SpoolUnusable:
        return
    assert records == RECORDS[: len(records)]


@given(garbage=st.binary(max_size=300))
def test_garbage_behind_the_last_record_is_cut_off(tmp_path_factory, garbage):
    path = tmp_path_factory.mktemp("spool") / "a.spool"
    path.write_bytes(written(path) + garbage)

    assert read(path) == RECORDS


def test_a_process_killed_during_a_write_loses_no_appended_record(path):
    writer = """
import sys
from pathlib import Path
from remotelr._session.spool import Spool
spool = Spool(Path(sys.argv[1]))
for number in range(1_000_000):
    assert spool.append({"number": number, "padding": "x" * (number % 97)})
    print(number, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", writer, str(path)], stdout=subprocess.PIPE, text=True)
    for _ in range(50):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    printed = 49 + sum(1 for line in process.stdout if line.endswith("\n"))
    process.stdout.close()
    process.wait()

    numbers = [record["number"] for record in read(path)]

    assert numbers == list(range(len(numbers)))
    assert len(numbers) > printed


def test_a_second_process_is_refused_until_the_first_is_gone(path):
    holder = f"{opening(path)}; print(1, flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()

    with pytest.raises(SpoolUnusable, match="in use by another process"):
        Spool(path)
    process.communicate("\n")
    Spool(path).close()


def test_a_file_that_replaced_another_is_locked_too(path):
    spool = Spool(path)
    spool.replace(RECORDS)

    taken = subprocess.run([sys.executable, "-c", opening(path)], capture_output=True, text=True, check=False)

    assert "in use by another process" in taken.stderr
    spool.close()


def test_a_second_callback_of_one_process_is_refused(path):
    first = Spool(path)

    with pytest.raises(SpoolUnusable, match="another callback of this process"):
        Spool(path)

    first.close()
    Spool(path).close()


def test_a_refused_opener_does_not_release_the_lock(path):
    first = Spool(path)
    for _ in range(2):
        with pytest.raises(SpoolUnusable, match="another callback of this process"):
            Spool(path)
    other = subprocess.run([sys.executable, "-c", opening(path)], capture_output=True, text=True, check=False)

    assert "in use by another process" in other.stderr
    first.close()


def test_a_forked_data_loader_neither_writes_nor_holds_the_lock(path):
    """A worker forked from the trainer may outlive it by hours."""
    script = f"""
import os, sys
from pathlib import Path
from remotelr._session.spool import Spool
spool = Spool(Path({str(path)!r}))
if os.fork() == 0:
    print(spool.append({{"from": "the child"}}), flush=True)
    sys.stdin.readline()
os._exit(0)
"""
    trainer = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    taken = trainer.stdout.readline()
    trainer.wait()

    assert taken == "False\n"
    assert read(path) == []
    trainer.communicate("the child may go\n")


def test_a_spool_grows_to_its_bound_and_no_further(path):
    spool = Spool(path, max_bytes=2000)

    kept = sum(spool.append(record) for record in RECORDS * 100)
    spool.close()

    assert 0 < kept < 500
    assert 1800 < path.stat().st_size <= 2000
    assert len(read(path)) == kept


def test_records_are_replaced_whole_or_not_at_all(path):
    spool = Spool(path, max_bytes=2000)
    spool.append(RECORDS[0])

    assert not spool.replace(RECORDS * 100)
    assert spool.replace(RECORDS[1:3])
    assert spool.append(RECORDS[3])
    spool.close()

    assert read(path) == RECORDS[1:4]


def test_a_replacement_that_was_never_finished_is_no_trouble(path):
    written(path)
    path.with_name(path.name + ".new").write_bytes(b"half a")

    spool = Spool(path)
    assert spool.replace(RECORDS[:1])
    spool.close()

    assert read(path) == RECORDS[:1]


def test_only_the_owner_may_read_it(path):
    path.parent.mkdir()
    path.touch(0o666)
    spool = Spool(path)
    spool.append(RECORDS[0])
    spool.reject(RECORDS[0], "rejected by the service")
    modes = [file.stat().st_mode & 0o777 for file in (path, spool.rejected)]
    spool.replace(RECORDS)
    spool.close()

    assert [*modes, path.stat().st_mode & 0o777] == [0o600] * 3


def test_a_link_is_refused_and_what_it_leads_to_stays(path, tmp_path):
    target = tmp_path / "precious"
    target.write_text("mine")
    path.parent.mkdir()
    path.symlink_to(target)

    with pytest.raises(SpoolUnusable):
        Spool(path)

    assert target.read_text() == "mine"


def test_a_link_in_the_place_of_rejected_records_is_not_written_through(path, tmp_path):
    target = tmp_path / "precious"
    target.write_text("mine")
    spool = Spool(path)
    spool.rejected.symlink_to(target)

    spool.reject(RECORDS[0], "rejected by the service")
    spool.close()

    assert target.read_text() == "mine"


def test_a_file_of_a_gigabyte_is_refused_unread(path, monkeypatch):
    path.parent.mkdir()
    with path.open("wb") as file:
        file.truncate(1 << 30)
    monkeypatch.setattr("os.read", lambda *_: pytest.fail("it was read"))

    with pytest.raises(SpoolUnusable, match="1,073,741,824 bytes"):
        Spool(path)


def test_a_file_that_is_something_else_is_refused_and_not_cut(path):
    path.parent.mkdir()
    path.write_bytes(b"PK\x03\x04 a model.keras")

    with pytest.raises(SpoolUnusable, match="not a spool"):
        Spool(path)

    assert path.read_bytes() == b"PK\x03\x04 a model.keras"


def test_a_pipe_and_a_directory_are_refused_without_waiting(path):
    path.parent.mkdir()
    os.mkfifo(path)
    with pytest.raises(SpoolUnusable):
        Spool(path)
    with pytest.raises(SpoolUnusable):
        Spool(path.parent)


def test_json_nested_beyond_reason_is_no_record(path):
    import struct
    import zlib

    content, deep = written(path), b"[" * 100_000
    path.write_bytes(content + struct.pack("<II", len(deep), zlib.crc32(deep)) + deep)

    assert read(path) == RECORDS


def test_a_directory_that_cannot_be_made_raises_spool_unusable(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(SpoolUnusable):
        Spool(tmp_path / "file" / "a.spool")


def test_the_spool_of_each_service_and_run_is_another(tmp_path):
    paths = {
        spool_path(tmp_path, url, run)
        for url in ("http://a", "http://b")
        for run in ("x", "X", "a/b", "a-b", "r" * 200)
    }

    assert len(paths) == 10
    assert all(path.parent == tmp_path and len(path.name) < 150 for path in paths)
    assert len({path.name.lower() for path in paths}) == 10


def test_spools_are_in_the_given_directory_or_with_the_users_state(tmp_path):
    assert default_directory({"REMOTELR_SPOOL_DIR": "/spools", "XDG_STATE_HOME": "/state"}) == Path("/spools")
    assert default_directory({"XDG_STATE_HOME": "/state"}) == Path("/state/remotelr")
    assert default_directory({}) == Path.home() / ".local/state/remotelr"


def test_the_bound_is_a_mebibyte():
    assert MAX_BYTES == 2**20
