"""Scripts in which a planted bug shows, whatever the order of everything else.

Each one makes the fault happen that a rule of hs.repl is there for. What is checked at its end is
the same as after a run by chance.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from itertools import combinations
from typing import Final

import attrs
import trio

from hs.repl.calls.sender import RESTART_S
from hs.repl.leases import ATTEMPT_S
from hs.repl.rpc import DEFAULT_TIMEOUT_S
from hs.settings.sections.workers import STREAMS
from tests.worker_simulation.bus import BusFaults
from tests.worker_simulation.database import DatabaseFaults, Point
from tests.worker_simulation.plans import Plan
from tests.worker_simulation.processes import Life, SimulatedProcess, Trap
from tests.worker_simulation.scenario import Scene, Script
from tests.worker_simulation.users import Room, User
from tests.worker_simulation.wires import WireFaults

PERSISTERS: Final = ("persister1", "persister2")
SLOW_RENEWAL_S: Final = ATTEMPT_S - 0.1
TAKEN_AFTER_S: Final = 16.0
"""A process that hangs this long has lost its slots and leases."""

PLAN: Final = Plan(
    names=("main", "sync1", *PERSISTERS),
    writers={**dict.fromkeys(STREAMS, ("main",)), "events": PERSISTERS},
    backgrounds=("main", "sync1"),
    pushers=("main",),
    internal=PERSISTERS,
    skews_ms=(0, 0, 0, 0),
    sees_deaths=False,
    bus=BusFaults(),
    latency_s=0.0,
    wires=WireFaults(),
    database=DatabaseFaults(slow=0.0),
    restarts=False,
    incidents=(),
    pause_s=1.0,
    most=0,
    users=3,
    actions=0,
)
ONE_WRITER: Final = attrs.evolve(PLAN, writers={**PLAN.writers, "events": PERSISTERS[:1]})


def _owner(scene: Scene, room: Room) -> SimulatedProcess:
    return _owner_of(scene, "events", room.room_id)


def _owner_of(scene: Scene, stream: str, key: str) -> SimulatedProcess:
    main = scene.cluster.processes["main"].life
    assert main is not None
    assert main.process is not None
    slots = main.process.base.slots
    names = scene.plan.writers[stream]
    name = names[0] if slots is None or len(names) == 1 else slots.table.holder(stream, key)
    return scene.cluster.processes[name]


def _life(process: SimulatedProcess) -> Life:
    assert process.life is not None
    return process.life


async def _send(scene: Scene, *rooms: Room) -> None:
    """Let a user send to each room at the same time, through the processes that clients reach."""
    async with trio.open_nursery() as nursery:
        for user, room in zip(scene.users, rooms, strict=False):
            nursery.start_soon(user.send, room)


async def _move(scene: Scene) -> None:
    """Have the slots of all rooms handed over to the other process."""
    scene.cluster.shares.turn()
    for name in PERSISTERS:
        await _in_process(_life(scene.cluster.processes[name]), "rebalance")


async def _in_process(life: Life, method: str) -> None:
    done = trio.Event()

    async def work() -> None:
        await getattr(life, method)()
        done.set()

    life.start_soon(work)
    await done.wait()


async def hang_in_commit(scene: Scene) -> None:
    """The owner of a room hangs while it commits, and others take the room over meanwhile."""
    rooms, freezer = scene.rooms[:2], scene.cluster.freezer
    life = _life(_owner(scene, rooms[0]))
    life.trap = Trap(Point.BEFORE_COMMIT, "events", partial(freezer.freeze, life))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_send, scene, *rooms)
        await trio.sleep(TAKEN_AFTER_S)
    await _send(scene, *rooms)
    freezer.resume(life)
    await trio.sleep(5)


async def hang_before_batch(scene: Scene) -> None:
    """The owner of two rooms hangs while a message waits for a commit of the other room."""
    owners = [_owner(scene, room) for room in scene.rooms]
    first, second = next(
        pair for pair in combinations(range(len(owners)), 2) if owners[pair[0]] is owners[pair[1]]
    )
    founder, rooms = scene.users[0], (scene.rooms[first], scene.rooms[second])
    await _hang_before_second(
        scene, owners[first], "events", *(partial(founder.send, room) for room in rooms)
    )


async def hang_before_job(scene: Scene) -> None:
    """The owner of a user hangs while account data waits for a commit of other account data."""
    user, room = scene.users[0], scene.rooms[0]
    owner = _owner_of(scene, "account_data", user.user_id)
    works = (partial(user.count, None), partial(user.count, room))
    await _hang_before_second(scene, owner, "account_data", *works)


async def _hang_before_second(
    scene: Scene,
    process: SimulatedProcess,
    stream: str,
    first: Callable[[], Awaitable[None]],
    second: Callable[[], Awaitable[None]],
) -> None:
    """Let a process hang that has accepted two writes, and others do them meanwhile.

    The commit of the first ends only after the process has got a new generation.
    """
    life, freezer = _life(process), scene.cluster.freezer
    life.trap = Trap(Point.BEFORE_COMMIT, stream, _nothing, pause_s=2 * TAKEN_AFTER_S)
    ends_at = trio.current_time() + 2 * TAKEN_AFTER_S
    async with trio.open_nursery() as nursery:
        for work in (first, second):
            nursery.start_soon(work)
            await trio.sleep(0.5)
        freezer.freeze(life)
        await trio.sleep(TAKEN_AFTER_S)
    await second()
    freezer.resume(life)
    await trio.sleep_until(ends_at + 3)


async def be_replaced_in_commit(scene: Scene) -> None:
    """The only writer hangs while it commits, and another process takes its name meanwhile."""
    room, freezer = scene.rooms[0], scene.cluster.freezer
    process = _owner(scene, room)
    life = process.abandon()
    life.trap = Trap(Point.BEFORE_COMMIT, "events", partial(freezer.freeze, life))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_send, scene, room)
        await trio.sleep(0.1)
        await process.start()
    await _send(scene, room)
    freezer.resume(life)
    with trio.move_on_after(30):
        await life.ended.wait()
    await scene.cluster.end_life(life)


async def die_in_commit(scene: Scene) -> None:
    """The owner of a room dies before a commit, a moment after it has sent all statements."""
    room, process = scene.rooms[0], _owner(scene, scene.rooms[0])
    life = _life(process)

    async def die_soon() -> None:
        await trio.sleep(0.5)
        life.die()

    die = partial(scene.cluster.nursery.start_soon, die_soon)
    life.trap = Trap(Point.BEFORE_COMMIT, "events", die, pause_s=1.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_send, scene, room)
        await trio.sleep(2)
        await process.kill()
        await process.start()


async def lose_answer_of_commit(scene: Scene) -> None:
    """The connection to the database breaks after a commit."""
    room = scene.rooms[0]
    _life(_owner(scene, room)).trap = Trap(Point.AFTER_COMMIT, "events", _nothing, breaks=True)
    await _send(scene, room)
    await _send(scene, room)


async def lose_rows_and_move(scene: Scene) -> None:
    """The messages about rows are lost, and the room passes to another process."""
    room, bus = scene.rooms[0], scene.cluster.bus
    await _send(scene, room)
    await _move(scene)
    await _send(scene, room)
    await _move(scene)
    await _send(scene, room)
    bus.faults = BusFaults(lost=1.0)
    await _tell(scene.users[0], room, "main")
    await _move(scene)
    await trio.sleep(3)  # until the next owner has found out by itself
    bus.faults = BusFaults()
    await _tell(scene.users[0], room, "main")
    await _send(scene, room)


async def get_room_behind(scene: Scene) -> None:
    """A process gets a room, and the messages about its last rows were lost."""
    room, bus, reader = scene.rooms[0], scene.cluster.bus, scene.users[-1]
    owner = _owner(scene, room)
    (taker,) = (name for name in PERSISTERS if name != owner.name)
    before = await reader.ask_sync("", at=taker)
    assert before is not None
    bus.faults = BusFaults(lost=1.0)
    await _tell(scene.users[0], room, "main")
    bus.faults = BusFaults()
    scene.cluster.shares.turn()
    await _in_process(_life(owner), "rebalance")
    await _tell(scene.users[0], room, "main")
    after = await reader.ask_sync(before["next_batch"], at=taker)
    if str(after).count("'body': 'told ") != 2:
        scene.cluster.problems.append(f"{taker} sent not both messages, but {after}")


async def _tell(user: User, room: Room, at: str) -> None:
    """Send a message, and do nothing else that would make up for lost messages of processes."""
    text = f"told {user.requests.number()}"
    path = ("rooms", room.room_id, "send", "m.room.message", text)
    await user.ask("PUT", *path, at=at, json={"msgtype": "m.text", "body": text})


async def move_in_commit(scene: Scene) -> None:
    """The room is to pass to another process while a commit takes long."""
    room = scene.rooms[0]
    life = _life(_owner(scene, room))
    life.trap = Trap(Point.BEFORE_COMMIT, "events", _nothing, pause_s=2.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.users[0].send, room)
        await trio.sleep(0.5)
        await _move(scene)
        nursery.start_soon(scene.users[1].send, room)


async def lose_reply_of_owner(scene: Scene) -> None:
    """The connections to the owner of a room break after a commit, before it answers."""
    room, wires = scene.rooms[-1], scene.cluster.wires
    founder, _, member = scene.users
    life = _life(_owner(scene, room))
    life.trap = Trap(Point.AFTER_COMMIT, "events", partial(wires.cut_all, life))
    target = {"user_id": member.user_id}
    response = await founder.ask("POST", "rooms", room.room_id, "kick", json=target)
    if response.status != 200:
        scene.cluster.problems.append(f"the kick was not done once: {response.body!r}")


async def lose_database(scene: Scene) -> None:
    """A process that has leases is cut off from the database."""
    life = _life(scene.cluster.processes["main"])
    life.is_cut_off = True
    await trio.sleep(2 * TAKEN_AFTER_S)
    life.is_cut_off = False


async def renew_slowly(scene: Scene) -> None:
    """The renewal of leases takes long, and after it there is no database."""
    life = _life(scene.cluster.processes["main"])

    async def cut_off_then() -> None:
        await trio.sleep(SLOW_RENEWAL_S + 0.01)
        life.is_cut_off = True

    act = partial(scene.cluster.nursery.start_soon, cut_off_then)
    life.trap = Trap(Point.AFTER_RENEWAL, None, act, pause_s=SLOW_RENEWAL_S)
    await trio.sleep(2 * TAKEN_AFTER_S)
    life.is_cut_off = False


async def hang(scene: Scene) -> None:
    """The only writer hangs, and its announcements that it stops are repeated."""
    room, cluster = scene.rooms[0], scene.cluster
    process = _owner(scene, room)
    life = _life(process)
    cluster.freezer.freeze(life)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_send, scene, room)
        for _ in range(5):
            cluster.bus.repeat_farewells(process.name)
            await trio.sleep(8)
        cluster.freezer.resume(life)
        life.hindered_until = trio.current_time()


async def restart_unreachable(scene: Scene) -> None:
    """A writer restarts again and again, which it announces, and nothing can connect to it."""
    user, wires = scene.users[0], scene.cluster.wires
    process, locate = scene.cluster.processes["persister1"], wires.locate
    wires.locate = lambda name: None if name == process.name else locate(name)
    wires.cut_all(_life(process))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_restart, process)
        began = trio.current_time()
        path = ("pushrules", "global", "sender", "@nobody:elsewhere.example")
        rule = {"actions": ["notify"]}
        await user.requests.try_once(user.token, "PUT", *path, at="main", json=rule)
        took_s = trio.current_time() - began
    wires.locate = locate
    if took_s > DEFAULT_TIMEOUT_S + 1:
        scene.cluster.problems.append(f"main gave a call up after {took_s:.0f} s")


async def _restart(process: SimulatedProcess) -> None:
    for _ in range(5):
        await process.stop()
        await process.start()
        await trio.sleep(RESTART_S / 2)


async def read_at_once(scene: Scene) -> None:
    """A user reads what was just changed, at once."""
    user, room = scene.users[0], scene.rooms[0]
    for _ in range(4):
        await user.set_topic(room)
        await user.count(room)
        await user.add_rule()
        await user.send(room)


def _nothing() -> None:
    pass


@attrs.frozen
class Case:
    """A script with its plan, and the planted bugs that it must find."""

    script: Script
    bugs: tuple[str, ...]
    plan: Plan = PLAN


_RULES_APART: Final = attrs.evolve(PLAN, writers={**PLAN.writers, "push_rules": PERSISTERS[:1]})
_SHARED_USERS: Final = attrs.evolve(PLAN, writers={**PLAN.writers, "account_data": PERSISTERS})
_ALL_SERVE: Final = attrs.evolve(PLAN, internal=())
_DEAF: Final = attrs.evolve(PLAN, bus=BusFaults(lost=1.0))
_SLOW_BUS: Final = attrs.evolve(PLAN, latency_s=0.25)
_RESTARTED: Final = attrs.evolve(ONE_WRITER, restarts=True)

CASES: Final = (
    Case(hang_in_commit, ("no-fence",)),
    Case(hang_before_batch, ("void-batches", "void-work")),
    Case(hang_before_job, ("void-jobs",), _SHARED_USERS),
    Case(be_replaced_in_commit, ("no-generation",), ONE_WRITER),
    Case(die_in_commit, ("early-publication",)),
    Case(lose_answer_of_commit, ("unknown-is-failed", "unknown-is-repeated")),
    Case(lose_rows_and_move, ("skipped-gap", "no-barrier")),
    Case(get_room_behind, ("early-slots",), _ALL_SERVE),
    Case(move_in_commit, ("busy-slots",)),
    Case(lose_reply_of_owner, ("repeated-calls",)),
    Case(lose_database, ("endless-lease",)),
    Case(renew_slowly, ("long-lease",), attrs.evolve(PLAN, skews_ms=(-1000, 1000, 0, 0))),
    Case(hang, ("replayed-messages", "hung-owner", "endless-calls"), _RESTARTED),
    Case(restart_unreachable, ("calls-without-deadline",), _RULES_APART),
    Case(read_at_once, ("reply-before-rows",), _SLOW_BUS),
    Case(read_at_once, ("stale-reads",), _DEAF),
)
