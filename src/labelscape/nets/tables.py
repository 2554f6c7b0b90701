"""The papers' tables as values: every row, the numbers its paper prints, and the call that builds its
network.

    create_model(row.network, in_channels=table.in_channels, classes=table.classes, **row.options)    # a row
                                                                                                      with a
                                                                                                      network

Numbers are in per cent as printed, and the papers' own: nothing here was measured by us. Whatever is no score
carries its unit in its name. How a row was trained or tested (losses, crops, scales, flips, weights to start
from) is in its note, never in its options: the ResNets of DGCWNet, IFBFNet and MSWBN (ours: its paper names
no weights) start from ImageNet weights (pretrained=True), DFCNet and Maggiori's networks from nothing but
what the note says. Rows without a network are numbers that a paper takes from others (`quoted`).

Controls (`Row.control`) are ours: they claim nothing.

Sources   MSWBN tables 1 to 5 and 7   DFCNet table 1 and sec. 3.3   DGCWNet tables 1 to 6   Maggiori et al.
          tables II to VI IFBFNet tables 1 to 6; `catalog` has the full names. MSWBN's table 6 are shares of
          classes, Maggiori's table I an architecture
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table."""

    table: str
    label: str
    network: str | None
    options: Mapping[str, object] = field(default_factory=dict)
    claimed: Mapping[str, float] = field(default_factory=dict)
    quoted: bool = False
    note: str = ""
    control: bool = False
    """Ours, not the paper's: it claims nothing and shows what another row's settings alone are worth."""

    @property
    def times(self) -> list[str]:
        """The claims that are times, if the row can be run."""
        return [] if self.quoted else [key for key in self.claimed if "seconds" in key or "hours" in key]

    @property
    def is_scored(self) -> bool:
        """Can it be trained and scored? Not where it is quoted, or claims times alone."""
        return not self.quoted and (not self.claimed or len(self.times) < len(self.claimed))


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a paper: what it shows, on which data (bands and classes of its networks), and its rows
    from top to bottom.
    """

    title: str
    data: str
    in_channels: int
    classes: int
    rows: tuple[Row, ...]

    @property
    def datasets(self) -> tuple[str, ...]:
        """The published data sets that are this table's own, by the names of `labelscape data list`."""
        return DATASETS[self.data]


CITYSCAPES = (
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
)
"""As the legends of the data sets name them: claims and measurements join by these names."""
ISPRS = ("impervious surface", "building", "low vegetation", "tree", "car", "clutter")


CLUTTER_WRONG = "clutter counted as wrong: "
"""Begins the names of a second counting of Vaihingen. The paper leaves clutter unlabelled; the authors'
published script keeps its pixels, which a network of five classes cannot but get wrong.
"""


def of_task(name: str, metric: str) -> str:
    """The name of a metric of a second task: `road: iou/road`. (No paper prints one: DFCNet scores land.)"""
    return f"{name}: {metric}"


def numbers(**claimed: float) -> Mapping[str, float]:
    return MappingProxyType(claimed)


def miou(value: float) -> Mapping[str, float]:
    return numbers(mean_iou=value)


def both(mean_iou: float, overall_accuracy: float) -> Mapping[str, float]:
    return numbers(mean_iou=mean_iou, overall_accuracy=overall_accuracy)


def ious(mean: float, classes: str = "") -> Mapping[str, float]:
    """The mean and, where they are printed, the 19 classes of Cityscapes as "iou/road" ..."""
    return numbers(mean_iou=mean, **named("iou", CITYSCAPES, classes)) if classes else miou(mean)


def f1s(mean: float, accuracy: float, classes: str = "") -> Mapping[str, float]:
    """Mean F1, overall accuracy and, where they are printed, each class as "f1/impervious surface" ...;
    Vaihingen without clutter.
    """
    return numbers(
        mean_f1=mean, overall_accuracy=accuracy, **named("f1", ISPRS[: len(classes.split())], classes)
    )


