"""Which blocks are in the pool already, by their ids and those of all blocks before them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable

from fastedit.memory.extents import Extent


class Node:
    """A block behind the block `parent`: the extents that have its keys and values, where it is.

    paths: how many extents lead through it.
    """

    __slots__ = ("children", "holders", "key", "parent", "paths")

    def __init__(self, parent: Node | None, key: Hashable) -> None:
        self.parent, self.key, self.paths = parent, key, 0
        self.children: dict[Hashable, Node] = {}
        self.holders: set[Extent] = set()


class Prefixes:
    """A tree of blocks. What ended stays until its positions are wanted, the latest the longest."""

    def __init__(self) -> None:
        self.root = Node(None, None)
        self.paths: dict[Extent, list[Node]] = {}
        # Of requests that ended, the oldest first.
        self.unused: OrderedDict[Extent, None] = OrderedDict()

    def open(self, extent: Extent, layout: Hashable, blocks: Iterable[Hashable]) -> None:
        """`extent` is to hold these blocks; what is laid out otherwise shares nothing."""
        self.close(extent)
        self.paths[extent] = []
        for key in (layout, *blocks):
            self.extend(extent, key)

    def extend(self, extent: Extent, key: Hashable) -> None:
        path = self.paths[extent]
        parent = path[-1] if path else self.root
        node = parent.children.get(key)
        if node is None:
            node = parent.children[key] = Node(parent, key)
        node.paths += 1
        path.append(node)

    def fill(self, extent: Extent, first: int, last: int) -> None:
        """Blocks [first, last) of the extent are there; only with those before them are they of
        use."""
        path = self.paths[extent]
        if first and extent not in path[first].holders:
            return
        for node in path[first + 1 : last + 1]:
            node.holders.add(extent)

    def node(self, extent: Extent, block: int) -> Node:
        return self.paths[extent][block + 1]

    def shared(self, extent: Extent) -> tuple[int, Extent | None]:
        """How many first blocks of its path another extent has, and which."""
        best: tuple[int, Extent | None] = (0, None)
        for count, node in enumerate(self.paths[extent][1:], 1):
            other = next((holder for holder in node.holders if holder != extent), None)
            if other is None:
                break
            best = count, other
        return best

    def find(self, layout: Hashable, blocks: Iterable[Hashable]) -> tuple[int, Extent | None]:
        """How many first blocks are there, and in which extent; an unused one, if there is."""
        node, best = self.root, (0, None)
        for count, key in enumerate((layout, *blocks)):
            child = node.children.get(key)
            if child is None or (count and not child.holders):
                break
            node = child
            if count:
                unused = (holder for holder in node.holders if holder in self.unused)
                best = count, next(unused, next(iter(node.holders)))  # type: ignore[assignment]
        return best

    def retire(self, extent: Extent) -> None:
        """Its request has ended: it is kept for others, if it holds anything."""
        held = [node for node in self.paths.get(extent, []) if extent in node.holders]
        if held:
            self._cut(extent, len(held) + 1)
            self.unused[extent] = None

    def ends(self, extent: Extent, blocks: int) -> bool:
        """Whether nobody uses the extent, and it has no more than its first `blocks` blocks."""
        return extent in self.unused and len(self.paths[extent]) == blocks + 1

    def rename(self, old: Extent, new: Extent) -> None:
        """What is in one extent has been copied into another one."""
        path = self.paths[new] = self.paths.pop(old)
        for node in path:
            if old in node.holders:
                node.holders.remove(old)
                node.holders.add(new)
        kept = [new if extent == old else extent for extent in self.unused]
        self.unused.clear()
        self.unused.update(dict.fromkeys(kept))

    def exchange(self, one: Extent, other: Extent) -> None:
        """What is in each of two extents in use has come to be in the other one."""
        paths = self.paths
        for node in {*paths[one], *paths[other]}:
            if (one in node.holders) != (other in node.holders):
                node.holders ^= {one, other}
        paths[one], paths[other] = paths[other], paths[one]

    def take_over(self, extent: Extent, blocks: int) -> None:
        """An unused extent has a request again, which goes on behind its first blocks."""
        del self.unused[extent]
        self._cut(extent, blocks + 1)

    def touch(self, extent: Extent) -> None:
        if extent in self.unused:
            self.unused.move_to_end(extent)

    def close(self, extent: Extent) -> None:
        """Nothing of it is to be found any more."""
        self._cut(extent, 0)
        self.paths.pop(extent, None)
        self.unused.pop(extent, None)

    def _cut(self, extent: Extent, length: int) -> None:
        path = self.paths.get(extent, [])
        while len(path) > length:
            node = path.pop()
            node.holders.discard(extent)
            node.paths -= 1
            if not node.paths and node.parent is not None:
                del node.parent.children[node.key]
