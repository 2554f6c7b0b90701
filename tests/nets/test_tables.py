"""The papers' tables: every row is one call, every number is the printed one."""

from __future__ import annotations

import pytest
import torch

from labelscape.nets.catalog import create_model, options_of
from labelscape.nets.count import parameters
from labelscape.nets.tables import CITYSCAPES, ISPRS, TABLES, Row, rows_of

ROWS = [row for table in TABLES.values() for row in table.rows]


def row(table: str, label: str) -> Row:
    found = [row for row in TABLES[table].rows if row.label == label]
    assert len(found) == 1, f"{table} has {len(found)} rows {label}"
    return found[0]


def calls() -> dict[tuple, tuple[str, dict, int, int]]:
    """Every different network of the tables, once."""
    found = {}
    for table in TABLES.values():
        for row in table.rows:
            if row.network:
                key = (row.network, tuple(sorted(row.options.items())), table.in_channels, table.classes)
                found[key] = (row.network, dict(row.options), table.in_channels, table.classes)
    return found


@pytest.mark.parametrize(("network", "options", "in_channels", "classes"), calls().values(), ids=str)
def test_every_row_is_one_call_with_known_options(
    network: str, options: dict, in_channels: int, classes: int
) -> None:
    assert set(options) <= set(options_of(network))
    with torch.device("meta"):
        net = create_model(network, in_channels=in_channels, classes=classes, **options)
    assert (net.in_channels, net.classes) == (in_channels, classes)


def test_the_tables_are_complete() -> None:
    sizes = {name: (len(table.rows), sum(row.quoted for row in table.rows)) for name, table in TABLES.items()}
    assert sizes == {
        "mswbn-1": (5, 0),
        "mswbn-2": (4, 0),
        "mswbn-3": (4, 0),
        "mswbn-4": (4, 0),
        "mswbn-5": (3, 1),
        "mswbn-7": (4, 0),
        "dfcnet-1": (8, 0),
        "dgcwnet-1": (15, 0),
        "dgcwnet-2": (18, 0),
        "dgcwnet-3": (4, 0),
        "dgcwnet-4": (14, 12),
        "dgcwnet-5": (14, 13),
        "dgcwnet-6": (9, 8),
        "maggiori-2": (4, 0),
        "maggiori-3": (4, 0),
        "maggiori-4": (6, 5),
        "maggiori-5": (4, 3),
        "maggiori-6": (5, 1),
        "ifbfnet-1": (7, 5),
        "ifbfnet-2": (10, 0),
        "ifbfnet-3": (6, 0),
        "ifbfnet-4": (4, 0),
        "ifbfnet-5": (10, 0),
        "ifbfnet-6": (8, 6),
    }


def test_quoted_rows_have_no_network_and_others_have_one() -> None:
    for row in ROWS:
        assert row.quoted == (row.network is None), row
        assert bool(row.claimed) != row.control and row.label and TABLES[row.table].rows.count(row) == 1
        assert not row.quoted or not row.options


@pytest.mark.parametrize(
    ("table", "label", "claimed"),
    [
        (
            "mswbn-1",
            "MSWBN, 128 channels",
            {"mean_iou": 90.49, "overall_accuracy": 96.40, "seconds_per_step": 0.8188},
        ),
        ("mswbn-2", "MSWBN, 96 channels, no gates in HWM", {"mean_iou": 88.78, "overall_accuracy": 95.92}),
        ("mswbn-3", "MSWBN, 128 channels, no gates in LBM", {"mean_iou": 89.95, "overall_accuracy": 95.99}),
        ("mswbn-4", "MSWBN, 160 channels, no gates", {"mean_iou": 88.40, "overall_accuracy": 95.61}),
        ("mswbn-7", "5 operations, LBM and clip gates", {"mean_iou": 89.09}),
        ("dfcnet-1", "ClassmateNet", {"mean_iou": 51.87}),
        ("dgcwnet-1", "ResNet-101-PPM + DGCW(tanh)", {"mean_iou": 79.14}),
        ("dgcwnet-2", "ResNet-101-ASPP + NL-H", {"mean_iou": 79.60}),
        ("dgcwnet-2", "ResNet-101-PPM + SE", {"mean_iou": 78.41}),
        ("dgcwnet-3", "Baseline + OHEM + MS", {"mean_iou": 81.53}),
        ("dgcwnet-6", "PSPNet, ResNet269", {"mean_iou": 44.94}),
        (
            "maggiori-6",
            "Skip",
            {
                "train_hours_vaihingen": 6.6,
                "train_hours_potsdam": 16.9,
                "test_seconds_per_hectare_vaihingen": 0.81,
                "test_seconds_per_hectare_potsdam": 1.48,
            },
        ),
        ("ifbfnet-2", "ResNet50 + ASPP + Feature Balanced Fusion", {"mean_iou": 80.11}),
        ("ifbfnet-3", "48 channels", {"mean_iou": 80.99}),
        ("ifbfnet-4", "IFBFNet + OHEM + DA", {"mean_iou": 79.95}),
        ("ifbfnet-5", "lambda 1.0", {"mean_iou": 80.64}),
    ],
)
def test_numbers_read_by_hand(table: str, label: str, claimed: dict[str, float]) -> None:
    assert dict(row(table, label).claimed) == claimed


