// Two people with real encryption: keys, secrets, backups, verification, files, new devices.

import { Attachment, EncryptedAttachment } from "@matrix-org/matrix-sdk-crypto-wasm";

import { asked, compareEmoji, find, meet, say } from "./talking.mjs";
import { PASSWORD, logIn, provingPassword, register, run, until, wander } from "./wandering.mjs";

const tag = process.env.HS_TAG;
const people = {};
let roomId, secret;

/** Make keys for cross-signing, secret storage and a backup of room keys. */
async function secure(client) {
  const crypto = client.getCrypto();
  await crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: provingPassword(client) });
  const made = await crypto.createRecoveryKeyFromPassphrase();
  await crypto.bootstrapSecretStorage({
    createSecretStorageKey: async () => made,
    setupNewKeyBackup: true,
  });
  await until("cross-signing is ready", () => crypto.isCrossSigningReady());
  await until("secrets are stored", () => crypto.isSecretStorageReady());
  await until("a backup", () => crypto.getActiveSessionBackupVersion());
  return made.privateKey;
}

async function register_both() {
  people.alice = await register(`alice-${tag}`);
  people.bob = await register(`bob-${tag}`);
}

async function make_keys_and_secrets() {
  secret = await secure(people.alice);
  await secure(people.bob);
}

async function talk_both_ways() {
  const { alice, bob } = people;
  roomId = await meet(alice, bob);
  await say(alice, roomId, "hello Bob", alice, bob);
  await say(bob, roomId, "hello Alice", alice, bob);
}

async function verify_each_other_in_a_room() {
  const { alice, bob } = people;
  const coming = asked(bob);
  const request = await alice.getCrypto().requestVerificationDM(bob.getUserId(), roomId);
  await compareEmoji(request, await coming);
  for (const [one, other] of [[alice, bob], [bob, alice]]) {
    await until(`${other.getUserId()} is verified`, async () => {
      const status = await one.getCrypto().getUserVerificationStatus(other.getUserId());
      return status.isCrossSigningVerified();
    });
  }
}

async function send_an_encrypted_file() {
  const { alice, bob } = people;
  const plain = crypto.getRandomValues(new Uint8Array(50_000));
  const sealed = Attachment.encrypt(plain);
  const info = JSON.parse(sealed.mediaEncryptionInfo);
  const { content_uri: url } = await alice.uploadContent(Buffer.from(sealed.encryptedData), {
    type: "application/octet-stream",
    includeFilename: false,
  });
  const content = { msgtype: "m.file", body: "noise.bin", file: { ...info, url, v: "v2" } };
  await alice.sendEvent(roomId, "m.room.message", content);
  const event = await until("the file", () => find(bob, roomId, "noise.bin"));
  const { file } = event.getContent();
  const address = bob.mxcUrlToHttp(file.url, undefined, undefined, undefined, false, true, true);
  const headers = { Authorization: `Bearer ${bob.getAccessToken()}` };
  const answer = await wander(address, { headers });
  if (answer.status !== 200) throw new Error(`${answer.status} ${await answer.text()}`);
  const body = new Uint8Array(await answer.arrayBuffer());
  const opened = Attachment.decrypt(new EncryptedAttachment(body, JSON.stringify(file)));
  if (Buffer.compare(plain, opened) !== 0) throw new Error("another file came back");
}

async function back_up_all_keys() {
  for (const client of [people.alice, people.bob]) {
    await until("both sides' keys are in the backup", async () => {
      const version = await client.getCrypto().getActiveSessionBackupVersion();
      const path = "/room_keys/version/" + version;
      const { count } = await client.http.authedRequest("GET", path);
      return count >= 2;
    });
  }
}

/** Read what was said before a device was there. */
async function read_history(client) {
  const room = await until("the room", () => client.getRoom(roomId));
  await client.scrollback(room, 50);
  for (const text of ["hello Bob", "hello Alice", "noise.bin"]) {
    await until(`${text} is read`, () => find(client, roomId, text));
  }
}

/** Have a new device sign itself with the keys of secret storage. */
async function trust_itself(client) {
  const crypto = client.getCrypto();
  // It asks for its own public keys, without which private ones are no use.
  await until("its user's keys", () => crypto.userHasCrossSigningKeys());
  await crypto.bootstrapCrossSigning({});
  await until("cross-signing is ready", () => crypto.isCrossSigningReady());
}

