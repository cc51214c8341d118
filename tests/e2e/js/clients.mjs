// Unmodified matrix-js-sdk clients that send each request to a random process of the server.

import { setTimeout as pause } from "node:timers/promises";

import * as sdk from "matrix-js-sdk";
import { logger } from "matrix-js-sdk/lib/logger.js";
import { SlidingSync } from "matrix-js-sdk/lib/sliding-sync.js";

const URLS = JSON.parse(process.env.HS_URLS);
const LIMIT_MS = Number(process.env.HS_LIMIT_MS ?? 120_000);
const PASSWORD = "correct horse battery staple";

// HS_JS_LOG=debug logs what the clients do.
logger.setLevel(process.env.HS_JS_LOG ?? "silent");

// The pending requests of a stopped client fail.
process.on("unhandledRejection", (error) => {
  if (error instanceof sdk.ClientStoppedError) return;
  console.log(`failed outside of any step: ${error?.stack ?? error}`);
  process.exit(1);
});

const ORDERED = /\/sendToDevice\/|\/send\/m\.key\.verification\./;
let lastOrdered = Promise.resolve();

/** Send a request to a random process; only path and query of the URL are used. */
export async function fetchFromAny(resource, options) {
  const url = new URL(resource);
  const baseUrl = URLS[Math.floor(Math.random() * URLS.length)];
  const send = () => fetch(new URL(url.pathname + url.search, baseUrl), options);
  if (!ORDERED.test(url.pathname)) return send();
  // The messages of a verification must arrive in order, but the client does not wait for a
  // response before it sends the next one.
  return (lastOrdered = lastOrdered.then(send, send));
}

/** Return the result of a promise, or fail if it takes too long. */
export async function within(what, promise) {
  const late = pause(LIMIT_MS, undefined, { ref: false }).then(() => {
    throw new Error(`timed out: ${what}`);
  });
  return Promise.race([promise, late]);
}

/** Wait until `look` returns a true value and return it; `what` names it in the error. */
export async function until(what, look) {
  const deadline = Date.now() + LIMIT_MS;
  let last;
  while (Date.now() < deadline) {
    try {
      const result = await look();
      if (result) return result;
      last = result;
    } catch (error) {
      last = error;
    }
    await pause(50);
  }
  const result = last?.stack ?? JSON.stringify(last);
  throw new Error(`timed out waiting for ${what}; last result: ${result}`);
}

/** Return the arguments of the next event of an emitter for which `passes` is true. */
export function nextEvent(what, emitter, name, passes = () => true) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      emitter.off(name, listen);
      reject(new Error(`timed out waiting for ${what}`));
    }, LIMIT_MS);
    function listen(...args) {
      if (!passes(...args)) return;
      clearTimeout(timer);
      emitter.off(name, listen);
      resolve(args);
    }
    emitter.on(name, listen);
  });
}

/** Register a user; return a running client. */
export async function register(username) {
  const unregistered = sdk.createClient({ baseUrl: URLS[0], fetchFn: fetchFromAny, logger });
  const auth = { type: "m.login.dummy" };
  const session = await unregistered.registerRequest({ username, password: PASSWORD, auth });
  return start(session);
}

/** Log in on a new device that has at most the recovery key; return a running client. */
export async function logIn(user, recoveryKey) {
  const unregistered = sdk.createClient({ baseUrl: URLS[0], fetchFn: fetchFromAny, logger });
  const identifier = { type: "m.id.user", user };
  const request = { type: "m.login.password", identifier, password: PASSWORD };
  return start(await unregistered.loginRequest(request), recoveryKey);
}

async function start(session, recoveryKey) {
  let secret = recoveryKey;
  const client = sdk.createClient({
    baseUrl: URLS[0],
    fetchFn: fetchFromAny,
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
  const request = { timeline_limit: 20, required_state: [["*", "*"]] };
  const lists = new Map([["all", { ranges: [[0, 20]], ...request }]]);
  return new SlidingSync(URLS[0], lists, request, client, 10_000);
}

/** Return a function that repeats a request with the password if the server requires it. */
export function withPassword(client) {
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

/** Run named steps in turn, print their outcomes, and end the process. */
export async function run(steps) {
  for (const [name, step] of steps) {
    try {
      const startedAt = Date.now();
      await step();
      console.log(`ok ${name} (${Date.now() - startedAt} ms)`);
    } catch (error) {
      console.log(`failed ${name}: ${error?.stack ?? error}`);
      process.exit(1);
    }
  }
  process.exit(0);
}
