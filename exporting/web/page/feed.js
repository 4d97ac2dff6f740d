"use strict";
// The avatar's bytes. They come in scripts, because pages opened from the disk may not fetch: avatar.js holds what a
// first picture needs, details.js the rest.

const FEED = { parts: 0, scripts: ["avatar.js", "details.js"] };

FEED.stream = new ReadableStream({ start: (controller) => { FEED.controller = controller; } });

/** Bytes of a base64 string. */
function decodeBase64(text) {
  const binary = atob(text), bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; ++i) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/** Called by the scripts that hold the avatar: the bytes of part 0 or 1. A part without the one before is of no use. */
function receiveAvatar(part, text) {
  if (part !== FEED.parts) return;
  FEED.controller.enqueue(decodeBase64(text));
  FEED.parts += 1;
  if (FEED.parts === FEED.scripts.length) FEED.controller.close();
}

/** When all scripts of the page were asked for: whoever waits for one that is missing is told. */
window.addEventListener("load", () => {
  const missing = FEED.scripts[FEED.parts];
  if (missing) FEED.controller.error(new Error(`${missing}, which belongs beside this page, is missing.`));
});