async function recover_on_a_new_device() {
  const laptop = (people.laptop = await logIn(people.alice.getUserId(), secret));
  const crypto = laptop.getCrypto();
  await trust_itself(laptop);
  await crypto.loadSessionBackupPrivateKeyFromSecretStorage();
  await crypto.checkKeyBackupAndEnable();
  const { imported, total } = await crypto.restoreKeyBackup();
  if (imported < 2 || imported !== total) throw new Error(`${imported} of ${total} keys`);
  await read_history(laptop);
  await until("Bob trusts the laptop", async () => {
    const status = await people.bob
      .getCrypto()
      .getDeviceVerificationStatus(laptop.getUserId(), laptop.getDeviceId());
    return status?.crossSigningVerified;
  });
  await say(laptop, roomId, "from my laptop", people.alice, people.bob);
  await say(people.bob, roomId, "to both of yours", people.alice, laptop);
}

async function verify_a_new_device_by_emoji() {
  const { alice, laptop } = people;
  const tablet = (people.tablet = await logIn(alice.getUserId()));
  const crypto = tablet.getCrypto();
  const comings = [asked(alice), asked(laptop)];
  const request = await crypto.requestOwnUserVerification();
  const [first] = await Promise.all(comings);
  await compareEmoji(request, first);
  await until("all private keys came", async () => {
    const { privateKeysCachedLocally: keys } = await crypto.getCrossSigningStatus();
    return keys.masterKey && keys.selfSigningKey && keys.userSigningKey;
  });
  await until("the backup's key came", () => crypto.getActiveSessionBackupVersion());
  await until("the tablet is verified", async () => {
    const status = await alice
      .getCrypto()
      .getDeviceVerificationStatus(tablet.getUserId(), tablet.getDeviceId());
    return status?.crossSigningVerified;
  });
  await read_history(tablet);
}

async function leave_a_dehydrated_device() {
  const { alice, bob, laptop, tablet } = people;
  const crypto = alice.getCrypto();
  if (!(await crypto.isDehydrationSupported())) throw new Error("not supported");
  await crypto.startDehydration();
  await until("Bob knows it", async () => {
    const known = await bob.getCrypto().getUserDeviceInfo([alice.getUserId()]);
    return [...known.get(alice.getUserId()).values()].some((device) => device.dehydrated);
  });
  for (const client of [alice, laptop, tablet]) {
    client.stopClient();
    await client.logout();
  }
  await until("Bob knows that the others are gone", async () => {
    const known = await bob.getCrypto().getUserDeviceInfo([alice.getUserId()]);
    return known.get(alice.getUserId()).size === 1;
  });
  await say(bob, roomId, "while you were away", bob);
}

async function rehydrate() {
  const back = (people.back = await logIn(people.alice.getUserId(), secret));
  await trust_itself(back);
  await back.getCrypto().startDehydration();
  await read_history_after(back);
}

async function read_history_after(client) {
  const room = await until("the room", () => client.getRoom(roomId));
  await client.scrollback(room, 50);
  await until("what was sent to nobody is read", () => find(client, roomId, "while you were away"));
}

async function begin_anew() {
  const { back, bob } = people;
  await back.getCrypto().resetEncryption(provingPassword(back));
  await until("Bob sees a new identity", async () => {
    const status = await bob.getCrypto().getUserVerificationStatus(back.getUserId());
    return status.wasCrossSigningVerified() && !status.isCrossSigningVerified();
  });
  const crypto = bob.getCrypto();
  await crypto.withdrawVerificationRequirement(back.getUserId());
  await say(bob, roomId, "is that you?", back);
}

async function remove_a_device() {
  const other = await logIn(people.bob.getUserId());
  const device = other.getDeviceId();
  other.stopClient();
  await provingPassword(people.bob)((auth) => people.bob.deleteDevice(device, auth ?? undefined));
  await until("Alice sees it gone", async () => {
    const known = await people.back.getCrypto().getUserDeviceInfo([people.bob.getUserId()]);
    return known.get(people.bob.getUserId()).size === 1;
  });
}

await run(
  Object.entries({
    register_both,
    make_keys_and_secrets,
    talk_both_ways,
    verify_each_other_in_a_room,
    send_an_encrypted_file,
    back_up_all_keys,
    recover_on_a_new_device,
    verify_a_new_device_by_emoji,
    leave_a_dehydrated_device,
    rehydrate,
    begin_anew,
    remove_a_device,
  }),
);
