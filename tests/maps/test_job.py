"""Many scenes with one model: what became of each."""

import json

from labelscape.maps.job import SceneRecord


def test_a_record_without_a_seam_score_is_json():
    record = SceneRecord("a.tif", "failed", cause="a.tif does not exist.")
    assert json.loads(json.dumps(record.to_dict(), allow_nan=False)) == {
        "scene": "a.tif",
        "state": "failed",
        "seconds": 0.0,
        "pixels": 0,
        "seam": None,
        "cause": "a.tif does not exist.",
        "files": {},
    }
    assert not record.is_mapped and SceneRecord("a.tif", "skipped", seam=1.5).is_mapped
