"""What a notebook shows of a run."""

import pytest

from remotelr import Client
from remotelr.testing import InMemoryService

POLICY = {"type": "exponential", "decay_steps": 1, "decay_rate": 0.5}


@pytest.fixture
def service():
    return InMemoryService()


@pytest.fixture
def run(service):
    """A run of four epochs whose last two were trained twice."""
    run = Client(service.url, transport=service).run("mnist-7", policy=POLICY, initial_learning_rate=0.1)
    for first, last in ((0, 4), (2, 4)):
        run.begin(epoch=first)
        for epoch in range(first, last):
            run.report(epoch, {"val_loss": 1 / (1 + epoch), "loss": 0.5})
    return run


def test_the_history_can_leave_out_the_epochs_that_were_rewound(run):
    assert [row.epoch for row in run.history()] == [0, 1, 2, 3, 2, 3]
    assert [row.epoch for row in run.history(superseded=False)] == [0, 1, 2, 3]


def test_a_run_is_shown_as_a_table_and_the_curve_of_its_rates(run):
    shown = run._repr_html_()

    assert "<th>status</th><td>running</td>" in shown
    assert "<th>val_loss</th><td>0.25</td>" in shown
    assert "learning rate from 0.1 to 0.0125 in 4 epochs" in shown
    assert repr(run) == "<Run 'mnist-7' on http://remotelr.test: running, epoch 4>"


def test_a_run_is_shown_while_the_service_is_away(run, service):
    service.away = True

    assert "<b>run mnist-7</b>" in run._repr_html_()


def test_text_of_a_run_is_escaped(service):
    client = Client(service.url, transport=service)
    run = client.run("a", policy=POLICY, initial_learning_rate=0.1)
    run.begin(epoch=0)
    run.view = run.view.__class__(**{**{name: getattr(run.view, name) for name in run.view.__slots__}, "status": "<b>"})
    service.away = True

    assert "&lt;b&gt;" in run._repr_html_()


def test_a_decision_is_shown_as_a_table(run):
    assert "<th>learning rate</th><td>0.00625</td>" in run.decision._repr_html_()


def test_a_dataframe_has_a_column_for_each_metric(run):
    pytest.importorskip("pandas", reason="pandas is optional")
    frame = run.to_dataframe()

    assert frame["epoch"].tolist() == [0, 1, 2, 3]
    assert frame["val_loss"].tolist() == [1.0, 0.5, 1 / 3, 0.25]
    assert len(run.to_dataframe(superseded=True)) == 6


def test_a_figure_has_the_rates_above_the_metrics(run):
    pytest.importorskip("matplotlib", reason="matplotlib is optional")
    above, below = run.plot().axes

    assert above.get_title() == "run mnist-7"
    assert above.get_yscale() == "log"
    assert [text.get_text() for text in below.get_legend().get_texts()] == ["val_loss", "loss"]


def test_without_pandas_the_error_names_it(run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)

    with pytest.raises(ImportError, match="pip install pandas"):
        run.to_dataframe()
