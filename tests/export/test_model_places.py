"""Models that lie elsewhere, by the real protocols on the loopback: what breaks off, is replaced, or finds no
space here leaves nothing half behind, and every verb takes the place for the model or says what to do.
"""

import datetime
import functools
import ipaddress
import json
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import world
from test_export_onnx import made
from test_push import same

from labelscape.checkpoint import load, save
from labelscape.errors import BadFile, BadOption
from labelscape.export.push import push


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """The folder of a published model, and its SHA-256."""
    folder = tmp_path_factory.mktemp("pushed")
    save(made(), folder / "fcn.safetensors")
    return folder / "fields", push(folder / "fcn.safetensors", folder / "fields").sha256


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LABELSCAPE_CACHE", str(tmp_path / "cache"))


def files_under(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


class Breaking(BaseHTTPRequestHandler):
    """Serves a folder; answers with weights break off after as many bytes as `cuts` says."""

    protocol_version = "HTTP/1.1"

    def __init__(self, folder, cuts, *rest):
        self.folder, self.cuts = folder, cuts
        super().__init__(*rest)

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        content = (self.folder / self.path.lstrip("/")).read_bytes()
        cut = self.cuts.pop(0) if self.cuts and self.path.endswith(".safetensors") else None
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:cut])
        self.close_connection = cut is not None


@contextmanager
def served(folder, cuts=(), certificate=None):
    cuts = list(cuts)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Breaking, folder, cuts))
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_what_breaks_off_is_told_and_leaves_nothing_half(pushed, tmp_path):
    folder, digest = pushed
    size = (folder / "fcn.safetensors").stat().st_size
    with served(folder, cuts=[1000]) as address:
        place = f"{address}/fcn.safetensors#sha256={digest}"
        with pytest.raises(
            BadFile, match=rf"stopped answering {size - 1000:,} bytes before the end; try again"
        ):
            load(place)
        assert files_under(tmp_path / "cache") == []
        same(load(place), folder / "fcn.safetensors")
    assert files_under(tmp_path / "cache") == [f"models/{digest}/fcn.safetensors"]


def test_a_full_disk_is_told_as_one(pushed, tmp_path, small_disk, monkeypatch):
    """Of the cache here, and not as a server that stopped."""
    sized, disk = small_disk
    sized("16k")
    folder, digest = pushed
    monkeypatch.setenv("LABELSCAPE_CACHE", str(disk))
    with served(folder) as address:
        with pytest.raises(BadFile) as told:
            load(f"{address}/fcn.safetensors#sha256={digest}")
        said = str(told.value)
        assert "cannot be written: No space left on device (the copy of" in said, said
        assert "LABELSCAPE_CACHE" in said and "stopped answering" not in said
        assert files_under(disk) == []
        sized("1m")
        same(load(f"{address}/fcn.safetensors#sha256={digest}"), folder / "fcn.safetensors")


def certificate(folder):
    """A key and a certificate for 127.0.0.1 that it signed itself, in one file."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "stand-in")])
    host = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(host, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    content = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain) + signed.public_bytes(pem)
    (folder / "server.pem").write_bytes(content)
    return folder / "server.pem"


def test_a_model_travels_over_https(pushed, tmp_path, monkeypatch):
    folder, digest = pushed
    pem = certificate(tmp_path)
    with served(folder, certificate=pem) as address:
        # A server that nobody vouches for is not asked for its model.
        with pytest.raises(BadFile, match="CERTIFICATE_VERIFY_FAILED"):
            load(address)
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        same(load(address), folder / "fcn.safetensors")  # by the SHA-256 of its own manifest
        same(load(f"{address}/fcn.safetensors#sha256={digest}"), folder / "fcn.safetensors")
        with pytest.raises(BadFile, match="its SHA-256 is .*, expected 000000000000"):
            load(f"{address}/fcn.safetensors#sha256={'0' * 64}")


def test_a_model_travels_over_s3(pushed, bucket, tmp_path):
    file = pushed[0] / "fcn.safetensors"
    done = push(file, "s3://models/fields")
    assert done.place == "s3://models/fields" and done.sha256 == pushed[1]
    keys = {one.key for one in bucket.objects.all()}
    assert keys == {f"fields/{name}" for name in done.files}
    same(load("s3://models/fields"), file)
    same(load(Path("s3://models/fields")), file)  # as the command line gives it
    same(load(f"s3://models/fields/fcn.safetensors#sha256={done.sha256}"), file)
    with pytest.raises(BadFile, match="lies in s3://models/fields already"):
        push(file, "s3://models/fields/")
    with pytest.raises(BadFile, match="s3://models/none/labelscape.json cannot be read"):
        load("s3://models/none")
    with pytest.raises(BadFile, match="s3://nobucket/fields cannot be written to"):
        push(file, "s3://nobucket/fields")
    with pytest.raises(BadOption, match="cannot be written to: give a folder, hf://owner/name or s3://"):
        push(file, "s3://")
    # Replaced behind the manifest's back: nothing of it is kept here, nor taken from what was kept before.
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    bucket.put_object(Key="fields/fcn.safetensors", Body=bytes(content))
    same(load("s3://models/fields"), file)  # the one that was pushed is here
    (tmp_path / "cache" / "models" / done.sha256 / "fcn.safetensors").unlink()
    with pytest.raises(BadFile, match="is not the one that was pushed: its SHA-256 is"):
        load("s3://models/fields")
    assert files_under(tmp_path / "cache") == []
    push(file, "s3://models/fields", overwrite=True)
    same(load("s3://models/fields"), file)


def test_the_hub_gets_weights_by_git_lfs_and_goes_on_where_they_broke_off(pushed, hub, tmp_path):
    push(pushed[0] / "fcn.safetensors", "hf://owner/fields")
    assert f"PUT /lfs/{pushed[1]}" in hub.asked
    hub.cuts[:] = [1000]
    same(load("hf://owner/fields"), pushed[0] / "fcn.safetensors")
    assert hub.asked.count(f"GET /lfs/{pushed[1]}") == 2, "the rest was asked for"


def test_a_full_disk_of_the_hub_cache_is_told(pushed, hub, small_disk, monkeypatch):
    from huggingface_hub import constants

    sized, disk = small_disk
    sized("24k")
    push(pushed[0] / "fcn.safetensors", "hf://owner/fields")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(disk))
    with pytest.raises(BadFile, match=r"cannot be kept here \(fcn.safetensors\): no space is left.*HF_HOME"):
        load("hf://owner/fields")
    assert not [name for name in files_under(disk) if name.endswith(".safetensors")]
    sized("1m")
    same(load("hf://owner/fields"), pushed[0] / "fcn.safetensors")


def test_what_the_hub_does_not_have_is_told_in_words(pushed, hub):
    with pytest.raises(BadFile, match="no such repository, or it is private: log in with `hf auth login`"):
        load("hf://owner/none")
    push(pushed[0] / "fcn.safetensors", "hf://owner/fields")
    with pytest.raises(BadFile, match="the repository has no such revision"):
        load("hf://owner/fields@v9")
    hub.commits["owner/theirs"] = []
    hub.commit("owner/theirs", {"model.safetensors": b"x"})
    with pytest.raises(BadFile, match=r"\(labelscape.json\): the repository has no such file"):
        load("hf://owner/theirs")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model of a scene, the scene and its labels."""
    folder = tmp_path_factory.mktemp("trained")
    w = world.make(folder, 64, 96)
    labels = world.label_raster(w, folder / "labels.tif")
    data = {"images": [str(w.scene)], "labels": [str(labels)], "holdout": 0}
    checkpoint = world.tiny_checkpoint("fcn", like=w.scene, recipe={"data": data, "seed": 0})
    save(checkpoint, folder / "fcn.safetensors")
    return folder