def named(metric: str, classes: Iterable[str], printed: str) -> dict[str, float]:
    return {f"{metric}/{name}": float(value) for name, value in zip(classes, printed.split(), strict=True)}


def own(label: str, network: str, claimed: Mapping[str, float], note: str = "", **options: object) -> Row:
    """A row its paper trained; `table` is filled in by `tables`."""
    return Row("", label, network, MappingProxyType(options), claimed, note=note)


def control(label: str, network: str, note: str, **options: object) -> Row:
    return Row("", label, network, MappingProxyType(options), MappingProxyType({}), note=note, control=True)


def quote(label: str, claimed: Mapping[str, float], note: str = "") -> Row:
    return Row("", label, None, MappingProxyType({}), claimed, quoted=True, note=note)


GID = "GID, five classes, 512 x 512 patches of 30 test images"
GID_RESAMPLED = "GID, five classes, test patches resampled to 0.7 per mille of meadow"
WIDTHS = (64, 96, 128, 160)


def gates(what: str, scores: Iterable[tuple[float, float]], **options: object) -> tuple[Row, ...]:
    """A table of MSWBN: one reading of the gates at each width."""
    return tuple(
        own(f"MSWBN, {width} channels{what}", "mswbn", both(*score), width=width, **options)
        for width, score in zip(WIDTHS, scores, strict=True)
    )


def timed(row: Row, seconds: float) -> Row:
    return replace(
        row, claimed=numbers(**row.claimed, seconds_per_step=seconds), note="ten images a step, Titan X"
    )


MSWBN_1 = gates("", [(90.13, 96.34), (89.79, 96.27), (90.49, 96.40), (90.24, 96.05)])
MSWBN_DEEPLAB = own("DeepLabV3+", "deeplabv3plus", both(89.87, 96.17))
MSWBN = {
    "mswbn-1": Table(
        "channels of the operations",
        GID,
        3,
        5,
        tuple(
            timed(row, seconds)
            for row, seconds in zip(
                (*MSWBN_1, MSWBN_DEEPLAB), (0.7467, 0.7967, 0.8188, 0.8725, 0.9603), strict=True
            )
        ),
    ),
    "mswbn-2": Table(
        "no clip gates in the HWM",
        GID,
        3,
        5,
        gates(
            ", no gates in HWM",
            [(89.71, 96.18), (88.78, 95.92), (89.10, 96.06), (89.93, 96.16)],
            gate_hwm=False,
        ),
    ),
    "mswbn-3": Table(
        "no clip gates in the LBM",
        GID,
        3,
        5,
        gates(
            ", no gates in LBM",
            [(89.53, 96.14), (89.45, 96.03), (89.95, 95.99), (89.83, 96.15)],
            gate_lbm=False,
        ),
    ),
    "mswbn-4": Table(
        "no clip gates",
        GID,
        3,
        5,
        gates(
            ", no gates",
            [(89.40, 96.04), (88.84, 95.99), (89.21, 95.99), (88.40, 95.61)],
            gate_hwm=False,
            gate_lbm=False,
        ),
    ),
    "mswbn-5": Table(
        "against other methods",
        GID,
        3,
        5,
        (
            own("MSWBN", "mswbn", both(90.49, 96.40)),
            MSWBN_DEEPLAB,
            quote("object-oriented method of the GID paper", both(87.25, 95.76)),
        ),
    ),
    "mswbn-7": Table(
        "few examples of a class",
        GID_RESAMPLED,
        3,
        5,
        (
            own(
                "5 operations, no LBM",
                "mswbn",
                miou(87.28),
                "gates taken to be off, as in the next row",
                operations=5,
                lbm=False,
                gate_hwm=False,
            ),
            own("5 operations, LBM", "mswbn", miou(87.99), operations=5, gate_hwm=False, gate_lbm=False),
            own("5 operations, LBM and clip gates", "mswbn", miou(89.09), operations=5),
            own("DeepLabV3+", "deeplabv3plus", miou(84.57)),
        ),
    ),
}

