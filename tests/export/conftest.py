import pytest
from hub_stand_in import hub_stand_in


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
