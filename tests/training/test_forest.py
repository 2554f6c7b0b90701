import numpy as np
from sklearn.ensemble import RandomForestClassifier

from labelscape.training import forest as forests


def test_votes_are_added_tree_by_tree(monkeypatch):
    """In the order of the trees, however the pixels are shared: the same classes in every run."""
    rng = np.random.default_rng(0)
    values, classes = rng.normal(size=(3000, 4)).astype(np.float32), rng.integers(0, 3, 3000)
    forest = RandomForestClassifier(40, min_samples_leaf=2, n_jobs=-1, random_state=0).fit(values, classes)
    votes = np.zeros((3000, 3))
    for tree in forest.estimators_:
        votes += tree.predict_proba(values)
    monkeypatch.setattr(forests, "SHARE", 170)
    found = forests.predict(forest, values)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, votes.argmax(axis=1))
    assert forest.n_jobs == 1  # with more, scikit-learn adds votes as its threads finish
