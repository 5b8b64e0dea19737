// The browser's client of /challenge: a module for pages, and the worker that it starts.
//
//   import { fetchAnswering } from "/challenge/client.js";
//   const response = await fetchAnswering("/v1/chat/completions", { method: "POST", body });
//
// The format is ALTCHA's, version 2, with PBKDF2; the search runs in Web Workers, on WebCrypto.

const IN_WORKER = typeof WorkerGlobalScope !== "undefined" && self instanceof WorkerGlobalScope;
const WORKERS = 4;
const MOST_COST = 1_000_000;
const answering = new Map(); // by key: what is being paid for, once for all requests refused meanwhile

/** fetch(), which on a 401 that asks for a proof of work gives one, and then asks again, once.
 *
 * The request's body must be one that can be sent twice: text, bytes, a form, not a stream.
 * `onSolving(true)` and `onSolving(false)` are called around the work, for a page that shows it.
 */
export async function fetchAnswering(input, init = {}, { onSolving = () => {}, ...options } = {}) {
  const again = input instanceof Request ? input.clone() : input;
  const response = await fetch(input, init);
  const place = await placeOf(response);
  if (place === null) return response;
  onSolving(true);
  try {
    const headers = authorization(again, init);
    const who = headers.Authorization ?? "";
    if (!answering.has(who)) {
      // The caller's key goes to its own origin alone.
      const answered = answerChallenge(place, { headers: sameOrigin(place) ? headers : {}, ...options });
      answering.set(who, answered.finally(() => answering.delete(who)));
    }
    await answering.get(who);
  } catch (error) {
    if (!(error instanceof ChallengeError)) throw error;
    return response;
  } finally {
    onSolving(false);
  }
  return fetch(again, init);
}

/** Get the challenge at a URL, solve it and submit the answer; seconds for which it lifts. */
export async function answerChallenge(url, { headers = {}, signal, workers } = {}) {
  const challenge = await json(await fetch(url, { headers, signal, cache: "no-store" }));
  const answer = encode({ challenge, solution: await solve(challenge, { signal, workers }) });
  const submitted = await fetch(url, {
    method: "POST",
    headers: { ...headers, "Content-Type": "application/json" },
    body: JSON.stringify({ answer }),
    signal,
  });
  return (await json(submitted)).expires_in;
}

/** The challenge could not be had, is not one that we solve, or its answer was refused. */
export class ChallengeError extends Error {}

/** The solution {counter, derivedKey} of an ALTCHA challenge, searched for by several workers. */
export function solve(challenge, { signal, workers = defaultWorkers() } = {}) {
  const { algorithm, cost } = challenge.parameters;
  if (algorithm !== "PBKDF2/SHA-256" || !(cost > 0 && cost <= MOST_COST)) {
    return Promise.reject(new ChallengeError(`cannot solve ${algorithm} at cost ${cost}`));
  }
  const running = [];
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
    for (let start = 0; start < workers; start++) {
      const worker = new Worker(import.meta.url, { type: "module" });
      running.push(worker);
      worker.onmessage = ({ data }) =>
        data.solution ? resolve(data.solution) : reject(new ChallengeError(data.error));
      worker.onerror = (event) => reject(new ChallengeError(event.message || "no worker"));
      worker.postMessage({ parameters: challenge.parameters, start, step: workers });
    }
  }).finally(() => running.forEach((worker) => worker.terminate()));
}

function defaultWorkers() {
  return Math.max(1, Math.min(WORKERS, navigator.hardwareConcurrency || 1));
}

async function placeOf(response) {
  if (response.status !== 401) return null;
  const document = await response.clone().json().catch(() => null);
  return typeof document?.challenge === "string" ? new URL(document.challenge, response.url).href : null;
}

async function json(response) {
  const document = await response.json().catch(() => ({}));
  if (!response.ok) throw new ChallengeError(document.detail || `HTTP ${response.status}`);
  return document;
}

function sameOrigin(url) {
  return new URL(url).origin === location.origin;
}

function authorization(input, init) {
  const given = new Headers(init.headers ?? (input instanceof Request ? input.headers : {}));
  const value = given.get("Authorization");
  return value === null ? {} : { Authorization: value };
}

function encode(document) {
  // JSON.stringify escapes what is not text; the rest becomes UTF-8 bytes, one character each.
  return btoa(String.fromCharCode(...new TextEncoder().encode(JSON.stringify(document))));
}

async function search({ parameters, start, step }) {
  const prefix = parameters.keyPrefix.toLowerCase();
  const nonce = bytes(parameters.nonce);
  const password = new Uint8Array(nonce.length + 4);
  password.set(nonce);
  const counterAt = new DataView(password.buffer, nonce.length);
  const how = { name: "PBKDF2", hash: "SHA-256", salt: bytes(parameters.salt), iterations: parameters.cost };
  for (let counter = start; counter <= 0xffffffff; counter += step) {
    counterAt.setUint32(0, counter);
    const key = await crypto.subtle.importKey("raw", password, "PBKDF2", false, ["deriveBits"]);
    const derived = hex(await crypto.subtle.deriveBits(how, key, parameters.keyLength * 8));
    if (derived.startsWith(prefix)) return { counter, derivedKey: derived };
  }
  throw new ChallengeError("the challenge has no solution");
}

function bytes(text) {
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

function hex(buffer) {
  return Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

if (IN_WORKER) {
  // A promise that is rejected here would raise no error at the page.
  self.onmessage = ({ data }) =>
    search(data).then(
      (solution) => self.postMessage({ solution }),
      (error) => self.postMessage({ error: String(error) }),
    );
}
