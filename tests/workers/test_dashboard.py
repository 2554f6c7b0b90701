"""The dashboard's address is printed where the scheduler has one."""

import urllib.request

import pytest
from distributed import Client, LocalCluster
from processes import PATIENCE

from labelscape.workers.cluster import dashboard


@pytest.fixture
def client():
    address = "127.0.0.1:0"
    with (
        LocalCluster(n_workers=0, processes=True, host="127.0.0.1", dashboard_address=address) as cluster,
        Client(cluster.scheduler_address) as client,
    ):
        yield client


def without_pages(dask_scheduler):
    dask_scheduler.http_application.applications = []


def test_it_is_left_out_where_the_scheduler_has_none_although_it_has_a_port(client):
    client.run_on_scheduler(without_pages)  # as with --no-dashboard, whether bokeh is installed or not
    assert client.dashboard_link
    assert dashboard(client) == ""


def test_it_is_where_the_scheduler_answers(client):
    def add(dask_scheduler):
        from tornado.web import Application, RequestHandler

        class Page(RequestHandler):
            def get(self):
                self.write("tasks")

        dask_scheduler.http_application.applications = [Application([(r"/tasks", Page)])]

    client.run_on_scheduler(add)
    address = dashboard(client)
    assert address.startswith("http://127.0.0.1:") and address.endswith("/status")
    with urllib.request.urlopen(address.replace("/status", "/tasks"), timeout=PATIENCE) as page:
        assert page.read() == b"tasks"


def test_a_scheduler_that_does_not_answer_stops_nothing():
    class Gone:
        dashboard_link = "http://127.0.0.1:8787/status"

        def run_on_scheduler(self, function):
            raise OSError("closed")

    assert dashboard(Gone()) == ""
