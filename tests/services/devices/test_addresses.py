"""Where messages to devices went before."""

from hs.services.devices.addresses import DeviceAddresses
from hs.storage import devices
from tests.support.devices import Process
from tests.support.rooms import ALICE

PHONE, TABLET = (ALICE, "PHONE"), (ALICE, "TABLET")


def test_devices_are_known_once_they_were_found() -> None:
    addresses = DeviceAddresses()

    addresses.learn({ALICE: {"PHONE": 1, "TABLET": 2}}, addresses.moment)

    assert addresses.known([TABLET, PHONE]).inboxes == [2, 1]
    strangers = [TABLET, ("@stranger:hs.test", "PHONE"), (ALICE, "OTHER"), (ALICE, "*")]
    assert addresses.known(strangers).inboxes == [2, None, None, None]


def test_what_was_read_before_somebody_was_forgotten_is_not_learned() -> None:
    addresses = DeviceAddresses()
    before = addresses.known([PHONE])
    addresses.forget(ALICE)

    addresses.learn({ALICE: {"PHONE": 1}}, before.moment)

    assert addresses.known([PHONE]).inboxes == [None]


def test_a_device_called_as_all_of_them_does_not_get_their_messages_alone() -> None:
    addresses = DeviceAddresses()

    addresses.learn({ALICE: {"*": 1, "PHONE": 2}}, addresses.moment)

    assert addresses.known([(ALICE, "*")]).inboxes == [None]


async def test_a_device_that_comes_back_gets_its_messages_at_every_moment(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.device(ALICE, "TABLET")
    since = ""
    got = []

    async def send(content: int) -> None:
        nonlocal since
        message = {ALICE: {"PHONE": {"n": content}, "TABLET": {}}}
        await server.send(phone, f"t{content}", message)
        answer = await server.sync(ALICE, "PHONE", since or None)
        since = answer["next_batch"]
        got.extend([one["content"]["n"] for one in answer.get("to_device", {}).get("events", [])])

    await send(1)
    await send(2)
    await server.world.database.write(devices.delete, ALICE, ["PHONE"])
    since = ""
    await server.device(ALICE, "PHONE")
    await send(3)
    # Whoever deleted it tells the writer only now.
    await server.inboxes.forget(ALICE, [])
    await send(4)
    await send(5)
    await server.log_out(ALICE, "PHONE")
    since = ""
    await server.device(ALICE, "PHONE")
    await send(6)

    assert got == [1, 2, 3, 4, 5, 6]
