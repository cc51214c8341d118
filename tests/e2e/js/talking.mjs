// What people do in rooms, asked of a client: say, hear, verify each other.

import { heard, until, within } from "./wandering.mjs";

/** Make an encrypted room and have others join it; give its ID. */
export async function meet(host, ...guests) {
  const algorithm = "m.megolm.v1.aes-sha2";
  const { room_id: roomId } = await host.createRoom({
    preset: "private_chat",
    invite: guests.map((guest) => guest.getUserId()),
    initial_state: [{ type: "m.room.encryption", state_key: "", content: { algorithm } }],
  });
  for (const guest of guests) {
    await until("the invitation", () => guest.getRoom(roomId)?.getMyMembership() === "invite");
    await guest.joinRoom(roomId);
  }
  for (const client of [host, ...guests]) {
    await until("all members", () => client.getRoom(roomId)?.getJoinedMemberCount() === guests.length + 1);
    await until("encryption", () => client.getCrypto().isEncryptionEnabledInRoom(roomId));
  }
  return roomId;
}

/** Find a message of a room by its text among what was decrypted. */
export function find(client, roomId, text) {
  const events = client.getRoom(roomId)?.getLiveTimeline().getEvents() ?? [];
  return events.find((event) => event.getContent().body === text && !event.isDecryptionFailure());
}

/** Have one client say something and others read it, encrypted on its way. */
export async function say(client, roomId, text, ...readers) {
  await client.sendTextMessage(roomId, text);
  for (const reader of readers) {
    const event = await until(`${reader.getUserId()} reads ${text}`, () => find(reader, roomId, text));
    if (!event.isEncrypted()) throw new Error(`${text} was not encrypted`);
  }
}

/** Compare emoji on both sides of a verification that one has asked the other for. */
export async function compareEmoji(asking, asked) {
  await asked.accept();
  await until("the request is accepted", () => asking.phase >= 3);
  const verifier = await asking.startVerification("m.sas.v1");
  await until("the other side has begun", () => asked.verifier);
  const sides = [verifier, asked.verifier];
  const shown = [];
  const confirmed = sides.map(async (side, index) => {
    const proved = side.verify();
    // What fails is told by the wait below first; this keeps it from ending the process.
    proved.catch(() => {});
    const sas = await until("emoji", () => side.getShowSasCallbacks());
    shown[index] = JSON.stringify(sas.sas.emoji);
    await until("emoji on both sides", () => shown[0] && shown[1]);
    if (shown[0] !== shown[1]) throw new Error(`different emoji: ${shown}`);
    await sas.confirm();
    await within("the verification", proved);
  });
  await Promise.all(confirmed);
  await until("both sides are done", () => asking.phase === 6 && asked.phase === 6);
}

/** Wait for a request to verify that comes to a client. */
export async function asked(client) {
  const [request] = await heard("a request to verify", client, "crypto.verificationRequestReceived");
  return request;
}
