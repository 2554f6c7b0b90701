import urllib.request

import pytest
from hub_stand_in import hub_stand_in
from processes import reserved_port


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hugging Face hub on the loopback, which its own client talks to, with a cache of its own."""
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    with hub_stand_in() as (found, address):
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield found


@pytest.fixture
def bucket(monkeypatch):
    """A bucket of a real S3 server on the loopback."""
    boto3, moto = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    with reserved_port() as port:
        for key, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",
        }.items():
            monkeypatch.setenv(key, value)
        server = moto.ThreadedMotoServer("127.0.0.1", port=port, verbose=False)
        server.start()
        # What another test stored is in this process still.
        urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/reset", data=b"").close()
        yield boto3.resource("s3").create_bucket(Bucket="models")
        server.stop()