DEEPGLOBE = "DeepGlobe land cover, validation server"
TWICE = "with its start 160,000 steps of land, the baseline 80,000"
DFCNET = {
    "dfcnet-1": Table(
        "what the classmate and dense fusion add",
        DEEPGLOBE,
        3,
        7,
        (
            own(
                "Baseline (FC-DenseNet)",
                "fc-densenet",
                miou(43.57),
                "predicts at 1/4; of crops from 513 to 1025 the larger did better (no numbers)",
            ),
            own("ClassmateNet", "classmate", miou(51.87), f"trained on roads too; predicts at 1/2; {TWICE}"),
            own("DFCNet", "dfcnet", miou(52.24), f"trained on roads too; {TWICE}"),
            own("DFCNet, test server", "dfcnet", miou(54.13), "in the text, section 3.3"),
            own(
                "DFCNet, test server, scales and models merged",
                "dfcnet",
                miou(55.59),
                "in the text, section 3.3; the scales and the number of models are not stated",
            ),
            control(
                "Baseline, as many steps as the others",
                "fc-densenet",
                "control (ours): 160,000 steps of land, as the rows above have with their start",
            ),
            control(
                "ClassmateNet, land alone",
                "classmate",
                "control (ours): no roads; started from the baseline and trained as long as row 2",
                mate_classes=0,
            ),
            control(
                "DFCNet, land alone",
                "dfcnet",
                "control (ours): no roads; started from the baseline and trained as long as row 3",
                mate_classes=0,
            ),
        ),
    )
}

PASCAL_CONTEXT = "PASCAL Context, validation, 59 classes and background"
ADE20K = "ADE20K, validation"
CITYSCAPES_VAL, CITYSCAPES_TEST = "Cityscapes, validation", "Cityscapes, test server"
BASES = {"plain": "ResNet-101", "ppm": "ResNet-101-PPM", "aspp": "ResNet-101-ASPP"}


def on_bases(columns: Mapping[str, Mapping[str, object]], scores: Mapping[str, str]) -> tuple[Row, ...]:
    """Tables 1 and 2 of DGCWNet: the same additions to each base network."""
    return tuple(
        own(BASES[base] + added, "dgcwnet", miou(float(score)), base=base, **options)
        for base, printed in scores.items()
        for (added, options), score in zip(columns.items(), printed.split(), strict=True)
    )


