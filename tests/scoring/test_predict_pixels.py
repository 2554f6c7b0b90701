"""What `predict` says of values that are no pixels, before it loads the model."""

import numpy as np
import pytest

from labelscape.errors import WrongType
from labelscape.scoring.scorer import predict


def test_a_path_is_told_how_it_is_read(tmp_path):
    for path in ("scene.tif", tmp_path / "scene.tif"):
        with pytest.raises(WrongType, match=r"path '.*scene.tif'.*scene.read\(\).*map_scene"):
            predict("no.safetensors", path)


@pytest.mark.parametrize(
    ("value", "said"), [(np.zeros((4, 4)), r"ndarray of shape \(4, 4\)"), (3, r"int of")]
)
def test_other_dimensions_are_refused(value, said):
    with pytest.raises(WrongType, match=said):
        predict("no.safetensors", value)
