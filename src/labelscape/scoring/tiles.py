"""Cut a scene into tiles: cores with halos (overlap) around them. Arithmetic only.

Every pixel belongs to exactly one core; what the network sees is the core and a halo around it, cut at the
scene's border. Where the halo is at least the network's reach and every tile starts on the network's stride,
the map made of tiles equals the map made of the whole scene at once. Where a part of a scene is mapped, its
tiles lie where those of the whole scene do and see beyond the part.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from labelscape.errors import BadOption
from labelscape.grid import Window


@dataclass(frozen=True, slots=True)
class Tile:
    """`seen` is what the network reads, core and halo; `final` is the window that is final once this tile
    is predicted, and `answers` as much of it as is mapped.

    Without blending that is the core. With blending it is moved up and left by the fade: pixels at the right
    and bottom still wait for their neighbours, and those at the left and top waited for this tile.
    """

    core: Window
    seen: Window
    final: Window
    answers: Window


@dataclass(frozen=True, slots=True)
class TilePlan:
    """Square cores of side `core` with `halo` pixels around them, over `whole`. Both are multiples of the
    network's stride. Iterating gives the tiles that answer for pixels of `whole`, row by row.

    Within `fade` pixels on each side of a border between cores both tiles contribute, with weights from 0 at
    the one end to 1 at the other.

    side   tiles at the scene's border see this many rows and columns too, where the scene has them: for
           networks whose answer depends on the size of what they see. 0: core and halo, cut at the border
    batch  tiles that the network is given at once, where they have one shape
    around what the network may see, and where the first core begins; `whole` lies inside. None: `whole`
    source the window of the scene that the ground is a resized picture of: the plan's pixels are then not the
           scene's. None: they are
    scaled the tilings of the scene at several scales, where their predictions are averaged in these tiles
    """

    whole: Window
    core: int
    halo: int
    fade: int = 0
    stride: int = 1
    side: int = 0
    batch: int = 1
    around: Window | None = None
    source: Window | None = None
    scaled: tuple[TilePlan, ...] = ()

    def __iter__(self) -> Iterator[Tile]:
        return self._tiles(*self.first, *self.along)

    def with_neighbours(self) -> Iterator[Tile]:
        """Its tiles, and of those above and at the left of them the ones that answer for nothing of `whole`
        but have a share in what is blended there.
        """
        (row, column), (rows, columns) = self.first, self.along
        above, before = (int(self.fade > 0 and first > 0) for first in (row, column))
        return self._tiles(row - above, column - before, rows + above, columns + before)

    def _tiles(self, row: int, column: int, rows: int, columns: int) -> Iterator[Tile]:
        ground = self.ground
        for top in range(ground.top + row * self.core, ground.top + (row + rows) * self.core, self.core):
            start = ground.left + column * self.core
            for left in range(start, start + columns * self.core, self.core):
                core = Window(top, left, self.core, self.core) & ground
                final = self._final(core)
                seen = self._widened(core.grown(self.halo, bounds=ground))
                yield Tile(core, seen, final, final if self.around is None else final & self.whole)

    def _final(self, core: Window) -> Window:
        ground = self.ground
        # At the scene's own border no neighbour follows: there a window ends where the core does.
        top, left, bottom, right = (
            edge if edge == end else edge - self.fade
            for edge, end in (
                (core.top, ground.top),
                (core.left, ground.left),
                (core.bottom, ground.bottom),
                (core.right, ground.right),
            )
        )
        return Window(top, left, bottom - top, right - left)

    @property
    def ground(self) -> Window:
        """What the network may see."""
        return self.whole if self.around is None else self.around

    @property
    def first(self) -> tuple[int, int]:
        """Row and column of its first tile among those of all that the network may see."""
        whole, ground = self.whole, self.ground
        return (
            self._answering(whole.top - ground.top, ground.height),
            self._answering(whole.left - ground.left, ground.width),
        )

    @property
    def along(self) -> tuple[int, int]:
        """Rows and columns of its tiles."""
        whole, ground, (row, column) = self.whole, self.ground, self.first
        return (
            self._answering(whole.bottom - 1 - ground.top, ground.height) + 1 - row,
            self._answering(whole.right - 1 - ground.left, ground.width) + 1 - column,
        )

    def _answering(self, place: int, length: int) -> int:
        """Which tile of an axis answers for a pixel."""
        return min((place + self.fade) // self.core, math.ceil(length / self.core) - 1)

    def place_of(self, answers: Window) -> tuple[int, int]:
        """Row and column of the tile with these `answers` among its tiles."""
        ground, (row, column) = self.ground, self.first
        return (
            self._answering(answers.top - ground.top, ground.height) - row,
            self._answering(answers.left - ground.left, ground.width) - column,
        )

    def _widened(self, seen: Window) -> Window:
        """At least `side` rows and columns, still starting on the stride: at the far border up to a stride
        less.
        """
        whole = self.ground
        top = min(seen.top, _last_start(whole.top, whole.bottom, self.side, self.stride))
        left = min(seen.left, _last_start(whole.left, whole.right, self.side, self.stride))
        height, width = max(seen.bottom - top, self.side), max(seen.right - left, self.side)
        return Window(top, left, height, width) & whole

    def __len__(self) -> int:
        return math.prod(self.along)

    @property
    def largest(self) -> int:
        """Side of what the network reads of the largest tile."""
        if self.scaled:
            return max(plan.largest for plan in self.scaled)
        return min(self.core + 2 * self.halo, max(self.ground.shape))

    @property
    def seen_shape(self) -> tuple[int, int]:
        """Height and width of what the network reads of a tile that is not at the border."""
        height, width = (min(self.core + 2 * self.halo, length) for length in self.ground.shape)
        return height, width

    @property
    def shown(self) -> TilePlan:
        """The tiles that the network is given: at several scales, those of the first."""
        return self.scaled[0] if self.scaled else self


def _last_start(start: int, stop: int, side: int, stride: int) -> int:
    """Where the last `side` pixels of an axis begin, on the next multiple of the stride."""
    return start + max(0, math.ceil((stop - side - start) / stride)) * stride


BLENDS = ("crop", "hann", "none")
"""crop: overlaps are cropped; hann: overlaps are blended with a Hann ramp; none: no overlap at all."""


def plan_tiles(
    whole: Window,
    *,
    tile_size: int,
    overlap: int,
    stride: int,
    blend: str = "crop",
    around: Window | None = None,
) -> TilePlan:
    """Tiles of about `tile_size` pixels side that overlap their neighbours by `overlap` on each side, on a
    grid of `stride`.

    All cores but the last of a row or column have the same size whatever the scene's, and so has the memory a
    tile takes. Raises BadOption where the overlap leaves no core.
    """
    if tile_size < 1 or overlap < 0:
        raise BadOption(f"`tile_size={tile_size}` must be at least 1 and `overlap={overlap}` at least 0.")
    # Whole strides, so that every tile has its pooling cells where the whole scene would have them.
    halo = 0 if blend == "none" else math.ceil(overlap / stride) * stride
    largest = (tile_size - 2 * halo) // stride * stride
    longest = max((around or whole).shape)
    if longest <= tile_size:
        # One tile: nothing to overlap.
        return TilePlan(whole, math.ceil(longest / stride) * stride, halo, stride=stride, around=around)
    if largest < stride:
        raise BadOption(
            f"`tile_size={tile_size}` leaves nothing between overlaps of {halo}; use a tile size of at least "
            f"{2 * halo + 2 * stride}."
        )
    # At most half a core: the fades of two opposite borders must not meet, or weights would not sum to 1.
    fade = min(halo, largest // 2) if blend == "hann" else 0
    return TilePlan(whole, largest, halo, fade, stride, around=around)