DGCW = {"base": "aspp"}
DGCWNET = {
    "dgcwnet-1": Table(
        "the module and what it weighs by",
        CITYSCAPES_VAL,
        3,
        19,
        on_bases(
            {
                "": {"context": "none"},
                " + DGCW": {},
                " + conv": {"weighting": "conv"},
                " + DGCW(softmax)": {"weighting": "softmax"},
                " + DGCW(tanh)": {"weighting": "tanh"},
            },
            {
                "plain": "75.65 77.81 75.90 77.46 77.44",
                "ppm": "77.88 79.60 78.19 79.19 79.14",
                "aspp": "78.61 80.43 78.75 79.95 79.92",
            },
        ),
    ),
    "dgcwnet-2": Table(
        "against other contexts",
        CITYSCAPES_VAL,
        3,
        19,
        on_bases(
            {
                "": {"context": "none"},
                " + DGCW": {},
                " + GAP": {"context": "gap"},
                " + SE": {"context": "se"},
                " + NL-H": {"context": "nl-h"},
                " + NL-D": {"context": "nl-d"},
            },
            {
                "plain": "75.65 77.81 76.01 76.22 77.34 76.85",
                "ppm": "77.88 79.60 78.25 78.41 78.79 78.03",
                "aspp": "78.61 80.43 78.78 78.83 79.60 78.97",
            },
        ),
    ),
    "dgcwnet-3": Table(
        "training and testing",
        CITYSCAPES_VAL,
        3,
        19,
        (
            own("Baseline (ResNet-101-ASPP + DGCW)", "dgcwnet", miou(80.43), **DGCW),
            own("Baseline + OHEM", "dgcwnet", miou(80.86), "OHEM: 0.7, at least 100,000 pixels", **DGCW),
            own(
                "Baseline + OHEM + MS",
                "dgcwnet",
                miou(81.53),
                "OHEM; tested at scales 0.75, 1, 1.25, 1.5",
                **DGCW,
            ),
            own(
                "Baseline + OHEM + MS + Flip",
                "dgcwnet",
                miou(81.80),
                "OHEM; tested at four scales, flipped too",
                **DGCW,
            ),
        ),
    ),
    "dgcwnet-4": Table(
        "against other methods",
        CITYSCAPES_TEST,
        3,
        19,
        (
            quote("PSPNet (train)", ious(78.4)),
            quote("PSANet (first row; marked train and validation)", ious(78.6)),
            own(
                "DGCWNet (train)",
                "dgcwnet",
                ious(
                    80.8,
                    (
                        "98.7 87.0 93.7 58.5 63.3 70.3 77.8 81.2 93.9 73.4 95.7 87.8 73.8 96.1 71.6 83.2 "
                        "78.2 "
                        "71.3 79.0"
                    ),
                ),
                "OHEM; tested at four scales, flipped too",
                **DGCW,
            ),
            quote(
                "DeepLab-v2",
                ious(
                    70.4,
                    (
                        "97.9 81.3 90.3 48.8 47.4 49.6 57.9 67.3 91.9 69.4 94.2 79.8 59.8 93.7 56.5 67.5 "
                        "57.5 57.7 68.8"
                    ),
                ),
            ),
            quote(
                "RefineNet",
                ious(
                    73.6,
                    (
                        "98.2 83.3 91.3 47.8 50.4 56.1 66.9 71.3 92.3 70.3 94.8 80.9 63.3 94.5 64.6 76.1 "
                        "64.3 62.2 70.0"
                    ),
                ),
            ),
            quote(
                "DUC",
                ious(
                    77.6,
                    (
                        "98.5 85.5 92.8 58.6 55.5 65.0 73.5 77.9 93.3 72.0 95.2 84.8 68.5 95.4 70.9 78.8 "
                        "68.7 "
                        "65.9 73.8"
                    ),
                ),
            ),
            quote(
                "ResNet-38",
                ious(
                    78.4,
                    (
                        "98.5 85.7 93.1 55.5 59.1 67.1 74.8 78.7 93.7 72.6 95.5 86.6 69.2 95.7 64.5 78.8 "
                        "74.1 69.0 76.7"
                    ),
                ),
            ),
            quote("PSANet", ious(80.1)),
            quote(
                "Dense-ASPP",
                ious(
                    80.6,
                    (
                        "98.7 87.1 93.4 60.7 62.7 65.6 74.6 78.5 93.6 72.5 95.4 86.2 71.9 96.0 78.0 90.3 "
                        "80.7 "
                        "69.7 76.8"
                    ),
                ),
            ),
            quote(
                "SPGNet",
                ious(
                    81.1,
                    (
                        "98.8 87.6 93.8 56.5 61.9 71.9 80.0 82.1 94.1 73.5 96.1 88.7 74.9 96.5 67.3 84.8 "
                        "81.8 "
                        "71.1 79.4"
                    ),
                ),
            ),
            quote("CCNet", ious(81.4)),
            quote(
                "BFP",
                ious(
                    81.4,
                    (
                        "98.7 87.0 93.5 59.8 63.4 68.9 76.8 80.9 93.7 72.8 95.5 87.0 72.1 96.0 77.6 89.0 "
                        "86.9 "
                        "69.2 77.6"
                    ),
                ),
            ),
            quote(
                "DANet",
                ious(
                    81.5,
                    (
                        "98.6 86.1 93.5 56.1 63.3 69.7 77.3 81.3 93.9 72.9 95.7 87.3 72.9 96.2 76.8 89.4 "
                        "86.5 "
                        "72.2 78.2"
                    ),
                ),
            ),
            own(
                "DGCWNet (train and validation)",
                "dgcwnet",
                ious(
                    81.6,
                    (
                        "98.7 86.9 93.8 62.8 64.2 70.3 78.2 81.3 93.9 72.7 95.8 87.9 74.4 96.2 72.6 88.0 "
                        "81.6 "
                        "71.4 78.8"
                    ),
                ),
                "trained on the validation images too; OHEM; tested at four scales, flipped too",
                **DGCW,
            ),
        ),
    ),
    "dgcwnet-5": Table(
        "against other methods",
        PASCAL_CONTEXT,
        3,
        60,
        (
            *(
                quote(label, miou(score))
                for label, score in (
                    ("FCN-8S", 37.8),
                    ("CRF-RNN", 39.3),
                    ("ParseNet", 40.4),
                    ("BoxSup", 40.5),
                    ("HO-CRF", 41.3),
                    ("PieceWise", 43.3),
                    ("VeryDeep", 44.5),
                    ("DeepLab-v2, ResNet101-COCO", 45.7),
                    ("RefineNet, ResNet152", 47.3),
                    ("MSCI, ResNet152", 50.3),
                    ("EncNet, ResNet101", 51.7),
                    ("DANet, ResNet101", 52.6),
                    ("ANN, ResNet101", 52.8),
                )
            ),
            own("DGCWNet, ResNet101", "dgcwnet", miou(53.9), "trained and tested as for Cityscapes", **DGCW),
        ),
    ),
    "dgcwnet-6": Table(
        "against other methods",
        ADE20K,
        3,
        150,
        (
            *(
                quote(label, miou(score))
                for label, score in (
                    ("RefineNet, ResNet152", 40.70),
                    ("DSSPN, ResNet101", 43.68),
                    ("PSANet, ResNet101", 43.77),
                    ("EncNet, ResNet101", 44.68),
                    ("PSPNet, ResNet101", 43.29),
                    ("PSPNet, ResNet269", 44.94),
                    ("CCNet, ResNet101", 45.22),
                    ("ANN, ResNet101", 45.24),
                )
            ),
            own(
                "DGCWNet, ResNet101",
                "dgcwnet",
                miou(45.51),
                "the base network is not named; taken to be that of tables 3 to 5",
                **DGCW,
            ),
        ),
    ),
}

