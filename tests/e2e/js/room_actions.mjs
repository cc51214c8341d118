// Actions of clients in rooms: send and read messages, verify each other.

import { nextEvent, until, within } from "./clients.mjs";

/** Create an encrypted room that all guests join; return its ID. */
export async function createEncryptedRoom(host, ...guests) {
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

/** Return the decrypted message with this text in a room, if there is one. */
export function findMessage(client, roomId, text) {
  const events = client.getRoom(roomId)?.getLiveTimeline().getEvents() ?? [];
  return events.find((event) => event.getContent().body === text && !event.isDecryptionFailure());
}

/** Send a message and wait until all readers have decrypted it. */
export async function say(client, roomId, text, ...readers) {
  await client.sendTextMessage(roomId, text);
  for (const reader of readers) {
    const event = await until(`${reader.getUserId()} reads ${text}`, () =>
      findMessage(reader, roomId, text),
    );
    if (!event.isEncrypted()) throw new Error(`${text} was not encrypted`);
  }
}

/** Verify two devices by emoji, given the request of each side. */
export async function compareEmoji(sentRequest, receivedRequest) {
  await receivedRequest.accept();
  await until("the request is accepted", () => sentRequest.phase >= 3);
  const verifier = await sentRequest.startVerification("m.sas.v1");
  await until("the other side has begun", () => receivedRequest.verifier);
  const sides = [verifier, receivedRequest.verifier];
  const shown = [];
  const confirmed = sides.map(async (side, index) => {
    const verified = side.verify();
    // The waits below report a failure first; until then it must not end the process.
    verified.catch(() => {});
    const sas = await until("emoji", () => side.getShowSasCallbacks());
    shown[index] = JSON.stringify(sas.sas.emoji);
    await until("emoji on both sides", () => shown[0] && shown[1]);
    if (shown[0] !== shown[1]) throw new Error(`different emoji: ${shown}`);
    await sas.confirm();
    await within("the verification", verified);
  });
  await Promise.all(confirmed);
  await until("both sides are done", () => sentRequest.phase === 6 && receivedRequest.phase === 6);
}

/** Return the next verification request that a client receives. */
export async function verificationRequest(client) {
  const name = "crypto.verificationRequestReceived";
  const [request] = await nextEvent("a verification request", client, name);
  return request;
}
