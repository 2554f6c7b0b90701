"""What large libraries leave behind is not looked through for garbage."""

import gc

import pytest

from labelscape.imports import importing


class Made:
    pass


@pytest.fixture(autouse=True)
def nothing_frozen():
    yield
    gc.unfreeze()


def test_what_is_made_is_old_afterwards_and_nothing_is_frozen():
    gc.enable()
    with importing():
        assert not gc.isenabled()
        made = Made()
    assert gc.isenabled() and gc.get_freeze_count() == 0
    assert any(one is made for one in gc.get_objects(generation=2))


def test_garbage_of_the_block_is_still_found():
    with importing():
        made = Made()
        made.own = made
        number = id(made)
        del made
    gc.collect()
    assert not any(id(one) == number and isinstance(one, Made) for one in gc.get_objects())


def test_what_a_user_froze_stays_frozen():
    gc.freeze()
    count = gc.get_freeze_count()
    with pytest.raises(ValueError), importing():
        raise ValueError
    assert gc.get_freeze_count() == count > 0


def test_who_seeks_no_garbage_goes_without():
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
