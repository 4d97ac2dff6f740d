import { readAvatar } from "./core/file.js";

/**
 * Fetch an avatar file. onCoarse(data) is called as soon as there is enough for a first picture, with the object that
 * the promise resolves to when all has come.
 */
export async function loadAvatar(url, { onCoarse, signal } = {}) {
  const answer = await fetch(url, { signal });
  if (!answer.ok) throw new Error(`${url}: ${answer.status} ${answer.statusText}`);
  return readAvatar(answer.body, onCoarse);
}

/** An avatar from bytes that are there already. */
export function parseAvatar(bytes) {
  return readAvatar(new Blob([bytes]).stream());
}