VAIHINGEN, POTSDAM = "ISPRS Vaihingen, validation, five classes", "ISPRS Potsdam, validation, six classes"
BOTH_ISPRS = "ISPRS Vaihingen and Potsdam, Quadro K3100M"
FROM_FCN = "encoder from the trained base FCN"


def hours(
    train_vaihingen: float, train_potsdam: float, test_vaihingen: float, test_potsdam: float
) -> Mapping[str, float]:
    """Table VI. Its head says seconds of training, which can only be hours; testing is in seconds for each
    hectare.
    """
    return numbers(
        train_hours_vaihingen=train_vaihingen,
        train_hours_potsdam=train_potsdam,
        test_seconds_per_hectare_vaihingen=test_vaihingen,
        test_seconds_per_hectare_potsdam=test_potsdam,
    )


MAGGIORI = {
    "maggiori-2": Table(
        "four ways back to full resolution",
        VAIHINGEN,
        4,
        5,
        (
            own("Base FCN", "fcn", f1s(85.14, 88.61, "91.46 94.88 79.19 87.89 72.25")),
            own("Unpooling", "unpooling", f1s(84.54, 88.55, "91.17 95.16 79.06 87.78 69.49"), FROM_FCN),
            own("Skip", "skip", f1s(86.38, 88.80, "91.66 95.02 79.13 88.11 77.96"), FROM_FCN),
            own("MLP", "mlp", f1s(86.58, 88.92, "91.69 95.24 79.44 88.12 78.42"), FROM_FCN),
        ),
    ),
    "maggiori-3": Table(
        "four ways back to full resolution",
        POTSDAM,
        4,
        6,
        (
            own("Base FCN", "fcn", f1s(84.70, 86.20, "88.33 93.97 84.11 80.30 86.13 75.35"), downsample=2),
            own(
                "Unpooling",
                "unpooling",
                f1s(83.03, 84.67, "87.00 92.86 82.93 78.04 84.85 72.47"),
                FROM_FCN,
                downsample=2,
            ),
            own(
                "Skip",
                "skip",
                f1s(86.35, 86.89, "89.27 94.21 84.73 81.23 93.47 75.18"),
                FROM_FCN,
                downsample=2,
            ),
            own(
                "MLP", "mlp", f1s(86.62, 87.02, "89.31 94.37 84.83 81.10 93.56 76.54"), FROM_FCN, downsample=2
            ),
        ),
    ),
    "maggiori-4": Table(
        "against other methods",
        VAIHINGEN,
        4,
        5,
        (
            quote("CNN+RF", f1s(82.65, 86.52, "88.58 94.23 76.58 86.29 67.58")),
            quote("CNN+RF+CRF", f1s(83.78, 86.89, "89.10 94.30 77.36 86.25 71.91")),
            quote("Deconvolution", f1s(83.58, 87.83)),
            quote("Dilation", f1s(85.28, 87.70, "90.19 94.49 77.69 87.24 76.77")),
            quote("Dilation + CRF", f1s(85.24, 87.90, "90.41 94.73 78.25 87.25 75.57")),
            own(
                "MLP",
                "mlp",
                f1s(86.58, 88.92, "91.69 95.24 79.44 88.12 78.42"),
                f"{FROM_FCN}; 89.5 overall accuracy on the test server (text)",
            ),
        ),
    ),
    "maggiori-5": Table(
        "against other methods",
        POTSDAM,
        4,
        6,
        (
            quote(
                "Dilation",
                f1s(82.94, 84.14, "86.52 90.78 83.01 78.41 90.42 68.67"),
                "its classes average 82.97",
            ),
            quote("VGG pretr.", f1s(85.86, 87.42, "89.84 93.80 85.43 83.61 88.00 74.48")),
            quote("VGG+Dilation", f1s(87.06, 87.69, "89.95 93.73 85.91 83.86 94.31 74.62")),
            own(
                "MLP", "mlp", f1s(86.62, 87.02, "89.31 94.37 84.83 81.10 93.56 76.54"), FROM_FCN, downsample=2
            ),
        ),
    ),
    "maggiori-6": Table(
        "running times",
        BOTH_ISPRS,
        4,
        5,
        tuple(
            own(label, network, hours(*printed), note)
            for label, network, note, printed in (
                ("Base FCN", "fcn", "", (3.9, 9.8, 0.81, 1.44)),
                ("Unpooling", "unpooling", "training of the base FCN included", (8.4, 21.0, 1.38, 1.84)),
                ("Skip", "skip", "training of the base FCN included", (6.6, 16.9, 0.81, 1.48)),
                ("MLP", "mlp", "training of the base FCN included", (10.0, 24.5, 1.70, 2.0)),
            )
        )
        + (quote("Dilation", hours(62, 400, 4.81, 17.2), "on a faster machine"),),
    ),
}