@pytest.mark.parametrize("place", ["hf://owner/fields", pytest.param("FOLDER", marks=pytest.mark.long)])
def test_every_verb_takes_the_place_for_the_model(place, trained, hub, tmp_path, run_cli):
    place = place.replace("FOLDER", str(tmp_path / "shared"))
    file, scene = trained / "fcn.safetensors", trained / "scene.tif"
    labels = ["--labels", trained / "labels.tif"]
    assert run_cli("push", file, place)[0] == 0

    def ran(*words):
        code, out, err = run_cli(*words)
        assert code == 0, err
        return out

    def like_the_file(*words):
        here, there = (ran(words[0], one, *words[1:]) for one in (file, place))
        assert here.replace(str(file), place) == there.replace(str(tmp_path / "shared" / file.name), place)
        return there

    assert place in like_the_file("info") or place[:2] != "hf"
    assert json.loads(ran("check", place, scene, "--json"))["verdict"] == "FITS"
    assert "mIoU" in like_the_file("evaluate", scene, *labels, "--device", "cpu")
    quick = ["--no-report", "--no-polygons", "--device", "cpu"]
    for name, model in (("here", file), ("there", place)):
        ran("map", model, scene, "--out", tmp_path / name, *quick)
    assert (tmp_path / "here" / "scene_class.tif").read_bytes() == (
        tmp_path / "there" / "scene_class.tif"
    ).read_bytes()
    ran("export", place, "--to", "card", "--out", tmp_path / "cards")
    ran("push", place, tmp_path / "copied")
    assert (tmp_path / "copied" / "fcn.safetensors").read_bytes() == file.read_bytes()
    settings = ["-o", "steps=1", "-o", "crop=32", "-o", "batch=2", "-o", "data.holdout=0", "--device", "cpu"]
    widths = ["--network", "fcn", "-o", "options.widths=[8,8,8,8]"]
    started = ["train", scene, *labels, *widths, *settings, "--start", place, "--out", tmp_path / "run"]
    code, _, err = run_cli(*started)
    assert code == 0 and "weights are those of fcn in" in err, err


def test_what_is_published_is_not_written_into(trained, hub, tmp_path, run_cli):
    file = trained / "fcn.safetensors"
    push(file, "hf://owner/fields")
    push(file, tmp_path / "shared")
    for place in ("hf://owner/fields", str(tmp_path / "shared")):
        code, _, err = run_cli("calibrate", place)
        assert (
            code == 2 and f"{place} is a published model" in err and f"labelscape push {place} FOLDER" in err
        )
    before = files_under(tmp_path / "hf")
    for to in ("onnx", "pt2", "card"):
        code, _, err = run_cli("export", "hf://owner/fields", "--to", to)
        assert code == 2 and "--out is needed: hf://owner/fields lies elsewhere" in err
    with pytest.raises(BadOption, match="`out` is needed"):
        from labelscape.export.model import export_model

        export_model("hf://owner/fields")
    assert files_under(tmp_path / "hf") == before == []
