// Encryption between two users: keys, secrets, backups, verification, files, new devices.

import { Attachment, EncryptedAttachment } from "@matrix-org/matrix-sdk-crypto-wasm";

import {
  compareEmoji,
  createEncryptedRoom,
  findMessage,
  say,
  verificationRequest,
} from "./room_actions.mjs";
import { fetchFromAny, logIn, register, run, until, withPassword } from "./clients.mjs";

const tag = process.env.HS_TAG;
const people = {};
let roomId, secret;

/** Set up cross-signing, secret storage and key backup; return the recovery key. */
async function setUpSecrets(client) {
  const crypto = client.getCrypto();
  await crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: withPassword(client) });
  const recoveryKey = await crypto.createRecoveryKeyFromPassphrase();
  await crypto.bootstrapSecretStorage({
    createSecretStorageKey: async () => recoveryKey,
    setupNewKeyBackup: true,
  });
  await until("cross-signing is ready", () => crypto.isCrossSigningReady());
  await until("secrets are stored", () => crypto.isSecretStorageReady());
  await until("a backup", () => crypto.getActiveSessionBackupVersion());
  return recoveryKey.privateKey;
}

async function register_both() {
  people.alice = await register(`alice-${tag}`);
  people.bob = await register(`bob-${tag}`);
}

async function set_up_keys_and_secrets() {
  secret = await setUpSecrets(people.alice);
  await setUpSecrets(people.bob);
}

async function exchange_messages() {
  const { alice, bob } = people;
  roomId = await createEncryptedRoom(alice, bob);
  await say(alice, roomId, "hello Bob", alice, bob);
  await say(bob, roomId, "hello Alice", alice, bob);
}

async function verify_each_other_in_a_room() {
  const { alice, bob } = people;
  const incomingRequest = verificationRequest(bob);
  const request = await alice.getCrypto().requestVerificationDM(bob.getUserId(), roomId);
  await compareEmoji(request, await incomingRequest);
  for (const [verifier, verified] of [[alice, bob], [bob, alice]]) {
    await until(`${verified.getUserId()} is verified`, async () => {
      const status = await verifier.getCrypto().getUserVerificationStatus(verified.getUserId());
      return status.isCrossSigningVerified();
    });
  }
}

async function send_an_encrypted_file() {
  const { alice, bob } = people;
  const content = crypto.getRandomValues(new Uint8Array(50_000));
  const encrypted = Attachment.encrypt(content);
  const info = JSON.parse(encrypted.mediaEncryptionInfo);
  const { content_uri: url } = await alice.uploadContent(Buffer.from(encrypted.encryptedData), {
    type: "application/octet-stream",
    includeFilename: false,
  });
  const eventContent = { msgtype: "m.file", body: "noise.bin", file: { ...info, url, v: "v2" } };
  await alice.sendEvent(roomId, "m.room.message", eventContent);
  const event = await until("the file", () => findMessage(bob, roomId, "noise.bin"));
  const { file } = event.getContent();
  const address = bob.mxcUrlToHttp(file.url, undefined, undefined, undefined, false, true, true);
  const headers = { Authorization: `Bearer ${bob.getAccessToken()}` };
  const answer = await fetchFromAny(address, { headers });
  if (answer.status !== 200) throw new Error(`${answer.status} ${await answer.text()}`);
  const body = new Uint8Array(await answer.arrayBuffer());
  const decrypted = Attachment.decrypt(new EncryptedAttachment(body, JSON.stringify(file)));
  if (Buffer.compare(content, decrypted) !== 0) throw new Error("the downloaded file differs");
}

async function back_up_all_keys() {
  for (const client of [people.alice, people.bob]) {
    await until("the keys of both users are in the backup", async () => {
      const version = await client.getCrypto().getActiveSessionBackupVersion();
      const path = "/room_keys/version/" + version;
      const { count } = await client.http.authedRequest("GET", path);
      return count >= 2;
    });
  }
}

/** Read the messages that were sent before the device was logged in. */
async function readHistory(client) {
  const room = await until("the room", () => client.getRoom(roomId));
  await client.scrollback(room, 50);
  for (const text of ["hello Bob", "hello Alice", "noise.bin"]) {
    await until(`${text} is read`, () => findMessage(client, roomId, text));
  }
}