STEPS = {
    "": {"aspp": "none", "skip": "none", "spatial": 0},
    " + ASPP": {"skip": "none", "spatial": 0},
    " + ASPP + Skip-Connection": {"skip": "concat", "spatial": 0},
    " + ASPP + Feature Balanced Fusion": {"spatial": 0},
    " + ASPP + Feature Balanced Fusion + Spatial Stream": {},
}
FULL = "OHEM, random scaling, tested at six scales"
IFBF_DEEPLAB = "the paper's own replication; its trunk and settings are not told"
IFBFNET = {
    "ifbfnet-1": Table(
        "against other methods",
        CITYSCAPES_VAL,
        3,
        19,
        (
            quote(
                "LRR",
                ious(
                    69.7,
                    (
                        "97.7 79.9 90.7 44.4 48.6 58.6 68.2 72.0 92.5 69.3 94.7 81.6 60.0 94.0 43.6 56.8 "
                        "47.2 "
                        "54.8 69.7"
                    ),
                ),
            ),
            quote(
                "DeepLabV2",
                ious(
                    70.4,
                    (
                        "97.9 81.3 90.3 48.8 47.4 49.6 57.9 67.3 91.9 69.4 94.2 79.8 59.8 93.7 56.5 67.5 "
                        "57.5 57.7 68.8"
                    ),
                ),
            ),
            quote(
                "Piecewise",
                ious(
                    71.6,
                    (
                        "98.0 82.6 90.6 44.0 50.7 51.1 65.0 71.7 92.0 72.0 94.1 81.5 61.1 94.3 61.1 65.1 "
                        "53.8 "
                        "61.6 70.6"
                    ),
                ),
            ),
            quote(
                "PSPNet",
                ious(
                    78.8,
                    (
                        "98.2 85.8 92.8 57.5 65.9 62.6 71.8 80.7 92.4 64.5 94.8 82.1 61.5 95.1 78.6 88.3 "
                        "77.9 "
                        "68.1 78.0"
                    ),
                ),
            ),
            quote("Multiscale", ious(77.8)),
            own(
                "DeepLabV3+",
                "deeplabv3plus",
                ious(
                    79.9,
                    (
                        "97.8 83.4 92.8 67.6 63.2 64.5 73.9 79.9 92.7 70.1 94.8 83.1 67.4 95.0 80.0 90.0 "
                        "73.1 "
                        "71.6 76.7"
                    ),
                ),
                "cited, and the network the paper builds on; its trunk and settings are not told",
            ),
            own(
                "IFBFNet",
                "ifbfnet",
                ious(
                    81.2,
                    (
                        "98.2 86.0 93.9 61.4 67.5 66.8 74.8 81.4 93.2 69.1 95.4 84.7 66.2 95.7 87.0 90.1 "
                        "84.2 "
                        "68.5 78.2"
                    ),
                ),
                FULL,
            ),
        ),
    ),
    "ifbfnet-2": Table(
        "what each part adds",
        CITYSCAPES_VAL,
        3,
        19,
        tuple(
            own(
                label + added,
                "ifbfnet",
                miou(float(score)),
                FULL + ", as the last row equals table 4's",
                backbone=backbone,
                **options,
            )
            for backbone, label, printed in (
                ("resnet50", "ResNet50", "73.82 76.62 78.68 80.11 80.45"),
                ("resnet101", "ResNet101", "75.00 77.46 79.86 81.05 81.16"),
            )
            for (added, options), score in zip(STEPS.items(), printed.split(), strict=True)
        ),
    ),
    "ifbfnet-3": Table(
        "channels of the spatial stream",
        CITYSCAPES_VAL,
        3,
        19,
        tuple(
            own(f"{channels} channels", "ifbfnet", miou(score), FULL, spatial=channels)
            for channels, score in (
                (16, 80.75),
                (32, 80.13),
                (48, 80.99),
                (64, 80.90),
                (128, 81.16),
                (256, 80.70),
            )
        ),
    ),
    "ifbfnet-4": Table(
        "training and testing",
        CITYSCAPES_VAL,
        3,
        19,
        tuple(
            own(f"IFBFNet{added}", "ifbfnet", miou(score), note)
            for added, score, note in (
                ("", 77.40, "plain cross entropy, one scale"),
                (" + OHEM", 78.88, "OHEM, one scale"),
                (" + OHEM + DA", 79.95, "OHEM, random scaling, tested at one scale"),
                (" + OHEM + DA + MS", 81.16, FULL),
            )
        ),
    ),
    "ifbfnet-5": Table(
        "weight of the auxiliary loss",
        CITYSCAPES_VAL,
        3,
        19,
        tuple(
            own(
                f"lambda {tenths / 10}", "ifbfnet", miou(score), f"auxiliary loss times {tenths / 10}; {FULL}"
            )
            for tenths, score in enumerate(
                (80.29, 81.03, 80.99, 81.16, 80.51, 80.72, 81.03, 79.97, 79.97, 80.64), start=1
            )
        ),
    ),
    "ifbfnet-6": Table(
        "against other methods",
        CITYSCAPES_TEST,
        3,
        19,
        (
            quote(
                "DeepLab-v2+CRF",
                ious(
                    70.4,
                    "97.9 81.3 90.3 48.8 47.4 49.6 57.9 67.3 91.9 69.4 94.2 79.8 59.8 93.7 56.5 67.5 "
                    "57.5 57.7 68.8",
                ),
            ),
            quote(
                "FRRN",
                ious(
                    71.8,
                    (
                        "98.2 83.3 91.6 45.8 51.1 62.2 69.4 72.4 92.6 70 94.9 81.6 62.7 94.6 49.1 67.1 55.3 "
                        "53.5 69.5"
                    ),
                ),
            ),
            quote(
                "RefineNet",
                ious(
                    73.6,
                    (
                        "98.2 83.3 91.3 47.8 50.4 56.1 66.9 71.3 92.3 70.3 94.8 80.9 63.3 94.5 64.6 76.1 "
                        "64.3 62.2 70"
                    ),
                ),
            ),
            quote(
                "DUC",
                ious(
                    77.6,
                    (
                        "98.5 85.5 92.8 58.6 55.5 65 73.5 77.9 93.3 72 95.2 84.8 68.5 95.4 70.9 78.8 68.7 "
                        "65.9 "
                        "73.8"
                    ),
                ),
            ),
            quote("PSPNet", ious(78.4)),
            quote(
                "ResNet-38",
                ious(
                    78.4,
                    (
                        "98.5 85.7 93.1 55.5 59.1 67.1 74.8 78.7 93.7 72.6 95.5 86.6 69.2 95.7 64.5 78.8 "
                        "74.1 69 76.7"
                    ),
                ),
            ),
            own(
                "DeepLabV3+",
                "deeplabv3plus",
                ious(
                    78.5,
                    (
                        "98.6 86.3 92.9 57.4 59.5 64.6 73.0 77.6 93.4 72.5 95.5 85.6 69.5 95.7 69.0 84.6 "
                        "74.6 "
                        "67.2 75.0"
                    ),
                ),
                IFBF_DEEPLAB,
            ),
            own(
                "IFBFNet",
                "ifbfnet",
                ious(
                    79.6,
                    (
                        "98.7 87.0 93.3 53.8 60.7 67.7 76.4 80.1 93.8 73.7 95.7 87.3 72.3 96.2 70.7 82.5 "
                        "75.4 "
                        "70.2 77.4"
                    ),
                ),
                "OHEM, random scaling, tested at six scales and flipped",
            ),
        ),
    ),
}


