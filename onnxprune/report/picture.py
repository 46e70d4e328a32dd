"""The picture of a network: blocks along the depth, as high as the layer is wide, filled as far as it stays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

from onnxprune.core.text import several, shortened, visible
from onnxprune.report.depth import Block
from onnxprune.report.markup import Markup, element
from onnxprune.report.svg import TOLD, number

_PAGE = 980  # pixels that the picture may take before it scrolls sideways
_PITCH = (8, 84)  # least and most pixels from one depth to the next
_LABELLED = 58  # pixels a depth from which on every block has its name below
_LETTER = 6.4  # pixels
_TICK = 130  # pixels from one name to the next where not every block has one
_ARC = 30  # pixels above a lane for what leads past its blocks


def network_picture(blocks: Sequence[Block], heads: Mapping[str, str]) -> Markup:
    """The picture as SVG, of a fixed size in pixels, with the names that there is room for.

    Args:
        blocks: of `depth.blocks`.
        heads: for layers whose width is in attention heads, how many are kept, in words.
    """
    plan = _Plan.of(blocks)
    wires = [_wire(plan, source, block) for block in blocks for source in (blocks[n] for n in block.sources)]
    told = len(blocks) <= 2 * TOLD
    drawn = [_block(plan, block, heads.get(block.name, "") if told else None) for block in blocks]
    names = _labels(plan, blocks) if plan.labelled else _ticks(plan, blocks)
    layers = [block for block in blocks if block.is_layer]
    cut = sum(block.gone for block in layers)
    label = f"The network: {several(len(layers), 'layer')} along the depth" + (f", {cut} of them cut out" * bool(cut))
    size = {"width": number(plan.width), "height": number(plan.height)}
    view = f"0 0 {size['width']} {size['height']}"
    style = f"width:{size['width']}px;height:{size['height']}px"
    return element(
        "svg", *wires, *drawn, *names, class_="network", viewBox=view, style=style, role="img", aria_label=label
    )


@dataclass(frozen=True, slots=True)
class _Plan:
    """Where things are drawn, in pixels."""

    pitch: float
    tallest: float
    widest: int
    lanes: tuple[float, ...]
    placed: Mapping[tuple[int, int], Block]
    width: float
    height: float

    @classmethod
    def of(cls, blocks: Sequence[Block]) -> "_Plan":
        """The plan for these blocks."""
        depths, lanes = max(b.depth for b in blocks) + 1, max(b.lane for b in blocks) + 1
        pitch = min(max(_PITCH[0], _PAGE / depths), _PITCH[1])
        tallest = 80 if lanes <= 2 else 54 if lanes <= 4 else 36
        placed = {(b.lane, b.depth): b for b in blocks}
        plan = cls(pitch, tallest, max(max(b.before, 1) for b in blocks), (), placed, 0, 0)
        centres, y = [], 2.0
        for lane in range(lanes):
            own = [block for block in blocks if block.lane == lane]
            arcs = any(plan.between(blocks[n], b) for b in own for n in b.sources)
            high = max(plan.high(block) for block in own)
            y += _ARC if arcs else 0
            centres.append(y + high / 2)
            y += high + (34 if plan.labelled else 12)
        return cls(
            *(pitch, tallest, plan.widest, tuple(centres), placed),
            width=pitch * depths,
            height=y + (0 if plan.labelled else 18),
        )

    @property
    def labelled(self) -> bool:
        """Whether every block has its name below."""
        return self.pitch >= _LABELLED

    def between(self, source: Block, target: Block) -> list[Block]:
        """The blocks that stand between two blocks of a lane; none where they are on different lanes."""
        depths = range(source.depth + 1, target.depth) if source.lane == target.lane else ()
        return [self.placed[source.lane, depth] for depth in depths if (source.lane, depth) in self.placed]

    def wide(self, block: Block) -> float:
        """Width of a block on the page."""
        return min(42.0, 0.62 * self.pitch) if block.is_layer else min(7.0, 0.7 * self.pitch)

    def high(self, block: Block) -> float:
        """Height of a block on the page."""
        return max(5.0, self.tallest * sqrt(block.before / self.widest)) if block.is_layer else self.wide(block)

    def centre(self, block: Block) -> tuple[float, float]:
        """Middle of a block."""
        return self.pitch * (block.depth + 0.5), self.lanes[block.lane]


def _wire(plan: _Plan, source: Block, target: Block) -> Markup:
    """The way from one block to the next: straight, in a bow past others, or from lane to lane."""
    (x, y), (to_x, to_y) = plan.centre(source), plan.centre(target)
    if passed := plan.between(source, target):
        span = to_x - x
        top = y - max(plan.high(block) for block in (source, target, *passed)) / 2 - min(_ARC - 2, 6 + span / 16)
        start, end = y - plan.high(source) / 2, to_y - plan.high(target) / 2
        bend = min(span / 3, 40)
        way = (
            f"M{number(x)} {number(start)}C{number(x)} {number(top)} {number(x)} {number(top)} {number(x + bend)} "
            f"{number(top)}H{number(to_x - bend)}C{number(to_x)} {number(top)} {number(to_x)} {number(top)} "
            f"{number(to_x)} {number(end)}"
        )
    else:
        x, to_x = x + plan.wide(source) / 2, to_x - plan.wide(target) / 2
        turn = min(plan.pitch, to_x - x)
        if target.lane > source.lane:  # parts here: the way goes on along its own lane
            middle = x + turn / 2
            way = f"M{number(x)} {number(y)}C{number(middle)} {number(y)} {number(middle)} {number(to_y)} "
            way += f"{number(x + turn)} {number(to_y)}H{number(to_x)}"
        else:
            middle = to_x - turn / 2
            way = f"M{number(x)} {number(y)}H{number(to_x - turn)}C{number(middle)} {number(y)} "
            way += f"{number(middle)} {number(to_y)} {number(to_x)} {number(to_y)}"
    cut = source.gone or target.gone
    return element("path", d=way, class_="wire cut" if cut else "wire")


def _block(plan: _Plan, block: Block, heads: str | None) -> Markup:
    """A block; with a tooltip unless `heads` is None."""
    (x, y), wide, high = plan.centre(block), plan.wide(block), plan.high(block)
    place = {"x": number(x - wide / 2), "width": number(wide)}
    if not block.is_layer:
        class_ = "input" if not block.op_type else "join cut" if block.gone else "join"
        round_ = number(wide / 2)
        shape = element("rect", y=number(y - high / 2), height=number(high), rx=round_, class_=class_, **place)
    elif block.gone:
        shape = element("rect", y=number(y - high / 2), height=number(high), class_="cutout", **place)
    else:
        left = block.after / block.before if block.before else 1.0
        class_ = "kept" if left < 1 else "fixed"
        shape = Markup(
            (element("rect", y=number(y - high / 2), height=number(high), class_="whole", **place) if left < 1 else "")
            + element("rect", y=number(y + high / 2 - high * left), height=number(high * left), class_=class_, **place)
        )
    return shape if heads is None else element("g", element("title", _title(block, heads)), shape)


def _title(block: Block, heads: str) -> str:
    kind = f" ({block.op_type})" if block.op_type else " (input)"
    return f"{visible(block.name)}{kind}" + (f": {_width(block, heads)}" if block.is_layer or block.gone else "")


def _width(block: Block, heads: str) -> str:
    if block.gone:
        return "cut out"
    if not block.before:
        return "width not known"
    channels = several(block.before, "channel")
    told = channels if block.after == block.before else f"{block.after} of {channels}"
    return f"{told}, {heads}" if heads else told


def _labels(plan: _Plan, blocks: Sequence[Block]) -> list[Markup]:
    """Name and width below every block."""
    made = []
    for block in blocks:
        (x, y), room = plan.centre(block), int((plan.pitch - 4) / _LETTER)
        low = y + plan.high(block) / 2
        if block.is_layer or not block.op_type:
            name = _short(block, room)
            made.append(element("text", name, x=number(x), y=number(low + 13), class_="mono"))
        if block.is_layer and block.before:
            told = "cut out" if block.gone else str(block.before)
            if not block.gone and block.after != block.before:
                told = f"{block.before} → {block.after}"
            made.append(element("text", told, x=number(x), y=number(low + 27)))
    return made


def _short(block: Block, room: int) -> str:
    """What tells a layer from others where its name is too long: `conv1` of `/layer1/conv1/Conv`."""
    name = visible(block.name)
    parts = [part for part in name.split("/") if part]
    if len(name) <= room or not parts:
        return shortened(name, room)
    if len(parts) > 1 and block.op_type and parts[-1].startswith(block.op_type):
        parts.pop()
    told = parts.pop()
    while parts and len(longer := f"{parts.pop()}/{told}") <= room:
        told = longer
    return shortened(told, room)


def _ticks(plan: _Plan, blocks: Sequence[Block]) -> list[Markup]:
    """Names of some layers along the depth, for orientation."""
    made, free = [], 0.0
    for block in sorted((b for b in blocks if b.is_layer), key=lambda b: (b.depth, b.lane)):
        x = plan.centre(block)[0]
        name = _short(block, int(_TICK / _LETTER) - 2)
        if x >= free and x + _LETTER * len(name) <= plan.width + 4:
            made.append(element("path", d=f"M{number(x)} {number(plan.height - 16)}v4", class_="wire"))
            place = {"x": number(x), "y": number(plan.height - 4)}
            made.append(element("text", name, class_="mono start", **place))
            free = x + _TICK
    return made