/** Make a new device sign itself with the keys from secret storage. */
async function signOwnDevice(client) {
  const crypto = client.getCrypto();
  // The private keys are of no use until the client has queried the public keys.
  await until("the cross-signing keys of the user", () => crypto.userHasCrossSigningKeys());
  await crypto.bootstrapCrossSigning({});
  await until("cross-signing is ready", () => crypto.isCrossSigningReady());
}

async function recover_on_a_new_device() {
  const laptop = (people.laptop = await logIn(people.alice.getUserId(), secret));
  const crypto = laptop.getCrypto();
  await signOwnDevice(laptop);
  await crypto.loadSessionBackupPrivateKeyFromSecretStorage();
  await crypto.checkKeyBackupAndEnable();
  const { imported, total } = await crypto.restoreKeyBackup();
  if (imported < 2 || imported !== total) throw new Error(`${imported} of ${total} keys`);
  await readHistory(laptop);
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
  const incomingRequests = [verificationRequest(alice), verificationRequest(laptop)];
  const request = await crypto.requestOwnUserVerification();
  const [first] = await Promise.all(incomingRequests);
  await compareEmoji(request, first);
  await until("all private keys are received", async () => {
    const { privateKeysCachedLocally: keys } = await crypto.getCrossSigningStatus();
    return keys.masterKey && keys.selfSigningKey && keys.userSigningKey;
  });
  await until("the backup key is received", () => crypto.getActiveSessionBackupVersion());
  await until("the tablet is verified", async () => {
    const status = await alice
      .getCrypto()
      .getDeviceVerificationStatus(tablet.getUserId(), tablet.getDeviceId());
    return status?.crossSigningVerified;
  });
  await readHistory(tablet);
}

async function leave_a_dehydrated_device() {
  const { alice, bob, laptop, tablet } = people;
  const crypto = alice.getCrypto();
  if (!(await crypto.isDehydrationSupported())) throw new Error("dehydration is not supported");
  await crypto.startDehydration();
  await until("Bob knows the dehydrated device", async () => {
    const devices = await bob.getCrypto().getUserDeviceInfo([alice.getUserId()]);
    return [...devices.get(alice.getUserId()).values()].some((device) => device.dehydrated);
  });
  for (const client of [alice, laptop, tablet]) {
    client.stopClient();
    await client.logout();
  }
  await until("Bob knows that the other devices are deleted", async () => {
    const devices = await bob.getCrypto().getUserDeviceInfo([alice.getUserId()]);
    return devices.get(alice.getUserId()).size === 1;
  });
  await say(bob, roomId, "while you were away", bob);
}

async function rehydrate() {
  const newDevice = (people.newDevice = await logIn(people.alice.getUserId(), secret));
  await signOwnDevice(newDevice);
  await newDevice.getCrypto().startDehydration();
  await readDehydratedMessage(newDevice);
}

async function readDehydratedMessage(client) {
  const room = await until("the room", () => client.getRoom(roomId));
  await client.scrollback(room, 50);
  await until("the message to the dehydrated device is read", () =>
    findMessage(client, roomId, "while you were away"),
  );
}

async function reset_identity() {
  const { newDevice, bob } = people;
  await newDevice.getCrypto().resetEncryption(withPassword(newDevice));
  await until("Bob sees a new identity", async () => {
    const status = await bob.getCrypto().getUserVerificationStatus(newDevice.getUserId());
    return status.wasCrossSigningVerified() && !status.isCrossSigningVerified();
  });
  const crypto = bob.getCrypto();
  await crypto.withdrawVerificationRequirement(newDevice.getUserId());
  await say(bob, roomId, "is that you?", newDevice);
}

async function remove_a_device() {
  const secondDevice = await logIn(people.bob.getUserId());
  const deviceId = secondDevice.getDeviceId();
  secondDevice.stopClient();
  await withPassword(people.bob)((auth) => people.bob.deleteDevice(deviceId, auth ?? undefined));
  await until("Alice sees that the device is deleted", async () => {
    const devices = await people.newDevice.getCrypto().getUserDeviceInfo([people.bob.getUserId()]);
    return devices.get(people.bob.getUserId()).size === 1;
  });
}

await run(
  Object.entries({
    register_both,
    set_up_keys_and_secrets,
    exchange_messages,
    verify_each_other_in_a_room,
    send_an_encrypted_file,
    back_up_all_keys,
    recover_on_a_new_device,
    verify_a_new_device_by_emoji,
    leave_a_dehydrated_device,
    rehydrate,
    reset_identity,
    remove_a_device,
  }),
);