DATASETS: dict[str, tuple[str, ...]] = {
    GID: ("gid-5", "gid-mtl5", "prepared"),
    GID_RESAMPLED: ("gid-mtl5", "prepared"),
    DEEPGLOBE: ("deepglobe-land",),
    CITYSCAPES_VAL: ("cityscapes",),
    CITYSCAPES_TEST: ("cityscapes",),
    PASCAL_CONTEXT: ("pascal-context-60",),
    ADE20K: ("ade20k",),
    VAIHINGEN: ("vaihingen",),
    POTSDAM: ("potsdam",),
    BOTH_ISPRS: ("vaihingen", "potsdam"),
}
"""What a table says of its data -> published data sets it may be measured on as its own."""


def tables(*papers: Mapping[str, Table]) -> dict[str, Table]:
    """All tables, every row with its table's name."""
    found = {}
    for name, table in ((name, table) for paper in papers for name, table in paper.items()):
        found[name] = replace(table, rows=tuple(replace(row, table=name) for row in table.rows))
    return found


TABLES: dict[str, Table] = tables(MSWBN, DFCNET, DGCWNET, MAGGIORI, IFBFNET)


def rows_of(network: str) -> list[tuple[Table, Row]]:
    """The rows that this network of the catalogue is to reproduce, in the papers' order; none for a
    network without a table.
    """
    return [(table, row) for table in TABLES.values() for row in table.rows if row.network == network]
