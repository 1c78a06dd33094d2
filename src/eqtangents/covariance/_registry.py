"""What rules need at each displacement: registered once, looked up many times."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
from jaxtyping import Array, Int, PyTree

from eqtangents._buffers import as_if_unknown, materialised
from eqtangents._transposed import broadcast_along


Result = TypeVar("Result")
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
    """All that a registry holds, looked up at one displacement.

    A field is a pair: its fixed part, and what its `look` gave of the moving part.
    `first`: rules to be run before any other, in this order. `for_each` makes an array
    that is the same at all displacements one for each of those in a batch.
    """

    fields: Sequence[tuple[Any, Any]]
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
        """Register a field; the result is its number among `Registered.fields`."""
        self.fields.append(Field(fixed, moving, look))
        return len(self.fields) - 1

    def add_mask(self, key: Hashable, look: Look) -> None:
        """Register `look((), d)`, unless the key is taken: then it is the same mask."""
        self.masks.setdefault(key, look)

    def coincident(self) -> Registered:
        """All fields where the two positions of each pair coincide: nothing moves.

        It is not looked up for a loop's body, so that more fields may come later.
        """
        return Registered(_Unmoved(self.fields), {}, self.first, None, _the_same)

    def blocks(
        self, run: Callable[[Registered], Result], displacements: Int[Array, "n rank"]
    ) -> Result:
        """The results of `run` at some displacements, along a new leading axis."""
        index = as_if_unknown(displacements, [field.fixed for field in self.fields])
        if displacements.shape[0] == 1:  # A batched slice is a gather: avoid it.
            d = displacements[0]
            moved = materialised(lambda: self._look(d), index)
            result = run(self._registered(moved, d, _the_same))
            return jax.tree.map(lambda leaf: leaf[None], result)
        moved = materialised(lambda: jax.vmap(self._look)(displacements), index)

        def run_one(moved: tuple[list[Any], dict], d: Int[Array, " rank"]) -> Result:
            return run(self._registered(moved, d, lambda leaf: _for_each(leaf, d)))

        return jax.vmap(run_one)(moved, displacements)

    def _look(self, d: Int[Array, " rank"]) -> tuple[list[Any], dict]:
        moved = [field.found(d) for field in self.fields]
        return moved, {key: look((), d) for key, look in self.masks.items()}

    def _registered(
        self,
        moved: tuple[list[Any], dict],
        d: Int[Array, " rank"],
        for_each: Callable[[Array], Array],
    ) -> Registered:
        found, masks = moved
        fields = at_each(self.fields, found, for_each)
        return Registered(fields, masks, self.first, d, for_each)


def at_each(
    fields: Sequence[Field], found: list[Any], for_each: Callable[[Array], Array]
) -> list[tuple[Any, Any]]:
    """Fields with what was found of them; those of many depths as they are."""
    return [
        (field.fixed, field.moving)
        if field.look is None
        else (jax.tree.map(for_each, field.fixed), moved)
        for field, moved in zip(fields, found, strict=True)
    ]


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


class _Unmoved(Sequence):
    """The fields of a registry where nothing moves, also those that are yet to come."""

    def __init__(self, fields: list[Field]):
        self._fields = fields

    def __len__(self) -> int:
        return len(self._fields)

    def __getitem__(self, number: Any) -> Any:
        field = self._fields[number]
        return at_each([field], [field.found(None)], _the_same)[0]
