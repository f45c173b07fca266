"""What becomes of a training's last words."""

import pytest

from jobs import QUIET, Job
from remotelr.errors import RemoteLRWarning
from remotelr.testing import InMemoryService


@QUIET
def test_the_file_of_a_finished_run_that_was_heard_is_gone(tmp_path):
    service = InMemoryService()
    job = Job(service, tmp_path / "spool").start()
    job.train(0, 5)

    job.session.finish("completed")

    assert not (tmp_path / "spool").exists()
    assert service._runs["job"].run.status == "completed"


def test_a_run_that_ends_while_the_service_is_away_says_where_its_reports_lie(tmp_path):
    service = InMemoryService()
    job = Job(service, tmp_path / "spool").start()
    service.away = True

    with pytest.warns(RemoteLRWarning, match="goes on by the same rules"):
        job.train(0, 5)
    with pytest.warns(RemoteLRWarning, match=f"5 reports .* lie in {tmp_path / 'spool'}, and are sent when"):
        job.session.finish("completed")

    assert (tmp_path / "spool").exists()
