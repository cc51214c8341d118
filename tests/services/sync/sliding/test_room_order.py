"""A room that moves in the lists of a connection is found by its sort key, not by a search."""

from random import Random

from hs.core.ids import RoomID
from hs.services.sync.sliding.requested_rooms import RoomOrder

ROOMS = [RoomID(f"!{number}:test.example") for number in range(200)]


def test_lists_stay_sorted_while_rooms_move() -> None:
    random = Random(1)
    keys = {room_id: random.randrange(50) for room_id in ROOMS}  # many are equal
    lists = {"all": list(ROOMS), "some": random.sample(ROOMS, 80), "none": []}
    for room_ids in lists.values():
        room_ids.sort(key=keys.__getitem__, reverse=True)
    order = RoomOrder(dict(keys), {name: list(room_ids) for name, room_ids in lists.items()})

    for key in range(300):
        room_id = random.choice(ROOMS)
        keys[room_id] = key // 2
        order.move(room_id, keys[room_id])

    for name, room_ids in order.by_list.items():
        assert sorted(room_ids) == sorted(lists[name])
        sort_keys = [keys[room_id] for room_id in room_ids]
        assert sort_keys == sorted(sort_keys, reverse=True)


def test_moving_a_room_compares_it_with_few_others() -> None:
    compared: list[RoomID] = []

    class Keys(dict[RoomID, int]):
        def __getitem__(self, room_id: RoomID) -> int:
            compared.append(room_id)
            return super().__getitem__(room_id)

    rooms = [RoomID(f"!{number}:test.example") for number in range(4096)]
    order = RoomOrder(Keys(zip(rooms, range(4096, 0, -1), strict=True)), {"all": list(rooms)})

    order.move(rooms[3000], 5000)

    assert order.by_list["all"][0] == rooms[3000]
    assert len(compared) < 40
