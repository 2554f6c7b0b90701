import pytest

from labelscape.evaluation.text import print_areas
from labelscape.evaluation.units import HECTARES, SQUARE_KILOMETRES, SQUARE_METRES, area_unit
from labelscape.maps.rasters import ClassArea


@pytest.mark.parametrize(
    ("side", "pixels", "unit"),
    [
        (0.3, 1_000_000, SQUARE_METRES),
        (0.99, 1_000_000, SQUARE_METRES),
        (1.0, 1_000_000, HECTARES),
        (0.3, 1_200_000_000, HECTARES),  # 108 km²: nine digits of square metres are no help
        (10, 100_000_000, SQUARE_KILOMETRES),  # 10,000 km²
        (10, 99_000_000, HECTARES),
    ],
)
def test_the_unit_fits_pixel_and_map(side, pixels, unit):
    hectares = pixels * side**2 / 10_000
    assert area_unit([(pixels // 2, hectares / 2), (pixels - pixels // 2, hectares / 2)]) == unit


def test_numbers_in_a_unit():
    assert SQUARE_METRES.text(1.6712) == "16,712"
    assert HECTARES.text(1234.567) == "1,234.57"
    assert SQUARE_KILOMETRES.text(1234.567) == "12.35"
    assert HECTARES.text(-0.011, sign=True) == "-0.01"
    assert SQUARE_METRES.text(0.0104, sign=True) == "+104"
    assert HECTARES.text(None) == "-"
    assert area_unit([(0, 0.0), (5, None)]) == HECTARES


def test_printed_areas(capsys):
    print_areas([ClassArea("roof", 25, 0.000225), ClassArea("\x1b[1mroad", 75, 0.000675)])
    assert capsys.readouterr().out.splitlines() == [
        "class                       pixels    share            m²",
        "roof                            25   25.00%             2",
        "?[1mroad                        75   75.00%             7",
    ]
    print_areas([ClassArea("roof", 25, None)])
    assert (
        capsys.readouterr().out.splitlines()[1] == "roof                            25  100.00%             -"
    )