def test_classes_of_claims_are_those_of_the_data_sets() -> None:
    """The measured numbers join the claims by these names."""
    from labelscape.datasets.published.cityscapes import LEGEND as STREETS
    from labelscape.datasets.published.isprs import LEGEND as AERIAL

    assert tuple(STREETS.names) == CITYSCAPES
    assert tuple(AERIAL.names) == ISPRS
    assert row("ifbfnet-1", "IFBFNet").claimed["iou/traffic light"] == 74.8
    assert row("maggiori-2", "MLP").claimed["f1/impervious surface"] == 91.69


def test_every_table_names_its_data_sets() -> None:
    from labelscape.datasets.published.catalog import PUBLISHED

    assert all(table.datasets and set(table.datasets) <= set(PUBLISHED) for table in TABLES.values())
    assert TABLES["maggiori-2"].datasets == ("vaihingen",)


def test_the_class_a_number_belongs_to() -> None:
    potsdam_mlp = row("maggiori-3", "MLP").claimed
    assert (potsdam_mlp["f1/tree"], potsdam_mlp["f1/car"], potsdam_mlp["f1/clutter"]) == (81.10, 93.56, 76.54)
    ours = row("ifbfnet-6", "IFBFNet").claimed
    assert (ours["iou/wall"], ours["iou/truck"], ours["iou/bicycle"]) == (53.8, 70.7, 77.4)
    assert row("dgcwnet-4", "DGCWNet (train)").claimed["iou/motorcycle"] == 71.3


@pytest.mark.parametrize(
    ("metric", "mean", "classes"), [("iou", "mean_iou", CITYSCAPES), ("f1", "mean_f1", ISPRS)]
)
def test_printed_means_are_the_means_of_the_printed_classes(
    metric: str, mean: str, classes: tuple[str, ...]
) -> None:
    checked = 0
    for row in ROWS:
        values = [row.claimed[f"{metric}/{name}"] for name in classes if f"{metric}/{name}" in row.claimed]
        if values:
            assert sum(values) / len(values) == pytest.approx(row.claimed[mean], abs=0.11), row
            checked += 1
    assert checked == {"iou": 23, "f1": 17}[metric]


@pytest.mark.parametrize(
    ("table", "label", "millions"),
    [  # sizes worked out from the papers' descriptions, each unlike its neighbours'
        ("mswbn-1", "MSWBN, 128 channels", 58.82),
        ("dgcwnet-3", "Baseline + OHEM", 82.58),
        ("dgcwnet-1", "ResNet-101-PPM", 70.31),
        ("ifbfnet-2", "ResNet50 + ASPP + Skip-Connection", 27.79),
        ("ifbfnet-3", "16 channels", 47.01),
        ("dfcnet-1", "DFCNet", 17.88),
        ("maggiori-2", "MLP", 0.798),
    ],
)
def test_a_rows_options_give_the_network_it_names(table: str, label: str, millions: float) -> None:
    found, where = row(table, label), TABLES[table]
    with torch.device("meta"):
        net = create_model(
            found.network, in_channels=where.in_channels, classes=where.classes, **found.options
        )
    assert parameters(net) / 1e6 == pytest.approx(millions, abs=0.011)


def test_rows_of_a_network() -> None:
    tables = [row.table for _, row in rows_of("mlp")]
    assert tables == ["maggiori-2", "maggiori-3", "maggiori-4", "maggiori-5", "maggiori-6"]
    assert (
        all(row in table.rows for table, row in rows_of("deeplabv3plus"))
        and len(rows_of("deeplabv3plus")) == 5
    )
    assert rows_of("tiramisu") == []
    assert dict(rows_of("mlp")[1][1].options) == {"downsample": 2}
    with pytest.raises(TypeError):
        rows_of("mlp")[1][1].options["hidden"] = 3
