"""What rules need at each displacement: registered once, looked up many times."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
from jaxtyping import Array, Int, PyTree

from eqtangents._buffers import as_if_unknown, materialised
from eqtangents._transposed import broadcast_along


Result = TypeVar("Result")
Find: TypeAlias = Callable[[int, PyTree[Array]], tuple[Any, Any]]
Look: TypeAlias = Callable[[PyTree[Array], Int[Array, " rank"] | None], Any]


class Memo:
    """Results that are computed once for an owner and a key."""

    def __init__(self):
        """Start with nothing computed."""
        self._kept: dict[Hashable, tuple[Any, Any]] = {}

    def once(self, owner: Any, key: Hashable, build: Callable[[], Result]) -> Result:
        """`build()` the first time that this is asked for, then its result."""
        place = (id(owner), key)
        if place not in self._kept:  # The owner is kept, or its `id` might be reused.
            self._kept[place] = (owner, build())
        return self._kept[place][1]

    def has(self, owner: Any, key: Hashable) -> bool:
        """Whether this was asked for."""
        return (id(owner), key) in self._kept


class Registered(NamedTuple):
    """All that a registry holds, at one displacement.

    `find(number, known)` gives a field, looked up when arrays are known: its fixed
    part, and what its `look` gives of the moving part. `first`: rules to be run before
    any other, in this order. `for_each` makes an array that is the same at all
    displacements one for each of those in a batch.
    """

    find: Find
    masks: dict[Hashable, Any]
    first: Sequence[Callable[[Any], Any]]
    displacement: Int[Array, " rank"] | None
    for_each: Callable[[Array], Array]


class Field(NamedTuple):
    """Per-example data of a rule.

    `fixed` belongs to the first position of a pair; `look(moving, d)` fetches the data
    of the second, `d` away. Fields of many depths have none: each depth looks up its
    own, when its turn comes.
    """

    fixed: PyTree[Array]
    moving: PyTree[Array]
    look: Look | None

    def found(self, d: Int[Array, " rank"] | None) -> Any:
        """What there is of the second position, if that is looked up here."""
        return None if self.look is None else self.look(self.moving, d)

    def ends(self, found: Any, for_each: Callable[[Array], Array]) -> tuple[Any, Any]:
        """The data of both positions, with what was found of the second."""
        if self.look is None:
            return self.fixed, self.moving
        return jax.tree.map(for_each, self.fixed), found


class Registry:
    """What the rules of one frame need at each displacement, registered as they bind.

    Fields belong to examples (and to one depth of a `Repeat`). Masks belong to
    positions alone, so that registries nested in a `Repeat` share them.
    """

    def __init__(self, masks: dict[Hashable, Look] | None = None):
        """Start empty, or sharing the masks of the registry this one is nested in."""
        self.fields: list[Field] = []
        self.masks: dict[Hashable, Look] = {} if masks is None else masks
        self.first: list[Callable[[Any], Any]] = []
        self.memo = Memo()
        self.widest = 1  # the most positions of a block, of all rules that were bound

    def nested(self) -> "Registry":
        """A registry with fields of its own, for the layer inside a `Repeat`."""
        return Registry(self.masks)

    def add_field(
        self, fixed: PyTree[Array], moving: PyTree[Array], look: Look | None
    ) -> int:
        """Register a field; the result is its number, to find it by."""
        self.fields.append(Field(fixed, moving, look))
        return len(self.fields) - 1

    def add_mask(self, key: Hashable, look: Look) -> None:
        """Register `look((), d)`, unless the key is taken: then it is the same mask."""
        self.masks.setdefault(key, look)

    def coincident(self) -> Registered:
        """All fields where the two positions of each pair coincide: nothing moves.

        It is not looked up for a loop's body, so that more fields may come later.
        """

        def find(number: int, known: PyTree[Array]) -> tuple[Any, Any]:
            field = self.fields[number]
            return field.ends(field.found(None), _the_same)

        return Registered(find, {}, self.first, None, _the_same)

    def blocks(
        self, run: Callable[[Registered], Result], displacements: Int[Array, "n rank"]
    ) -> Result:
        """The results of `run` at some displacements, along a new leading axis.

        A field is looked up after the block before it. Looked up before the first one,
        the fields of all layers would be in memory at once, and out of the cache when
        their turn comes.
        """
        index = as_if_unknown(displacements, [field.fixed for field in self.fields])

        def run_one(
            masks: dict[Hashable, Any],
            d: Int[Array, " rank"],
            for_each: Callable[[Array], Array],
        ) -> Result:
            def find(number: int, known: PyTree[Array]) -> tuple[Any, Any]:
                field = self.fields[number]
                after = as_if_unknown(index, known)
                found = materialised(lambda: field.found(d), after)
                return field.ends(found, for_each)

            return run(Registered(find, masks, self.first, d, for_each))

        if displacements.shape[0] == 1:  # A batched slice is a gather: avoid it.
            d = displacements[0]
            result = run_one(materialised(lambda: self._masks(d), index), d, _the_same)
            return jax.tree.map(lambda leaf: leaf[None], result)
        masks = materialised(lambda: jax.vmap(self._masks)(displacements), index)
        of_batch = lambda masks, d: run_one(masks, d, lambda leaf: _for_each(leaf, d))
        return jax.vmap(of_batch)(masks, displacements)

    def _masks(self, d: Int[Array, " rank"]) -> dict[Hashable, Any]:
        return {key: look((), d) for key, look in self.masks.items()}


def _the_same(leaf: Array) -> Array:
    return leaf


@jax.custom_batching.custom_vmap
def _for_each(leaf: Array, d: Int[Array, " rank"]) -> Array:
    """An array, as often as there are displacements; backwards it is no reduction."""
    return leaf


@_for_each.def_vmap
def _for_each_vmap(
    size: int, batched: list[bool], leaf: Array, d: Int[Array, "n rank"]
) -> tuple[Array, bool]:
    return (leaf if batched[0] else broadcast_along(leaf[None], 0, size)), True
