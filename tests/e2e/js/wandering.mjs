// Clients of matrix-js-sdk, unmodified, whose every request goes to another process of the server.

import { setTimeout as pause } from "node:timers/promises";

import * as sdk from "matrix-js-sdk";
import { logger as everywhere } from "matrix-js-sdk/lib/logger.js";
import { SlidingSync } from "matrix-js-sdk/lib/sliding-sync.js";

const URLS = JSON.parse(process.env.HS_URLS);
const LIMIT_MS = Number(process.env.HS_LIMIT_MS ?? 120_000);
export const PASSWORD = "correct horse battery staple";

// HS_JS_LOG=debug tells what the clients do.
everywhere.setLevel(process.env.HS_JS_LOG ?? "silent");
const logger = everywhere;

// A client that was stopped lets its last thoughts fail.
process.on("unhandledRejection", (error) => {
  if (error instanceof sdk.ClientStoppedError) return;
  console.log(`failed outside of any step: ${error?.stack ?? error}`);
  process.exit(1);
});

const ORDERED = /\/sendToDevice\/|\/send\/m\.key\.verification\./;
let last = Promise.resolve();

/** Send a request to any process: its path is what counts. */
export async function wander(resource, options) {
  const wished = new URL(resource);
  const any = URLS[Math.floor(Math.random() * URLS.length)];
  const ask = () => fetch(new URL(wished.pathname + wished.search, any), options);
  if (!ORDERED.test(wished.pathname)) return ask();
  // The steps of a verification must come in their order, yet the client does not wait for the
  // answer to one before it sends the next, trusting that people are slow.
  return (last = last.then(ask, ask));
}

/** Give what a promise brings, unless that takes too long. */
export async function within(what, promise) {
  const late = pause(LIMIT_MS, undefined, { ref: false }).then(() => {
    throw new Error(`never done: ${what}`);
  });
  return Promise.race([promise, late]);
}

/** Wait until `look` gives something true, and give that; `what` names it when it never does. */
export async function until(what, look) {
  const deadline = Date.now() + LIMIT_MS;
  let last;
  while (Date.now() < deadline) {
    try {
      const found = await look();
      if (found) return found;
      last = found;
    } catch (error) {
      last = error;
    }
    await pause(50);
  }
  throw new Error(`never came: ${what}; at last ${last?.stack ?? JSON.stringify(last)}`);
}

/** Wait for one event of an emitter that passes a test. */
export function heard(what, emitter, name, passes = () => true) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      emitter.off(name, listen);
      reject(new Error(`never heard: ${what}`));
    }, LIMIT_MS);
    function listen(...told) {
      if (!passes(...told)) return;
      clearTimeout(timer);
      emitter.off(name, listen);
      resolve(told);
    }
    emitter.on(name, listen);
  });
}

/** Register a user; give its running client. */
export async function register(username) {
  const anyone = sdk.createClient({ baseUrl: URLS[0], fetchFn: wander, logger });
  const auth = { type: "m.login.dummy" };
  const session = await anyone.registerRequest({ username, password: PASSWORD, auth });
  return start(session);
}

/** Log a user in on a new device that knows nothing but `recoveryKey`; give its running client. */
export async function logIn(user, recoveryKey) {
  const anyone = sdk.createClient({ baseUrl: URLS[0], fetchFn: wander, logger });
  const identifier = { type: "m.id.user", user };
  const wish = { type: "m.login.password", identifier, password: PASSWORD };
  return start(await anyone.loginRequest(wish), recoveryKey);
}

async function start(session, recoveryKey) {
  let secret = recoveryKey;
  const client = sdk.createClient({
    baseUrl: URLS[0],
    fetchFn: wander,
    logger,
    userId: session.user_id,
    deviceId: session.device_id,
    accessToken: session.access_token,
    verificationMethods: ["m.sas.v1"],
    cryptoCallbacks: {
      getSecretStorageKey: async ({ keys }) => (secret ? [Object.keys(keys)[0], secret] : null),
      cacheSecretStorageKey: (keyId, info, key) => {
        secret = key;
      },
    },
  });
  await client.initRustCrypto({ useIndexedDB: false });
  const options = { initialSyncLimit: 20, pollTimeout: 10_000 };
  if (process.env.HS_SLIDING) options.slidingSync = sliding(client);
  await client.startClient(options);
  await until("the first sync", () => client.isInitialSyncComplete());
  return client;
}

function sliding(client) {
  const wish = { timeline_limit: 20, required_state: [["*", "*"]] };
  const lists = new Map([["all", { ranges: [[0, 20]], ...wish }]]);
  return new SlidingSync(URLS[0], lists, wish, client, 10_000);
}

/** Answer what the server asks before it takes new keys: the password. */
export function provingPassword(client) {
  return async (makeRequest) => {
    try {
      return await makeRequest(null);
    } catch (error) {
      const { session } = error.data ?? {};
      if (error.httpStatus !== 401 || !session) throw error;
      const identifier = { type: "m.id.user", user: client.getUserId() };
      return await makeRequest({ type: "m.login.password", identifier, password: PASSWORD, session });
    }
  };
}

/** Run named steps in turn; say each that went well, and end the process. */
export async function run(steps) {
  for (const [name, step] of steps) {
    try {
      const begun = Date.now();
      await step();
      console.log(`ok ${name} (${Date.now() - begun} ms)`);
    } catch (error) {
      console.log(`failed ${name}: ${error?.stack ?? error}`);
      process.exit(1);
    }
  }
  process.exit(0);
}
